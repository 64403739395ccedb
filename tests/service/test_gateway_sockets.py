"""Live messages over WebSockets: the same feed, what a client may do there, and why it is closed."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway import reading, sockets
from services.gateway.feeds import MAX_READERS_PER_USER
from shared.events.auth import SessionRevoked
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, gateway
from tests.service.live_messages import Webhooks, publish
from tests.service.live_sockets import Socket

ORIGIN = "https://app.example.org"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path, gateway_live_origins=ORIGIN) as one:
        yield one


@pytest.fixture
def webhooks(door: Gateway) -> Webhooks:
    one = Webhooks()
    door.services.handlers["webhooks"] = one
    return one


def socket(door: Gateway, query: str = "", token: str | None = None, **headers: str) -> Socket:
    return Socket(door.running.app, {"Authorization": f"Bearer {token or door.token()}", **headers}, query.encode())


async def opened(door: Gateway, query: str = "", token: str | None = None, **headers: str) -> Socket:
    one = socket(door, query, token, **headers)
    assert await one.open() == 200
    return one


async def test_a_frame_is_one_message_and_its_number(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = [1, 2, 3]
    one = await opened(door)
    await eventually(lambda: webhooks.asked)
    await publish(door, 4)
    assert await one.frame() == {
        "id": 4,
        "type": "day.updated",
        "timestamp": "2026-03-01T08:00:00.000Z",
        "data": {"sequence": 4},
    }
    await one.close()


async def test_it_goes_on_after_a_message_without_gap_or_repeat(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored = list(range(1, 451))
    one = await opened(door, "after=2")
    assert [number for number, _, _ in await one.events(448)] == list(range(3, 451))
    await publish(door, 449, 452, 451, 450)
    webhooks.stored += [451, 452]
    assert [number for number, _, _ in await one.events(2)] == [451, 452]
    await one.close()


async def test_it_shows_the_types_asked_for_and_tells_how_far_it_came(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.01)
    webhooks.types, webhooks.stored = ("day.updated", "photo.read"), [1, 2, 3]
    one = await opened(door, "types=day.updated&after=0")
    assert [number for number, _, _ in await one.events(1)] == [2]
    assert await one.frame() == {"id": 3, "type": "stream.passed", "data": {}}
    await one.close()


async def test_what_is_not_kept_any_more_is_told(door: Gateway, webhooks: Webhooks) -> None:
    webhooks.stored, webhooks.first = [6], 6
    one = await opened(door, "after=2")
    gap = await one.frame()
    assert (gap["id"], gap["type"], gap["data"]["first"], gap["data"]["last"]) == (5, "stream.gap", 3, 5)
    assert (await one.events(1))[0][0] == 6
    await one.close()


async def test_it_says_why_it_ends(door: Gateway, webhooks: Webhooks) -> None:
    one, other, third = [await opened(door, "after=0", door.token(session_id=sid)) for sid in ("a", "b", "c")]
    await eventually(lambda: len(webhooks.asked) == 3)
    ended = SessionRevoked(
        event_id="e",
        occurred_at=door.clock(),
        session_id="a",
        user_id=USER,
        reason="signed-out",
        expires_at=door.clock() + timedelta(minutes=16),
    )
    await door.running.app.state.revocations.take("a", ended)
    assert await one.reason() == ("session-ended", 4002)
    for _ in range(sockets.MOST_MESSAGES):
        await other.say("hello")
    assert await other.reason() == ("too-many-messages", 1008)
    door.clock.ahead = timedelta(minutes=16)
    await publish(door, 1)
    assert await third.reason() == ("token-expired", 4001)
    assert door.running.app.state.live._windows == {}


async def test_it_ends_with_the_process(door: Gateway, webhooks: Webhooks) -> None:
    one = await opened(door, "after=0")
    door.running.app.state.stopping.set()
    assert await one.reason() == ("server-closing", 1001)


async def test_refusals_are_problems_before_any_handshake(door: Gateway, webhooks: Webhooks) -> None:
    cases = {
        401: socket(door, token="junk"),
        403: socket(door, token=door.token(scopes=("days:read",))),
        404: socket(door, "user=usr_2"),
        422: socket(door, "after=x"),
    }
    for status, one in cases.items():
        assert await one.open() == status
        assert one.headers["content-type"] == "application/problem+json"
        assert f'"status":{status}' in await one.body()
    for origin in ("https://evil.example", "null"):
        bad = socket(door, Origin=origin)
        assert await bad.open() == 403
        assert "origin-not-allowed" in await bad.body()
    good = await opened(door, Origin=ORIGIN)
    await good.close()


async def test_streams_and_sockets_are_counted_together(door: Gateway, webhooks: Webhooks) -> None:
    readers = [await opened(door, "after=0") for _ in range(MAX_READERS_PER_USER)]
    await eventually(lambda: len(webhooks.asked) == MAX_READERS_PER_USER)
    assert await socket(door).open() == 429
    assert (await door.ask("GET", "/v1/live")).status_code == 429
    for reader in readers:
        await reader.close()
    assert door.running.app.state.live._windows == {}


async def test_without_an_upgrade_it_says_what_to_do(door: Gateway) -> None:
    answer = await door.ask("GET", "/v1/live/ws")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert answer.json()["type"].endswith("/upgrade-required")
    assert (await door.ask("GET", "/v1/live/ws", token=None)).status_code == 401
