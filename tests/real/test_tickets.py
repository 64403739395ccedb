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

    async def good() -> bool:
        return await opened(two, ticket) == 200

    assert await eventually(good)
    assert await opened(one, ticket) == 401
