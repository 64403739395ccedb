"""Replays: messages sent once more, by partners' wish, at their pace, each at most once a replay."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.webhooks.records import MESSAGES, REPLAYS, Replay
from services.webhooks.replays import Replays
from services.webhooks.store import Store
from shared import topics
from shared.clock import utc_now
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.test_webhook_deliveries import ask, broken, enabled_again, revoked, sequences, states
from tests.service.webhook_endpoints import created, database, tell, webhooks
from tests.service.webhook_events import PARTNER, USER


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


async def replayed(
    service: Running, endpoint: dict[str, Any], *, key: str = "replay", partner: str = PARTNER, **wanted: Any
):
    path = f"/v1/webhook-endpoints/{endpoint['endpoint_id']}/replays"
    return await ask(service, "POST", path, wanted, key=key, partner=partner)


async def done(service: Running, answer: Any) -> dict[str, Any]:
    """The replay once it has ended; nothing before."""
    view = answer.json()
    path = f"/v1/webhook-endpoints/{view['endpoint_id']}/replays/{view['replay_id']}"
    shown = (await ask(service, "GET", path)).json()
    return shown if shown["state"] not in ("running", "paused") else {}


def an_hour_ago() -> str:
    return (utc_now() - timedelta(hours=1)).isoformat()


async def told_all(service: Running, receiver: Receiver, count: int, **fields: Any) -> dict[str, Any]:
    """An endpoint to which so many messages have gone."""
    made = await created(service, receiver.url, **fields)
    for number in range(1, count + 1):
        await tell(service, number)
    await eventually(lambda: states(service, made, ["delivered"] * count))
    return made


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_time_is_sent_again_once_with_the_same_ids_and_marked(
    service: Running, receiver: Receiver, ordered: bool
):
    made = await told_all(service, receiver, 5, ordered=ordered)
    first = [one.headers["webhook-id"] for one in receiver.received]
    since = an_hour_ago()
    asked = await replayed(service, made, since=since, rate_per_s=100)
    repeated = await replayed(service, made, since=since, rate_per_s=100)
    assert (asked.status_code, repeated.status_code) == (202, 202)
    replay_id = asked.json()["replay_id"]
    shown = await eventually(lambda: done(service, asked))
    assert (shown["state"], shown["made"], shown["progress"]) == ("done", 5, 1.0)
    await eventually(lambda: states(service, made, ["delivered"] * 10))
    again = receiver.received[5:]
    assert sorted(one.headers["webhook-id"] for one in again) == sorted(first)
    assert {one.headers["webhook-replay"] for one in again} == {replay_id}
    assert all("webhook-replay" not in one.headers for one in receiver.received[:5])
    if ordered:
        assert sequences(receiver) == [1, 2, 3, 4, 5] * 2
    # Another replay is another once.
    other = await replayed(service, made, since=since, rate_per_s=100, key="other")
    await eventually(lambda: done(service, other))
    await eventually(lambda: len(receiver.received) == 15)


async def test_one_message_is_sent_again(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 3)
    wanted = receiver.received[1].headers["webhook-id"]
    asked = await replayed(service, made, message_id=wanted)
    assert (await eventually(lambda: done(service, asked)))["made"] == 1
    await eventually(lambda: len(receiver.received) == 4)
    assert receiver.received[-1].headers["webhook-id"] == wanted
    # The same request is answered alike though the grant has gone; another says what it would for any other id.
    await service.send(topics.GRANTS, revoked())
    assert (await replayed(service, made, message_id=wanted)).json()["replay_id"] == asked.json()["replay_id"]
    for key, message_id in (("nowhere", "nowhere"), ("not covered", wanted)):
        refused = await replayed(service, made, message_id=message_id, key=key)
        assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (404, "not-found")
        assert "GET /v1/events" in refused.json()["detail"]


async def test_all_that_failed_since_then_is_tried_again(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.extend(broken(1, status=410))
    made = await created(service, receiver.url)
    await tell(service, 1)
    await eventually(lambda: states(service, made, ["failed"]))
    await enabled_again(service, made)
    await tell(service, 2)
    await eventually(lambda: states(service, made, ["failed", "delivered"]))
    asked = await replayed(service, made, failed_since=an_hour_ago())
    assert (await eventually(lambda: done(service, asked)))["made"] == 1
    await eventually(lambda: states(service, made, ["delivered", "delivered"]))
    assert receiver.received[-1].headers["webhook-id"] == receiver.received[0].headers["webhook-id"]
    assert receiver.received[-1].headers["webhook-replay"] == asked.json()["replay_id"]
    none = await replayed(service, made, failed_since=an_hour_ago(), key="again")
    assert (await eventually(lambda: done(service, none)))["made"] == 0


async def test_a_replay_keeps_to_time_type_user_and_grant(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 3)
    now = utc_now().isoformat()
    for key, wanted, count in (
        ("early", {"since": an_hour_ago(), "until": an_hour_ago()}, 0),
        ("late", {"since": now}, 0),
        ("type", {"since": an_hour_ago(), "types": ["day.updated"]}, 0),
        ("types", {"since": an_hour_ago(), "types": ["insight.created", "day.updated"]}, 3),
        ("nobody", {"since": an_hour_ago(), "user": "nobody"}, 0),
        ("user", {"since": an_hour_ago(), "user": USER}, 3),
    ):
        asked = await replayed(service, made, key=key, **wanted)
        shown = await eventually(lambda asked=asked: done(service, asked))
        assert (key, shown["made"]) == (key, count)
    await service.send(topics.GRANTS, revoked())
    asked = await replayed(service, made, since=an_hour_ago(), key="revoked")
    assert (await eventually(lambda: done(service, asked)))["made"] == 0


async def test_a_replay_is_paused_and_cancelled(service: Running, receiver: Receiver, clock: MovableClock):
    made = await told_all(service, receiver, 6)
    asked = await replayed(service, made, since=an_hour_ago(), rate_per_s=1)
    view = asked.json()
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/replays/{view['replay_id']}"

    async def made_so_far() -> int:
        return (await ask(service, "GET", path)).json()["made"]

    await eventually(made_so_far)
    paused = (await ask(service, "PATCH", path, {"state": "paused"})).json()
    assert paused["state"] == "paused"
    assert 1 <= paused["made"] < 6
    clock.ahead += timedelta(minutes=1)
    await asyncio.gather(*(tell(service, number) for number in (7, 8)))
    assert await made_so_far() == paused["made"]
    assert (await ask(service, "PATCH", path, {"state": "running"})).json()["state"] == "running"
    await eventually(lambda: _more(made_so_far, paused["made"]))
    assert (await ask(service, "PATCH", path, {"state": "cancelled"})).json()["state"] == "cancelled"
    assert (await ask(service, "PATCH", path, {"state": "cancelled"})).status_code == 200
    ended = await ask(service, "PATCH", path, {"state": "running"})
    assert (ended.status_code, ended.json()["type"].rpartition("/")[2]) == (409, "replay-ended")
    listed = await ask(service, "GET", f"/v1/webhook-endpoints/{made['endpoint_id']}/replays")
    assert [one["state"] for one in listed.json()["replays"]] == ["cancelled"]


async def _more(count: Any, than: int) -> bool:
    return await count() > than


async def test_requests_that_make_no_sense_or_are_not_ones_own_are_refused(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 1)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/replays"
    for wanted in (
        {},
        {"since": an_hour_ago(), "message_id": "m"},
        {"message_id": "m", "user": USER},
        {"since": "yesterday"},
        {"since": "2026-03-01T00:00:00"},
        {"since": an_hour_ago(), "rate_per_s": 0},
        {"since": an_hour_ago(), "types": ["no.such"]},
        {"since": an_hour_ago(), "more": 1},
    ):
        assert (await ask(service, "POST", path, wanted)).status_code == 422, wanted
    for wanted, says in (
        ({}, "Send exactly one of message_id, failed_since and since"),
        ({"message_id": "m", "user": USER}, "Leave out until, types and user beside message_id"),
    ):
        assert (await ask(service, "POST", path, wanted)).json()["errors"] == [{"where": "body", "message": says}]
    known = receiver.received[0].headers["webhook-id"]
    keyless = await ask(service, "POST", path, {"message_id": known}, key="")
    assert keyless.json()["type"].endswith("idempotency-key-required")
    asked = await replayed(service, made, message_id=known)
    reused = await replayed(service, made, message_id="n")
    assert reused.json()["type"].endswith("idempotency-key-reused")
    one = f"{path}/{asked.json()['replay_id']}"
    for method, where in (("GET", path), ("POST", path), ("GET", one), ("PATCH", one)):
        body = {"POST": {"message_id": known}, "PATCH": {"state": "paused"}}.get(method)
        assert (await ask(service, method, where, body, partner="somebody else")).status_code == 404, where
    assert (await ask(service, "GET", f"{path}/nowhere")).status_code == 404
    assert (await ask(service, "PATCH", one, {"state": "done"})).status_code == 422


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
async def test_a_time_of_a_year_that_utc_does_not_know_is_refused(service: Running, receiver: Receiver, moment: str):
    made = await created(service, receiver.url)
    for wanted in ({"since": moment}, {"failed_since": moment}, {"since": an_hour_ago(), "until": moment}):
        refused = await replayed(service, made, **wanted)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["message"] == "Send a time in the years 1 to 9999 of UTC"


@pytest.mark.parametrize("start", ["since", "failed_since"])
async def test_a_time_in_which_nothing_can_lie_is_refused_with_what_to_send(
    service: Running, receiver: Receiver, clock: MovableClock, start: str
):
    made = await told_all(service, receiver, 1)
    later = (clock() + timedelta(minutes=1)).isoformat()
    ahead = await replayed(service, made, **{start: later})
    assert (ahead.status_code, ahead.json()["type"].rpartition("/")[2]) == (422, "since-in-the-future")
    assert "send a time before" in ahead.json()["detail"]
    turned = await replayed(service, made, **{start: an_hour_ago()}, until=(clock() - timedelta(days=1)).isoformat())
    assert (turned.status_code, turned.json()["type"].rpartition("/")[2]) == (422, "until-before-since")
    assert "send a later until" in turned.json()["detail"]
    # It was no replay, so its key is free; an end that is yet to come means now.
    asked = await replayed(service, made, **{start: an_hour_ago()}, until=later)
    assert asked.status_code == 202
    assert asked.json()["until"] < later


async def test_a_message_that_has_gone_before_its_turn_came_is_told_with_the_reason(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    made = await told_all(service, receiver, 1)
    asked = await replayed(service, made, message_id=receiver.received[0].headers["webhook-id"])
    await eventually(lambda: done(service, asked))
    await service.send(topics.GRANTS, revoked())
    async with database(tmp_path) as documents:
        replay = await documents.get(REPLAYS, asked.json()["replay_id"])
        assert replay is not None
        replays = Replays(documents, Store(documents, clock), clock)
        again = await replays.work(replace(replay, state="running", made=0))
    assert (again.state, again.made) == ("failed", 0)
    assert (again.last_error or "").startswith("the message is not kept any more")


async def test_there_are_only_so_many_replays_at_a_time(service: Running, receiver: Receiver):
    made = await told_all(service, receiver, 3)
    for number in range(10):
        asked = await replayed(service, made, key=str(number), since=an_hour_ago(), rate_per_s=1)
        view = asked.json()
        path = f"/v1/webhook-endpoints/{made['endpoint_id']}/replays/{view['replay_id']}"
        assert (await ask(service, "PATCH", path, {"state": "paused"})).json()["state"] == "paused"
    refused = await replayed(service, made, key="one more", since=an_hour_ago())
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "too-many-replays")


async def test_a_turn_that_is_worked_twice_sends_nothing_twice(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    """A process died after the deliveries were made and before the replay's place was stored."""
    made = await told_all(service, receiver, 4)
    now = utc_now()
    replay = Replay(
        id="replay",
        endpoint_id=made["endpoint_id"],
        partner_id=PARTNER,
        user_id="",
        kind="range",
        message_id="",
        since=now - timedelta(hours=1),
        until=now + timedelta(hours=1),
        types=(),
        rate_per_s=100,
        request_hash="",
        created_at=now,
        ends_at=now + timedelta(days=3),
    )
    async with database(tmp_path) as documents:
        replays = Replays(documents, Store(documents, clock), clock)
        first, second = [await replays.work(replay) for _ in range(2)]
        assert (first.made, first.state) == (second.made, second.state) == (4, "done")
        assert (await documents.get(REPLAYS, "replay")) is None
        late = await replays.work(replace(replay, ends_at=now))
        assert (late.state, late.due_at) == ("failed", None)
        assert len((await documents.find(MESSAGES, "stored")).documents) == 4
    await eventually(lambda: states(service, made, ["delivered"] * 8))
    assert len(receiver.received) == 8
