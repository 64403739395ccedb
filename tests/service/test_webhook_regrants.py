"""A grant that was taken back and given anew: nothing of before it goes out, be it what waits or what comes again."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.webhooks.records import DELIVERIES
from shared import topics
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.test_webhook_deliveries import broken, of, sequences, states
from tests.service.webhook_endpoints import created, database, tell, tried, webhooks
from tests.service.webhook_events import day, grant, insight


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


async def granted(service: Running, clock: MovableClock, revision: int, **changed: Any) -> None:
    clock.ahead += timedelta(seconds=1)
    await service.send(topics.GRANTS, grant(revision, scopes=("insights:read",), occurred_at=clock(), **changed))
    clock.ahead += timedelta(seconds=1)


@pytest.mark.parametrize("made_by", ["this version", "the version before"])
@pytest.mark.parametrize("ordered", [False, True])
async def test_what_waited_when_the_grant_was_taken_back_is_cancelled_under_the_next_one(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path, ordered: bool, made_by: str
):
    receiver.answers.extend(broken(1))
    made = await created(service, receiver.url, ordered=ordered)
    await tell(service, 1)
    waiting = await tried(service, made["endpoint_id"])
    if made_by == "the version before":
        async with database(tmp_path) as documents:
            await documents.put(DELIVERIES, replace(waiting, stored_at=None))
    await granted(service, clock, 2, revoked=True)
    await granted(service, clock, 3, since_revision=3)
    await service.send(topics.INSIGHTS, insight(2))
    clock.ahead += timedelta(minutes=1)
    await eventually(lambda: states(service, made, ["cancelled", "delivered"]))
    cancelled, _ = await of(service, made)
    assert (cancelled.body, cancelled.last_error) == (None, "the user's grant does not cover this any more")
    assert sequences(receiver) == [1, 2]


async def test_what_waits_goes_out_where_the_grant_only_grew(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.extend(broken(1))
    made = await created(service, receiver.url)
    await tell(service, 1)
    await tried(service, made["endpoint_id"])
    clock.ahead += timedelta(seconds=1)
    await service.send(topics.GRANTS, grant(2, scopes=("insights:read", "days:read"), occurred_at=clock()))
    clock.ahead += timedelta(minutes=1)
    assert await eventually(lambda: states(service, made, ["delivered"]))
    assert sequences(receiver) == [1, 1]


async def test_an_event_of_before_the_grant_that_comes_again_is_told_nobody(
    service: Running, receiver: Receiver, clock: MovableClock
):
    made = await created(service, receiver.url)
    ordered = await created(service, receiver.url, key="ordered", ordered=True)
    for again in range(2):
        await service.send(topics.INSIGHTS, insight(1))
        await service.send(topics.DAYS, day(1))
        if not again:
            await granted(service, clock, 1)
    await service.send(topics.INSIGHTS, insight(2))
    await eventually(lambda: len(receiver.received) == 2)
    for endpoint in (made, ordered):
        assert [one.sequence for one in await of(service, endpoint)] == [3]
