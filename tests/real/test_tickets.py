"""Tickets for live streams at two gateways that share a Redis: each counts once, and none while it is silent."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.polling import eventually
from tests.real.test_rates import Server, pytestmark, server
from tests.service.gateway_edges import Gateway, Stream, gateway
from tests.service.live_messages import Webhooks

__all__ = ["pytestmark", "server"]


@pytest.fixture
async def doors(server: Server, tmp_path: Path) -> AsyncGenerator[tuple[Gateway, Gateway]]:
    folder = tmp_path / "gateways"
    folder.mkdir()
    async with (
        gateway(folder, gateway_rates_url=server.url) as one,
        gateway(folder, gateway_rates_url=server.url) as two,
    ):
        for door in (one, two):
            door.services.handlers["webhooks"] = Webhooks()
        await eventually(lambda: takes(one))
        yield one, two


async def issued(door: Gateway) -> bytes:
    answer = await door.ask("POST", "/v1/live/tickets")
    assert answer.status_code == 201
    return f"after=0&ticket={answer.json()['ticket']}".encode()


async def opened(door: Gateway, query: bytes) -> int:
    stream = Stream(door.running.app, {}, query)
    status = await stream.open()
    await stream.close()
    return status


async def takes(door: Gateway) -> bool:
    """Whether Redis is older than a ticket made just now: it says so in whole seconds."""
    return await opened(door, await issued(door)) == 200


async def test_a_ticket_counts_once_at_whichever_gateway(doors: tuple[Gateway, Gateway]) -> None:
    one, two = doors
    ticket = await issued(one)
    assert [await opened(door, ticket) for door in (two, one, two)] == [200, 401, 401]
    ticket = await issued(two)
    statuses = await asyncio.gather(*(opened(doors[number % 2], ticket) for number in range(50)))
    assert sorted(statuses) == [200] + [401] * 49


async def test_while_redis_is_away_no_ticket_counts_and_tokens_do(
    doors: tuple[Gateway, Gateway], server: Server
) -> None:
    one, two = doors
    ticket = await issued(one)
    server.kill()
    assert [await opened(door, ticket) for door in doors] == [503, 503]
    with_token = Stream(one.running.app, {"Authorization": f"Bearer {one.token()}"}, b"after=0")
    assert await with_token.open() == 200
    await with_token.close()
    await server.start()
    assert await eventually(lambda: takes(two))
    # Nobody knows any more whether this one was used.
    assert await opened(one, ticket) == 503


async def test_no_ticket_counts_again_because_redis_has_forgotten(
    doors: tuple[Gateway, Gateway], server: Server
) -> None:
    one, two = doors
    ticket = await issued(one)
    assert await opened(one, ticket) == 200
    server.kill()
    await server.start()
    await eventually(lambda: takes(two))
    assert await opened(two, ticket) == 503
