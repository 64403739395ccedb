"""Endpoints side by side: what is dead, hangs, flaps or is capped holds up no other."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.webhooks.lanes import FIRST_WINDOW
from tests.polling import eventually
from tests.service import raw_receiver
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.test_webhook_deliveries import ask, of, states
from tests.service.webhook_endpoints import created, tell, webhooks
from tests.service.webhook_events import PARTNER


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


async def test_one_dead_endpoint_does_not_slow_another(service: Running, receiver: Receiver):
    await created(service, "http://127.0.0.1:9/dead", key="dead")
    made = await created(service, receiver.url)
    for number in range(1, 41):
        await tell(service, number)
    await eventually(lambda: states(service, made, ["delivered"] * 40))
    assert len({one.headers["webhook-id"] for one in receiver.received}) == len(receiver.received) == 40


async def test_one_that_hangs_holds_up_no_other(service: Running, receiver: Receiver):
    async with raw_receiver.receiving(raw_receiver.hang) as port:
        hanging = await created(service, f"http://127.0.0.1:{port}/", key="hangs")
        made = await created(service, receiver.url)
        for number in range(1, 41):
            await tell(service, number)
        await eventually(lambda: states(service, made, ["delivered"] * 40))
        # Its first window alone is under way.
        assert sum(one.attempts > 0 for one in await of(service, hanging)) == FIRST_WINDOW


async def test_one_that_flaps_gets_each_message_in_the_end(service: Running, receiver: Receiver, clock: MovableClock):
    for _ in range(6):
        receiver.answers.extend([web.Response(status=500), web.Response(status=204)])
    made = await created(service, receiver.url)
    for number in range(1, 13):
        await tell(service, number)

    async def all_arrived() -> bool:
        clock.ahead += timedelta(seconds=5)
        return await states(service, made, ["delivered"] * 12)

    await eventually(all_arrived)
    outcomes = [one.status for each in await of(service, made) for one in each.history]
    assert (outcomes.count(500), len(receiver.received)) == (6, 18)


async def test_a_cap_on_the_rate_is_kept_also_after_a_silence(
    service: Running, receiver: Receiver, clock: MovableClock
):
    made = await created(service, receiver.url, rate_per_s=5)
    await send_test(service, made, PARTNER)
    await eventually(lambda: states(service, made, ["delivered"]))
    clock.ahead += timedelta(seconds=6)
    for number in range(1, 12):
        await tell(service, number)
    await eventually(lambda: states(service, made, ["delivered"] * 12))
    begun = sorted(one.history[0].at for one in await of(service, made))
    assert all(late - early >= timedelta(seconds=1) for early, late in zip(begun, begun[5:], strict=False))


async def test_no_partner_holds_all_places_with_endpoints_that_hang(tmp_path: Path, receiver: Receiver):
    async with raw_receiver.receiving(raw_receiver.hang) as port:
        url = f"http://127.0.0.1:{port}/"
        async with webhooks(tmp_path, webhooks_concurrency=8) as service:
            hanging = [await created(service, url, key=str(number)) for number in range(12)]
            other = await created(service, receiver.url, partner="another-partner")
            for made in hanging:
                await send_test(service, made, PARTNER)
            async with asyncio.timeout(5):
                await send_test(service, other, "another-partner")
                await eventually(lambda: len(receiver.received) == 1)
            # Half of what the other left, and no more.
            tried = [one for made in hanging for one in await of(service, made) if one.attempts]
            assert len(tried) in (4, 5)


async def send_test(service: Running, made: dict[str, Any], partner: str) -> None:
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/tests"
    assert (await ask(service, "POST", path, {}, partner=partner)).status_code == 202
