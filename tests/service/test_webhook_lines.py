"""Lines of ordered endpoints: each user's messages in their order, whoever dies or is slow, and in replays too."""

import asyncio
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any, cast

import pytest
from msgspec.structs import replace

from services.webhooks.endpoints import Endpoints
from services.webhooks.mapping import public_message
from services.webhooks.records import (
    DELIVERIES,
    ENDPOINTS,
    MESSAGES,
    REPLAYS,
    Delivery,
    Endpoint,
    Message,
    Replay,
    delivery_of,
)
from services.webhooks.replays import Replays
from services.webhooks.store import Store
from shared.clock import utc_now
from shared.documents import Collection, Documents, Index, Put, open_documents
from tests.service import test_webhooks_turns as turns
from tests.service.test_webhooks_turns import SINCE, TRACEPARENT, Connect, Process, day, grant

connect, url = turns.connect, turns.url
NOW = SINCE + timedelta(days=1)
ENDPOINT = Endpoint(
    id="endpoint",
    partner_id="partner",
    url="https://partner.example/",
    event_types=(),
    keys=(),
    request_hash="",
    created_at=SINCE,
    ordered=True,
)
REPLAY = Replay(
    id="replay",
    endpoint_id="endpoint",
    partner_id="partner",
    user_id="",
    kind="range",
    message_id="",
    since=SINCE,
    until=NOW + timedelta(days=1),
    types=(),
    rate_per_s=10,
    request_hash="",
    created_at=NOW,
    ends_at=NOW + timedelta(days=3),
)


async def open_line(process: Process) -> None:
    """An ordered endpoint, and a grant."""
    await process.documents.insert(ENDPOINTS, ENDPOINT)
    await process.store.apply_grant(grant())


async def turn(process: Process, count: int) -> list[Message]:
    """So many messages of one user, stored together; nobody has told the partner."""
    days = [
        day("u", 1).model_copy(update={"event_id": f"turn-{n}", "date": date(2026, 3, 1) + timedelta(days=n)})
        for n in range(count)
    ]
    return await process.store.number([(public_message(one), TRACEPARENT) for one in days])


async def line(process: Process) -> list[Delivery]:
    found = await process.documents.find(DELIVERIES, "line", ("endpoint", "u"), limit=1000)
    return list(found.documents)


async def test_what_another_process_numbered_and_did_not_live_to_tell_stands_in_front(connect: Connect):
    one, other = await connect(), await connect()
    await open_line(one)
    numbered = await turn(one, 500)
    await other.write(day("other", 1), day("u", 31))
    waiting = await line(other)
    assert [delivery.sequence for delivery in waiting] == list(range(1, 502))
    assert [delivery.sequence for delivery in waiting if delivery.due_at is not None] == [1]
    # Whoever gets the dead one's turn anew, and whoever was only slow, has nothing to add.
    assert await asyncio.gather(one.store.fan_out(numbered), other.store.fan_out(numbered)) == [0, 0]
    assert await line(other) == waiting


async def test_an_endpoint_enabled_again_gets_nothing_of_while_it_was_disabled(connect: Connect):
    seconds = count()

    def clock() -> datetime:
        return NOW + timedelta(seconds=next(seconds))

    process = await connect(clock)
    await open_line(process)
    await process.documents.put(ENDPOINTS, replace(ENDPOINT, version=1, state="disabled"))
    await process.write(day("u", 1), day("u", 2))
    nobody: Any = None  # no URL is checked and no key made
    endpoints = Endpoints(process.documents, process.store.queue, nobody, nobody, clock)
    again = await endpoints.change("partner", "endpoint", lambda now: replace(now, state="enabled"))
    assert again.state == "enabled"
    await process.write(day("u", 3))
    assert [delivery.sequence for delivery in await line(process)] == [3]


async def test_turns_that_are_told_side_by_side_make_one_line(connect: Connect):
    one, other = await connect(), await connect()
    await open_line(one)
    numbered = await turn(one, 60)
    made = await asyncio.gather(
        one.store.fan_out(numbered), other.store.fan_out(numbered[:30]), other.store.fan_out(numbered[30:])
    )
    assert sum(made) == 60
    assert [delivery.sequence for delivery in await line(one)] == list(range(1, 61))
    assert [delivery.sequence for delivery in await line(one) if delivery.due_at is not None] == [1]


