"""Tickets for live streams: good once, for half a minute, for what their owner may, at every gateway."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.identities import Identity
from services.gateway.tickets import LIFETIME_S, Tickets
from services.gateway.uses import MemoryUses, RedisUses
from shared.clock import utc_now
from shared.errors import Problem
from shared.events.auth import GrantUpdated, SessionRevoked
from tests.service.gateway_edges import USER, Gateway, Stream, gateway
from tests.service.live_messages import Webhooks, publish
from tests.service.live_sockets import Socket


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        one.services.handlers["webhooks"] = Webhooks()
        yield one


async def issued(door: Gateway, token: str = "") -> str:
    answer = await door.ask("POST", "/v1/live/tickets", token=token)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["ticket"]


def by(door: Gateway, ticket: str, kind: type[Stream] | type[Socket] = Stream, **headers: str) -> Stream | Socket:
    return kind(door.running.app, headers, f"after=0&ticket={ticket}".encode())


@pytest.mark.parametrize("kind", [Stream, Socket])
async def test_a_ticket_opens_one_stream(door: Gateway, kind: type[Stream] | type[Socket]) -> None:
    ticket = await issued(door)
    one = by(door, ticket, kind)
    assert await one.open() == 200
    await publish(door, 1)
    assert [number for number, _, _ in await one.events(1)] == [1]
    for again in (Stream, Socket):
        refused = by(door, ticket, again)
        assert await refused.open() == 401
        body = await refused.body()
        assert "invalid-token" in body
        assert ticket not in body
    await one.close()


async def test_of_fifty_uses_at_once_one_counts(door: Gateway) -> None:
    ticket = await issued(door)
    streams = [by(door, ticket) for _ in range(50)]
    statuses = await asyncio.gather(*(one.open() for one in streams))
    assert sorted(statuses) == [200] + [401] * 49
    for one in streams:
        await one.close()


async def test_a_ticket_says_nothing_of_its_owner_and_cannot_be_changed(door: Gateway, tmp_path: Path) -> None:
    ticket = await issued(door)
    content = base64.urlsafe_b64decode(ticket[5:] + "=" * (-(len(ticket) - 5) % 4))
    assert USER.encode() not in content
    changed = bytearray(content)
    for place in (0, 12, len(content) - 1):
        changed[place] ^= 1
        bad = "mmlt_" + base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert await by(door, bad).open() == 401
        changed[place] ^= 1
    for bad in ("x", "mmlt_", "mmlt_a", "mmlt_" + "A" * 3000, door.token(), "%20"):
        assert await by(door, bad).open() == 401
    async with gateway(tmp_path / "other") as other:
        assert await by(other, ticket).open() == 401
    assert await by(door, ticket).open() == 200


async def test_a_ticket_is_good_for_half_a_minute(door: Gateway) -> None:
    tickets = [await issued(door) for _ in range(2)]
    door.clock.ahead = timedelta(seconds=LIFETIME_S - 5)
    in_time = by(door, tickets[0])
    assert await in_time.open() == 200
    door.clock.ahead = timedelta(seconds=LIFETIME_S + 1)
    assert await by(door, tickets[1]).open() == 401
    await in_time.close()


async def test_its_stream_ends_with_the_token_it_is_from(door: Gateway) -> None:
    one = by(door, await issued(door), Stream)
    assert isinstance(one, Stream)
    assert await one.open() == 200
    assert await one.block() == "retry: 1000"
    door.clock.ahead = timedelta(minutes=16)
    door.running.app.state.live.fed_from_here()
    assert await one.reason() == "token-expired"


async def test_a_ticket_of_an_ended_session_is_refused(door: Gateway) -> None:
    before, after = [await issued(door, door.token(session_id="sid_a")) for _ in range(2)]
    one = by(door, before)
    assert await one.open() == 200
    now = door.clock()
    ended = SessionRevoked(
        event_id="e",
        occurred_at=now,
        session_id="sid_a",
        user_id=USER,
        reason="signed-out",
        expires_at=now + timedelta(minutes=16),
    )
    await door.running.app.state.revocations.take("sid_a", ended)
    assert await by(door, after).open() == 401
    await one.close()


async def test_a_partners_ticket_goes_as_far_as_its_grant(door: Gateway) -> None:
    grant = GrantUpdated(
        event_id="e",
        occurred_at=utc_now(),
        grant_id="g1",
        user_id=USER,
        partner_id="p1",
        scopes=("live:read", "days:read"),
        revision=1,
    )
    await door.running.app.state.grants.take("g1", grant)
    token = door.token(client_id="p1", session_id="sid_p", grant_revision=1)
    tickets = [await issued(door, token) for _ in range(2)]
    one = by(door, tickets[0])
    assert await one.open() == 200
    await publish(door, 1, type="entry.created")
    await publish(door, 2)
    assert [number for number, _, _ in await one.events(1)] == [2]
    await one.close()
    revoked = grant.model_copy(update={"revision": 2, "revoked_at": utc_now()})
    await door.running.app.state.grants.take("g1", revoked)
    assert await by(door, tickets[1]).open() == 404


async def test_a_ticket_is_for_live_streams_alone(door: Gateway) -> None:
    ticket = await issued(door)
    for path in ("/v1/whoami", "/v1/live/tickets"):
        method = "POST" if "tickets" in path else "GET"
        assert (await door.ask(method, f"{path}?ticket={ticket}", token=None)).status_code == 401
        headers = {"Authorization": f"Ticket {ticket}"}
        assert (await door.ask(method, path, token=None, headers=headers)).status_code == 401
    one = by(door, ticket)
    assert await one.open() == 200
    await one.close()


async def test_who_may_have_a_ticket(door: Gateway) -> None:
    assert (await door.ask("POST", "/v1/live/tickets", token=None)).status_code == 401
    assert (await door.ask("POST", "/v1/live/tickets", token=door.token(scopes=("days:read",)))).status_code == 403
    assert (await door.ask("POST", "/v1/live/tickets?user=usr_2")).status_code == 404


@pytest.mark.parametrize("query", ["ticket=a&ticket=b", "ticket=", "ticket=a&%74icket=b", "ticket=%ff"])
async def test_a_ticket_is_given_once(door: Gateway, query: str) -> None:
    assert await Stream(door.running.app, {}, query.encode()).open() == 422


async def test_a_ticket_and_a_token_are_one_too_many(door: Gateway) -> None:
    ticket = await issued(door)
    assert await by(door, ticket, Authorization=f"Bearer {door.token()}").open() == 422
    one = by(door, ticket)
    assert await one.open() == 200
    await one.close()


async def test_guessed_tickets_count_as_failures_of_their_network(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_failed="3/60") as door:
        assert [await by(door, "mmlt_guess").open() for _ in range(5)] == [401] * 3 + [429] * 2


async def test_without_redis_a_ticket_counts_where_it_was_issued(tmp_path: Path) -> None:
    async with gateway(tmp_path) as here, gateway(tmp_path) as there:
        for door in (here, there):
            door.services.handlers["webhooks"] = Webhooks()
        ticket = await issued(here)
        assert await by(there, ticket).open() == 401
        one = by(here, ticket)
        assert await one.open() == 200
        await one.close()


class SharedUses(MemoryUses):
    """As several gateways have them by their Redis."""

    shared = True


def still(identity: Identity) -> Identity:
    return identity


async def test_where_uses_are_shared_a_ticket_counts_once_at_all_gateways(door: Gateway) -> None:
    uses = SharedUses()
    here, there = (Tickets(b"s" * 32, uses, still) for _ in range(2))
    elsewhere = Tickets(b"t" * 32, uses, still)
    door.running.app.state.tickets._cipher, door.running.app.state.tickets._home = here._cipher, here._home
    ticket = (await issued(door)).encode()
    with pytest.raises(Problem, match="not good"):
        await elsewhere.used(ticket)
    assert (await there.used(ticket)).caller.user_id == USER
    for gateway_of in (here, there):
        with pytest.raises(Problem, match="not good"):
            await gateway_of.used(ticket)


async def test_while_redis_is_silent_no_ticket_is_used() -> None:
    uses = RedisUses("redis://127.0.0.1:9/0")
    with pytest.raises(Problem) as silent:
        await uses.first("id", 0, 30)
    assert (silent.value.status, silent.value.headers["Retry-After"]) == (503, "2")
    await uses.close()


async def test_uses_are_forgotten_when_nobody_could_use_them_again() -> None:
    now = [0.0]
    uses = MemoryUses(lambda: now[0])
    assert [await uses.first(id, 0, 30) for id in ("a", "b", "a")] == [True, True, False]
    now[0] = 31.0
    assert await uses.first("c", 0, 30)
    assert len(uses) == 1
