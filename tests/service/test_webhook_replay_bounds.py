"""What replays cannot be used for: to keep what is old, to send a message twice, to get what was not asked for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.webhooks.pruning import Pruner
from services.webhooks.records import LONGEST, MESSAGES, REPLAYS, delivery_of
from services.webhooks.replays import Replays
from services.webhooks.store import DELIVERIES, Store
from shared import topics
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.test_webhook_deliveries import ask, broken, enabled_again, of, states
from tests.service.test_webhook_replays import an_hour_ago, done, replayed, told_all
from tests.service.webhook_endpoints import created, database, tell, webhooks
from tests.service.webhook_events import USER, day, grant, insight


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


async def test_a_paused_replay_ends_with_its_time(service: Running, receiver: Receiver, clock: MovableClock):
    made = await told_all(service, receiver, 3)
    asked = await replayed(service, made, since=an_hour_ago(), rate_per_s=1)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/replays/{asked.json()['replay_id']}"
    assert (await ask(service, "PATCH", path, {"state": "paused"})).json()["state"] == "paused"
    clock.ahead += LONGEST - timedelta(minutes=1)
    assert await done(service, asked) == {}
    clock.ahead += timedelta(minutes=2)
    assert (await eventually(lambda: done(service, asked)))["state"] == "failed"


async def test_no_replay_keeps_messages_for_ever(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    made = await told_all(service, receiver, 3)
    asked = await replayed(service, made, since="1970-01-01T00:00:00Z", rate_per_s=1)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/replays/{asked.json()['replay_id']}"
    await ask(service, "PATCH", path, {"state": "paused"})
    async with database(tmp_path) as documents:
        paused = await documents.get(REPLAYS, asked.json()["replay_id"])
        assert paused is not None
        # One after the other, so that there is always one.
        await documents.put(REPLAYS, replace(paused, ends_at=paused.ends_at + timedelta(days=90), due_at=None))
        pruner = Pruner(documents, Store(documents, clock), clock, timedelta(days=30))
        clock.ahead += timedelta(days=31)
        await pruner.prune()
        assert len((await documents.find(MESSAGES, "stored")).documents) == 3
        clock.ahead += timedelta(days=3)
        await pruner.prune()
        assert [one.sequence for one in (await documents.find(MESSAGES, "stored")).documents] == [3]


async def test_what_failed_several_times_over_is_sent_again_once(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    made = await told_all(service, receiver, 1)
    async with database(tmp_path) as documents:
        store = Store(documents, clock)
        endpoint = await store.endpoint(made["endpoint_id"])
        assert endpoint is not None
        [message] = (await documents.find(MESSAGES, "stored")).documents
        [first] = await of(service, made)
        await documents.put(DELIVERIES, replace(first, state="failed"))
        copy = delivery_of(message, endpoint, clock(), "an earlier replay")
        await documents.insert(DELIVERIES, replace(copy, state="failed", due_at=None, body=None))
    asked = await replayed(service, made, failed_since=an_hour_ago())
    assert (await eventually(lambda: done(service, asked)))["made"] == 1
    await eventually(lambda: states(service, made, ["delivered", "failed"]))
    # That copy is still one that failed, but its message has arrived.
    other = await replayed(service, made, failed_since=an_hour_ago(), key="other")
    assert (await eventually(lambda: done(service, other)))["made"] == 0
    assert len(receiver.received) == 2


async def failed_again(service: Running, receiver: Receiver, made: dict[str, Any], key: str) -> None:
    """The first message that was received, once more: the receiver says 410, its partner enables the endpoint anew."""
    receiver.answers.extend(broken(1, status=410))
    asked = await replayed(service, made, message_id=receiver.received[0].headers["webhook-id"], key=key)
    await eventually(lambda: done(service, asked))
    await enabled_again(service, made)


async def test_what_has_arrived_is_not_sent_again_because_copies_of_it_failed(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 1)
    for key in ("one", "two"):
        await failed_again(service, receiver, made, key)
    await eventually(lambda: states(service, made, ["delivered", "failed", "failed"]))
    asked = await replayed(service, made, failed_since=an_hour_ago())
    assert (await eventually(lambda: done(service, asked)))["made"] == 0
    assert len(receiver.received) == 3


async def test_copies_that_failed_go_out_once_a_replay_until_one_arrives(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    """Their first delivery failed too, before the time that is asked for."""
    made = await told_all(service, receiver, 1)
    async with database(tmp_path) as documents:
        [first] = await of(service, made)
        await documents.put(DELIVERIES, replace(first, state="failed"))
    clock.ahead += timedelta(minutes=2)
    since = (clock() - timedelta(minutes=1)).isoformat()
    for key in ("one", "two"):
        await failed_again(service, receiver, made, key)
    await eventually(lambda: states(service, made, ["failed"] * 3))
    for key, count in (("failed", 1), ("again", 0)):
        asked = await replayed(service, made, failed_since=since, key=key)
        assert (await eventually(lambda asked=asked: done(service, asked)))["made"] == count
        await eventually(lambda: states(service, made, ["failed", "delivered", "failed"]))
    assert len(receiver.received) == 4
    assert receiver.received[-1].headers["webhook-id"] == receiver.received[0].headers["webhook-id"]


async def test_a_time_is_sent_again_as_far_as_the_endpoint_asks_for_it(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 3)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}"
    for key, narrowed in (("type", {"event_types": ["day.updated"]}), ("user", {"user_ids": ["somebody-else"]})):
        assert (await ask(service, "PATCH", path, narrowed)).status_code == 200
        asked = await replayed(service, made, since=an_hour_ago(), key=key)
        assert (await eventually(lambda asked=asked: done(service, asked)))["made"] == 0
        assert (await ask(service, "PATCH", path, {"event_types": [], "user_ids": []})).status_code == 200
    assert len(receiver.received) == 3


async def test_ended_replays_hide_no_open_ones(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    made = await told_all(service, receiver, 1)
    asked = await replayed(service, made, since=an_hour_ago())
    await eventually(lambda: done(service, asked))
    async with database(tmp_path) as documents:
        ended = await documents.get(REPLAYS, asked.json()["replay_id"])
        assert ended is not None
        open_ones = [
            replace(ended, id=f"open-{number}", version=0, state="paused", due_at=ended.ends_at) for number in range(10)
        ]
        later = replace(ended, version=0, created_at=ended.created_at + timedelta(minutes=1))
        ended_ones = [replace(later, id=f"ended-{number}") for number in range(100)]
        await asyncio.gather(*(documents.insert(REPLAYS, one) for one in (*open_ones, *ended_ones)))
        assert not any(
            one.open for one in await Replays(documents, Store(documents, clock), clock).of(ended.endpoint_id)
        )
    assert (await replayed(service, made, key="one more", since=an_hour_ago())).status_code == 409


async def test_replays_that_are_asked_for_at_once_are_ten_at_most(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    await ask(service, "PATCH", f"/v1/webhook-endpoints/{made['endpoint_id']}", {"state": "paused"})
    for number in range(1, 11):
        await tell(service, number)
    since = an_hour_ago()

    async def at_once(*keys: str) -> list[Any]:
        return await asyncio.gather(*(replayed(service, made, key=key, since=since, rate_per_s=1) for key in keys))

    await at_once(*map(str, range(9)))
    repeats = await at_once(*["the last"] * 5)
    assert {(one.status_code, one.json()["replay_id"]) for one in repeats} == {(202, repeats[0].json()["replay_id"])}
    asked = await at_once(*map(str, range(20)))
    assert [one.status_code for one in asked] == [202] * 9 + [409] * 11


async def test_what_was_stored_before_the_grant_is_not_sent_again(
    service: Running, receiver: Receiver, clock: MovableClock
):
    """Each scope counts from when it was granted, without a break, whatever else of the grant changed since."""
    made = await created(service, receiver.url)

    async def granted(revision: int, *scopes: str, **changed: Any) -> None:
        clock.ahead += timedelta(minutes=1)
        await service.send(topics.GRANTS, grant(revision, scopes=scopes, occurred_at=clock(), **changed))
        clock.ahead += timedelta(minutes=1)

    async def sent_again(key: str) -> int:
        asked = await replayed(service, made, since=an_hour_ago(), key=key)
        return (await eventually(lambda: done(service, asked)))["made"]

    await service.send(topics.INSIGHTS, insight(1))
    await granted(1, "insights:read")
    await service.send(topics.INSIGHTS, insight(2))
    await service.send(topics.DAYS, day(1))
    await granted(2, "insights:read", "days:read")
    await service.send(topics.DAYS, day(2))
    await eventually(lambda: len(receiver.received) == 2)
    assert await sent_again("all") == 2
    await eventually(lambda: len(receiver.received) == 4)
    assert {json.loads(one.body)["data"]["sequence"] for one in receiver.received} == {2, 4}
    first = (await service.get("/v1/events?limit=1", user_id=USER)).json()["events"][0]
    alone = await replayed(service, made, message_id=first["id"], key="alone")
    assert alone.status_code == 404
    await granted(3, "insights:read", "days:read", revoked=True)
    await granted(4, "insights:read", "days:read", since_revision=4)
    assert await sent_again("anew") == 0
    [delivery, *_] = await of(service, made)
    refused = await ask(service, "POST", f"/v1/deliveries/{delivery.id}/retries")
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "not-repeatable")


async def test_a_grant_whose_end_was_not_heard_of_begins_anew(
    service: Running, receiver: Receiver, clock: MovableClock
):
    made = await told_all(service, receiver, 1)
    clock.ahead += timedelta(minutes=1)
    await service.send(topics.GRANTS, grant(3, since_revision=3, occurred_at=clock()))
    asked = await replayed(service, made, since=an_hour_ago())
    assert (await eventually(lambda: done(service, asked)))["made"] == 0
