"""Live streams of partners: what they show, and that they end with what they are read by."""

from datetime import timedelta
from typing import Any

import pytest

from services.gateway.feeds import MAX_READERS_PER_USER
from services.gateway.permissions import SCOPE_OF
from services.gateway.proxy import Answer
from services.webhooks.public import TYPES
from tests.service.gateway_edges import USER, Gateway, Stream, answer
from tests.service.live_messages import publish
from tests.service.partner_calls import AT, KEY, for_user, granted, known


def stream(door: Gateway, token: str, query: bytes = b"") -> Stream:
    return Stream(door.running.app, {"Authorization": f"Bearer {token}"}, query)


async def opened(door: Gateway, *, key: bool) -> Stream:
    one = stream(door, KEY, f"user={USER}".encode()) if key else stream(door, for_user(door))
    assert await one.open() == 200
    assert await one.block() == "retry: 1000"
    return one


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("end", ["revoked", "deleted", "suspended", "narrowed"])
async def test_a_partners_stream_ends_with_what_it_reads_by_and_says_so(door: Gateway, key: bool, end: str) -> None:
    await granted(door)
    theirs, own = await opened(door, key=key), stream(door, door.token())
    assert await own.open() == 200
    assert await own.block() == "retry: 1000"
    if end == "revoked":
        await granted(door, revision=2, revoked_at=AT)
    elif end == "deleted":
        await door.running.app.state.grants.take("g1", None)
    elif end == "suspended":
        await known(door, revision=2, state="suspended")
    else:
        await granted(door, revision=2, scopes=("days:read",))
    last = await theirs.block() or ""
    assert last.startswith("event: stream.ended\ndata: ")
    assert '"reason":"not-granted"' in last
    assert await theirs.block() == ": end"
    assert await theirs.block() is None
    assert not own.ended
    await own.close()


async def test_a_stream_shows_what_its_scopes_cover(door: Gateway) -> None:
    await granted(door, scopes=("live:read", "insights:read", "photos:read"))
    theirs = await opened(door, key=True)
    sent = ("day.updated", "insight.created", "entry.created", "photo.read", "day.updated", "insight.created")
    for number, message_type in enumerate(sent, 1):
        await publish(door, number, type=message_type)
    shown = [one[:2] for one in await theirs.events(3)]
    assert shown == [(2, "insight.created"), (4, "photo.read"), (6, "insight.created")]
    await granted(door, revision=2, scopes=("live:read", "photos:read", "days:read"))
    for number, message_type in enumerate(("insight.created", "photo.rejected"), 7):
        await publish(door, number, type=message_type)
    assert [one[:2] for one in await theirs.events(1)] == [(8, "photo.rejected")]
    await theirs.close()


async def test_stored_messages_are_cut_to_the_scopes_as_well(door: Gateway) -> None:
    await granted(door, scopes=("live:read", "diary:read"))
    types = ("day.updated", "entry.created", "unheard.of")

    def stored(method: str, target: str, headers: Any, body: bytes) -> Answer:
        events = [
            {"sequence": number, "type": kind, "timestamp": "2026-03-01T08:00:00.000Z", "data": {}}
            for number, kind in enumerate(types, 1)
        ]
        return answer({"events": events, "has_more": False, "last_sequence": 3})

    door.services.handlers["webhooks"] = stored
    resumed = Stream(
        door.running.app, {"Authorization": f"Bearer {KEY}", "Last-Event-ID": "0"}, f"user={USER}".encode()
    )
    assert await resumed.open() == 200
    await publish(door, 4, type="entry.deleted")
    assert [one[:2] for one in await resumed.events(2)] == [(2, "entry.created"), (4, "entry.deleted")]
    await resumed.close()


async def test_a_stream_by_a_key_is_opened_anew_after_a_while(door: Gateway) -> None:
    await granted(door)
    theirs = await opened(door, key=True)
    door.clock.ahead = timedelta(minutes=16)
    door.running.app.state.live.fed_from_here()
    assert await theirs.reason() == "token-expired"


async def test_a_partners_streams_leave_the_users_own_apps_theirs(door: Gateway) -> None:
    await granted(door)
    theirs = [await opened(door, key=True) for _ in range(MAX_READERS_PER_USER)]
    assert await stream(door, for_user(door)).open() == 429
    own = stream(door, door.token())
    assert await own.open() == 200
    for one in (own, *theirs):
        await one.close()
    assert not door.running.app.state.live.connected(USER)


async def test_a_stream_without_a_grant_is_not_opened(door: Gateway) -> None:
    await granted(door, scopes=("days:read",))
    assert await stream(door, KEY, f"user={USER}".encode()).open() == 404
    assert await stream(door, KEY, b"user=usr_2").open() == 404
    assert await stream(door, KEY).open() == 422


def test_every_message_has_the_scope_that_deliveries_go_by() -> None:
    assert {name: one.scope for name, one in TYPES.items()} == SCOPE_OF