class LaterFirst:
    """The database, where of what is written at once later numbers come first; `due`: what could be sent meanwhile."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.due: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process.documents, name)

    async def put_many(self, puts: Sequence[Put]) -> None:
        for put in reversed(puts):
            await self._process.documents.put_many([put])
            self.due |= {one.sequence for one in await line(self._process) if one.due_at is not None}


async def test_no_later_one_is_called_before_an_earlier_one_is_there(connect: Connect):
    process = await connect(lambda: NOW)
    await open_line(process)
    numbered = await turn(process, 20)
    later_first = LaterFirst(process)
    store = Store(cast(Documents, later_first), lambda: NOW)
    made = await store.queue.add([delivery_of(message, ENDPOINT, NOW, "replay") for message in numbered])
    assert made == 20
    assert later_first.due == set()
    assert [delivery.sequence for delivery in await line(process) if delivery.due_at is not None] == [1]


async def worked(process: Process, replay: Replay) -> tuple[Replay, list[int]]:
    """The replay at its end, and the sequences that it put in line, turn by turn, in their order in the line."""
    replays = Replays(process.documents, process.store, lambda: NOW)
    told: list[int] = []
    while replay.state == "running":
        before = {delivery.id for delivery in await line(process)}
        replay = await replays.work(replay)
        told += [delivery.sequence for delivery in await line(process) if delivery.id not in before]
    return replay, told


@pytest.mark.parametrize("kind", ["range", "failed"])
async def test_a_replay_of_what_was_stored_together_keeps_each_users_order(connect: Connect, kind: Any):
    process = await connect(lambda: NOW)
    await open_line(process)
    numbered = await turn(process, 45)
    if kind == "failed":
        for message in numbered:
            failed = replace(delivery_of(message, ENDPOINT, NOW), state="failed", line=None, due_at=None, body=None)
            await process.documents.insert(DELIVERIES, failed)
    ended, told = await worked(process, replace(REPLAY, kind=kind))
    assert (ended.state, ended.made) == ("done", 45)
    assert told == list(range(1, 46))


async def test_a_replay_waits_while_much_stands_in_line(connect: Connect):
    process = await connect(lambda: NOW)
    await open_line(process)
    await turn(process, 300)
    replays = Replays(process.documents, process.store, lambda: NOW)
    replay = replace(REPLAY, rate_per_s=60)
    for made in (60, 120, 120):
        replay = await replays.work(replay)
        assert (replay.state, replay.made, len(await line(process))) == ("running", made, made)
    for delivered in await line(process):
        await process.store.queue.keep(replace(delivered, state="delivered", line=None, due_at=None))
    assert (await replays.work(replay)).made == 180


async def test_times_rise_with_numbers_where_clocks_lie_a_little_apart(connect: Connect):
    fast, slow, wrong = [
        await connect(lambda ahead=ahead: NOW + ahead)
        for ahead in (timedelta(milliseconds=400), timedelta(0), timedelta(hours=1))
    ]
    await fast.write(day("u", 1))
    await slow.write(day("u", 2), day("other", 2), day("u", 3))
    await wrong.write(day("u", 4))
    await slow.write(day("u", 5))
    times = [one.stored_at - NOW for one in await slow.store.messages_after("u", 0, 10)]
    little = timedelta(milliseconds=400)
    assert times == [little, little, little, timedelta(hours=1), timedelta(0)]
    assert [one.stored_at for one in await slow.store.messages_after("other", 0, 10)] == [NOW]


async def test_a_database_of_the_version_before_goes_on(url: str, connect: Connect):
    """Its indexes had other fields, a delivery did not say whose copy it is, a replay stood at a place of before."""
    earlier = Collection("deliveries", Delivery, (Index("state", ("endpoint_id", "state", "created_at")),))
    stored = Collection("messages", Message, (MESSAGES.index("sequence"), Index("stored", ("stored_at",))))
    replays: Collection[Replay] = Collection("replays", Replay, REPLAYS.indexes)
    old = open_documents(url, "webhooks")
    await old.open([earlier, stored, replays])
    placed = Message(
        id="m",
        user_id="u",
        sequence=1,
        type="day.updated",
        time=SINCE,
        stored_at=NOW,
        trace_id="",
        traceparent=None,
        data={"user_id": "u", "sequence": 1, "trace_id": "", "link": ""},
    )
    for number in (1, 2):
        await old.insert(stored, replace(placed, id=f"m{number}", sequence=number))
        copy = delivery_of(replace(placed, id="m1"), ENDPOINT, NOW, f"replay {number}")
        await old.insert(earlier, replace(copy, state="failed", line=None, due_at=None, copy_of=None, stored_at=None))
    cursor = (await old.find(stored, "stored", limit=1)).cursor
    await old.insert(replays, replace(REPLAY, cursor=cursor, made=1))
    await old.insert(replays, replace(REPLAY, id="failed", kind="failed", made=1))
    await old.close()

    process = await connect(utc_now)
    await open_line(process)
    ranged, failed = await process.documents.get_many(REPLAYS, ["replay", "failed"])
    assert ranged is not None
    assert failed is not None
    assert (await worked(process, failed))[0].made == 2
    ended, told = await worked(process, ranged)
    assert (ended.state, ended.made, told) == ("done", 2, [1, 2])
    upgraded = DELIVERIES.upgrades[1]({"endpoint_id": "e", "message_id": "m", "sequence": None})
    assert (upgraded["sequence"], upgraded["copy_of"]) == (0, None)
