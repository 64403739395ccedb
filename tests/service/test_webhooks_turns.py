"""Numbering and fanning out a turn of messages together, on both engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from services.webhooks.handlers import Handlers
from services.webhooks.mapping import public_message
from services.webhooks.records import COLLECTIONS, DELIVERIES, ENDPOINTS, GRANTS, MESSAGES, Delivery, Endpoint, Message
from services.webhooks.store import Store
from shared.clock import utc_now
from shared.documents import Collection, Documents, Index, open_documents
from shared.errors import Unavailable
from shared.events.auth import GrantUpdated
from shared.events.event import Event
from shared.events.ingest import DayUpdated
from shared.events.webhooks import MessagePublished

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SINCE = datetime(2026, 3, 1, 8, tzinfo=UTC)
Step = Callable[[], Awaitable[object]]


class Process:
    """What one process of the service has: a client of the database, and what it published."""

    def __init__(self, documents: Documents, clock: Callable[[], datetime] = utc_now) -> None:
        self.documents = documents
        self.store = Store(documents, clock)
        self.handlers = Handlers(self.store, self._publish, self._forget)
        self.published: list[MessagePublished] = []
        self.refused = ""

    async def _forget(self, user_id: str) -> None:
        raise AssertionError(f"nobody erased {user_id}")

    async def _publish(self, event: MessagePublished, traceparent: str | None) -> None:
        if event.user_id == self.refused:
            raise Unavailable("broker")
        assert traceparent == TRACEPARENT
        self.published.append(event)

    async def write(self, *told: Event) -> None:
        await self.handlers.write([(public_message(one), TRACEPARENT) for one in told])

    def told(self, user_id: str) -> list[tuple[int, str]]:
        return [(one.sequence, one.data["link"]) for one in self.published if one.user_id == user_id]


@pytest.fixture(params=["sqlite", "fake-mongo"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}"
    return f"{request.getfixturevalue('fake_mongo')}/turns_{uuid4().hex}"


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    clients: list[Documents] = []

    async def another(clock: Callable[[], datetime] = utc_now) -> Process:
        clients.append(open_documents(url, "webhooks"))
        await clients[-1].open(COLLECTIONS)
        return Process(clients[-1], clock)

    yield another
    for client in clients:
        await client.close()


Connect = Callable[..., Awaitable[Process]]


def day(user_id: str, number: int) -> DayUpdated:
    return DayUpdated(
        event_id=f"{user_id}-{number}",
        occurred_at=SINCE,
        user_id=user_id,
        date=date(2026, 3, number),
        zone="Europe/Berlin",
        revision=1,
        metrics={},
    )


def link(number: int) -> str:
    return f"/v1/days/2026-03-{number:02}"


def grant(since: datetime = SINCE) -> GrantUpdated:
    return GrantUpdated(
        event_id="grant",
        occurred_at=since,
        grant_id="grant",
        user_id="u",
        partner_id="partner",
        revision=1,
        scopes=("days:read",),
        revoked_at=None,
    )


async def with_endpoint(process: Process) -> None:
    endpoint = Endpoint(
        id="endpoint",
        partner_id="partner",
        url="https://partner.example/",
        event_types=(),
        keys=(),
        payload="full",
        request_hash="",
        created_at=SINCE,
    )
    await process.documents.insert(ENDPOINTS, endpoint)


async def stored(process: Process, user_id: str) -> list[tuple[int, str]]:
    found = await process.store.messages_after(user_id, 0, 1000)
    return [(message.sequence, message.data["link"]) for message in found]


async def delivered(process: Process) -> list[Delivery]:
    return list(await process.store.deliveries("endpoint"))


async def test_a_users_messages_of_a_turn_count_on_in_their_order(connect: Connect):
    process = await connect()
    await process.write(day("u", 1))
    await process.write(day("u", 5), day("other", 2), day("u", 3), day("other", 1))
    assert process.told("u") == await stored(process, "u") == [(1, link(1)), (2, link(5)), (3, link(3))]
    assert process.told("other") == await stored(process, "other") == [(1, link(2)), (2, link(1))]
    assert all(one.data["sequence"] == one.sequence for one in process.published)


async def test_the_same_turn_again_changes_nothing_and_is_published_again(connect: Connect):
    process = await connect()
    await with_endpoint(process)
    await process.store.apply_grant(grant())
    turn = [day("u", 1), day("other", 1), day("u", 2)]
    await process.write(*turn)
    before = await stored(process, "u"), await delivered(process)
    first = [one.event_id for one in process.published]
    # Another process, which remembers nothing, and this one; one message is new, one comes twice in the turn.
    again = await connect()
    for one in (process, again):
        one.published.clear()
        await one.write(*turn)
        assert sorted(event.event_id for event in one.published) == sorted(first)
        assert (await stored(one, "u"), await delivered(one)) == before
    await again.write(day("u", 2), day("u", 3), day("u", 3), day("u", 1))
    assert again.told("u")[-3:] == [(2, link(2)), (3, link(3)), (1, link(1))]
    assert [one.message_id for one in await delivered(again)].count(again.published[-2].message_id) == 1


async def test_a_number_that_another_process_took_leaves_no_gap_and_no_repeat(connect: Connect):
    one, other = await connect(), await connect()
    await one.write(day("u", 1))
    await other.write(day("u", 2), day("u", 3))
    # The first still believes that the last number is 1; MongoDB has stored the message of "v" when it finds out.
    await one.write(day("v", 1), day("u", 4), day("w", 1), day("u", 5), day("v", 2))
    assert await stored(one, "u") == [(number, link(number)) for number in range(1, 6)]
    assert one.told("u") == [(1, link(1)), (4, link(4)), (5, link(5))]
    assert await stored(one, "v") == one.told("v") == [(1, link(1)), (2, link(2))]
    assert await stored(one, "w") == one.told("w") == [(1, link(1))]


async def test_processes_side_by_side_share_each_users_sequence(connect: Connect):
    processes = [await connect() for _ in range(3)]
    turns = [
        process.write(*(day(user_id, 1 + 9 * place + number) for number in range(3) for user_id in ("u", "v", "w")))
        for place, process in enumerate(processes)
    ]
    turns += [process.write(day("v", 4 + 9 * place)) for place, process in enumerate(processes)]
    await asyncio.gather(*turns)
    for user_id, count in (("u", 9), ("v", 12), ("w", 9)):
        found = await stored(processes[0], user_id)
        assert [sequence for sequence, _ in found] == list(range(1, count + 1))
        assert len({place for _, place in found}) == count
        assert sorted(one for process in processes for one in process.told(user_id)) == found


async def test_one_users_failure_is_told_after_the_others_were_served(connect: Connect):
    process = await connect()
    process.refused = "u"
    with pytest.raises(Unavailable, match="broker"):
        await process.write(day("u", 1), day("v", 1), day("u", 2))
    assert (process.told("u"), process.told("v")) == ([], [(1, link(1))])
    process.refused = ""
    await process.write(day("u", 1), day("v", 1), day("u", 2))
    assert process.told("u") == [(1, link(1)), (2, link(2))]


class Interrupted:
    """The database, with something that happens once: when messages are about to be stored, when they are, or when a
    fan-out has looked up grants."""

    def __init__(self, documents: Documents, moment: str, happens: Step) -> None:
        self._documents = documents
        self._moment = moment
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Any) -> Any:
        await self._at("before the write")
        done = await self._documents.put_many(puts)
        await self._at("after the write")
        return done

    async def find(self, collection: Collection[Any], *arguments: Any, **named: Any) -> Any:
        page = await self._documents.find(collection, *arguments, **named)
        if collection is GRANTS:
            await self._at("after the look-up")
        return page

    async def _at(self, moment: str) -> None:
        if moment == self._moment:
            self._moment = ""
            await self._happens()


@pytest.mark.parametrize("moment", ["before the write", "after the write", "after the look-up"])
async def test_a_grant_that_comes_during_a_turn_gets_every_message_once(connect: Connect, moment: str):
    process = await connect()
    await with_endpoint(process)
    made: list[int] = []

    async def granted() -> None:
        made.append(await process.store.apply_grant(grant()))

    busy = Process(cast(Documents, Interrupted(process.documents, moment, granted)))
    await busy.write(day("u", 1), day("other", 1), day("u", 2))
    assert made == [0 if moment == "before the write" else 2]
    links = sorted(one.message_id for one in await delivered(process))
    assert links == sorted(one.message_id for one in busy.published if one.user_id == "u")
    assert await process.documents.count(DELIVERIES, "endpoint") == 2


async def test_a_grants_news_finds_what_came_since_where_clocks_differ(connect: Connect):
    process = await connect()
    await with_endpoint(process)
    # Machines that are up to 4 minutes apart took turns; in minutes from the grant.
    minutes = [-300, *([-1] * 120), 2, -3, 1, -2, 0, *([-4] * 120), 3]
    for number, minute in enumerate(minutes, 1):
        message = Message(
            id=f"m{number}",
            user_id="u",
            sequence=number,
            type="day.updated",
            time=SINCE,
            stored_at=SINCE + timedelta(minutes=minute),
            trace_id="",
            traceparent=None,
            data={"link": ""},
        )
        await process.documents.insert(MESSAGES, message)
    assert await process.store.apply_grant(grant()) == 4
    reached = [f"m{number}" for number, minute in enumerate(minutes, 1) if minute >= 0]
    assert sorted(one.message_id for one in await delivered(process)) == sorted(reached)
    # Nothing more for news that is known.
    assert await process.store.apply_grant(grant()) == 0


async def test_a_database_that_has_the_earlier_index_goes_on(url: str, connect: Connect):
    earlier: Collection[Message] = Collection(
        "messages", Message, (*MESSAGES.indexes, Index("stored", ("user_id", "stored_at")))
    )
    old = open_documents(url, "webhooks")
    await old.open([earlier])
    public = public_message(day("u", 1))
    kept = Message(
        id=public.message_id,
        user_id="u",
        sequence=1,
        type=public.type,
        time=public.time,
        stored_at=utc_now(),
        trace_id="",
        traceparent=TRACEPARENT,
        data={"link": link(1)},
    )
    await old.insert(earlier, kept)
    await old.close()
    process = await connect()
    await with_endpoint(process)
    await process.write(day("u", 2), day("u", 1))
    assert process.told("u") == [(2, link(2)), (1, link(1))]
    assert await process.store.apply_grant(grant()) == 2
