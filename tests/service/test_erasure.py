"""How a service forgets a user: what is declared, what is found, and what a crash or another process leaves to do."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from shared import topics
from shared.cancelling import cancelled
from shared.documents import Collection, Conflict, Document, Documents, Index, Put, open_documents
from shared.erased import ErasedUsers, GuardedDocuments, Impersonal, Personal
from shared.erasure import KEPT, SETTLE, TOMBSTONES, Erasure, Tombstone
from shared.errors import Erased, Unavailable
from shared.events.auth import Profile, UserErased, UserUpdated
from shared.objects import Objects
from shared.outbox import Relay
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
STORES = {
    "auth": "services.auth.store",
    "ingest": "services.ingest.records",
    "inference": "services.inference.store",
    "nutrition": "services.nutrition.store",
    "insights": "services.insights.store",
    "webhooks": "services.webhooks.records",
}


class Note(Document, frozen=True, kw_only=True):
    user_id: str
    text: str


class Home(Document, frozen=True, kw_only=True):
    zone: str


NOTES = Collection("notes", Note, (Index("user", ("user_id",)),))
HOMES = Collection("homes", Home)
DECLARED = (Personal(NOTES, ("user",)), Personal(HOMES))
EVENT = UserErased(event_id="e", occurred_at=NOW, user_id="ada", revision=2)


class Process:
    """A process of a service with its own memory, on a database that others have open too."""

    def __init__(self, folder: Path, documents: Documents, clock: MovableClock) -> None:
        self.clock = clock
        self.raw = documents
        self.erased = ErasedUsers()
        self.documents = GuardedDocuments(documents, DECLARED, self.erased)
        self.objects = Objects(f"file:///{folder}/objects")
        self.sent: list[tuple[str, bytes | None]] = []
        self.forgotten: list[str] = []
        self.erasure = Erasure(
            "ingest",
            self.documents,
            DECLARED,
            self.erased,
            Relay(self.documents, [TOMBSTONES], self._publish),
            clock,
            objects=self.objects,
            forget=self.forgotten.append,
        )

    async def _publish(self, topic_name: str, value: bytes | None, key: str, *, traceparent: str | None = None) -> None:
        self.sent.append((topic_name, value))

    async def fill(self, user_id: str, notes: int) -> None:
        await self.documents.put_many(
            [Put(NOTES, Note(id=f"{user_id} {at}", user_id=user_id, text="secret")) for at in range(notes)]
        )
        await self.documents.put(HOMES, Home(id=user_id, zone="Europe/Berlin"))
        await self.objects.put(f"ingest/{user_id}/{'a' * 64}", b"secret")

    async def left(self, user_id: str) -> tuple[int, bool, bool]:
        return (
            await self.raw.count(NOTES, "user", (user_id,)),
            await self.raw.get(HOMES, user_id) is not None,
            await self.objects.get(f"ingest/{user_id}/{'a' * 64}") is not None,
        )

    async def tombstone(self) -> Tombstone:
        found = await self.raw.get(TOMBSTONES, "ada")
        assert found is not None
        return found

    async def one_pass(self) -> Tombstone:
        """What the workers would do with the tombstone now."""
        passed = await self.erasure.work(await self.tombstone())
        return await self.raw.put(TOMBSTONES, passed)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncGenerator[Process]:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open([NOTES, HOMES, TOMBSTONES])
    clock = MovableClock()
    yield Process(tmp_path, documents, clock)
    await documents.close()


@pytest.mark.parametrize("service", STORES)
def test_every_collection_says_whether_it_is_about_users_and_how_they_are_found(service: str) -> None:
    store = import_module(STORES[service])
    declared = {one.collection.name: one for one in store.PERSONAL}
    assert {one.name for one in store.COLLECTIONS} - {TOMBSTONES.name} == set(declared)
    for one in declared.values():
        if isinstance(one, Impersonal):
            assert one.reason
            assert "user_id" not in one.collection.model.__struct_fields__ or one.collection.name == "erasures"
            continue
        for index in one.indexes:
            assert one.collection.index(index).fields[0] == "user_id"
        assert ("user_id" in one.collection.model.__struct_fields__) is bool(one.indexes)


def test_every_reader_of_users_says_when_it_keeps_nothing() -> None:
    assert set(topics.ERASURES) == set(STORES) - {"auth"} == set(topics.USERS.readers)


async def test_erasing_takes_all_of_one_user_page_by_page_and_nothing_of_others(process: Process) -> None:
    await process.fill("ada", 450)
    await process.fill("adam", 3)
    await process.erasure.begin(EVENT)
    passed = await process.one_pass()
    assert await process.left("ada") == (0, False, False)
    assert await process.left("adam") == (3, True, True)
    assert (passed.documents, passed.objects, passed.told) == (451, 1, False)
    assert set(process.forgotten) == {"ada"}


async def test_auth_is_told_once_and_only_after_what_others_had_in_hand(process: Process) -> None:
    await process.fill("ada", 2)
    await process.erasure.begin(EVENT)
    assert (await process.one_pass()).outbox == ()
    process.clock.ahead += SETTLE
    told = await process.one_pass()
    (event,) = told.outbox
    said = msgspec.json.decode(event.value or b"")
    assert event.topic == "ingest.erasures.v1"
    assert (said["user_id"], said["documents"], said["objects"]) == ("ada", 3, 1)
    process.clock.ahead += timedelta(minutes=11)
    last = await process.one_pass()
    assert (last.outbox, last.due_at) == (told.outbox, None)


async def test_the_same_news_twice_changes_nothing_but_looks_again(process: Process) -> None:
    await process.erasure.begin(EVENT)
    first = await process.one_pass()
    await process.erasure.begin(EVENT)
    again = await process.tombstone()
    assert (again.noted_at, again.expires_at) == (first.noted_at, first.expires_at)
    assert again.due_at is not None
    assert again.due_at <= process.clock()


async def test_a_process_that_was_killed_goes_on_where_it_was(tmp_path: Path, process: Process) -> None:
    await process.fill("ada", 5)
    await process.erasure.begin(EVENT)
    for at in range(3):
        await process.raw.delete(NOTES, f"ada {at}")  # so far it came
    restarted = Process(tmp_path, process.raw, process.clock)
    await restarted.erasure.load()
    with pytest.raises(Erased):
        await restarted.fill("ada", 1)
    assert (await restarted.one_pass()).documents == 3
    assert await restarted.left("ada") == (0, False, False)


async def test_what_another_process_wrote_before_it_knew_is_found_by_the_next_pass(
    tmp_path: Path, process: Process
) -> None:
    other = Process(tmp_path, process.raw, process.clock)
    await process.erasure.begin(EVENT)
    await process.one_pass()
    await other.fill("ada", 2)
    await other.erasure.load()
    with pytest.raises(Erased):
        await other.fill("ada", 2)
    process.clock.ahead += SETTLE
    assert (await process.one_pass()).documents == 3
    assert await process.left("ada") == (0, False, False)


async def test_a_process_that_erases_nothing_itself_forgets_the_user_too(tmp_path: Path, process: Process) -> None:
    other = Process(tmp_path, process.raw, process.clock)
    await process.erasure.begin(EVENT)
    await process.one_pass()
    await other.erasure.load()
    assert other.forgotten == ["ada"]
    running = asyncio.create_task(other.erasure.run())
    # Once more a look later, for what was read meanwhile.
    await eventually(lambda: other.forgotten == ["ada", "ada"])
    await other.erasure.load()
    assert other.forgotten == ["ada", "ada"]
    await cancelled(running)


async def test_nothing_of_an_erased_user_is_written_any_more(process: Process) -> None:
    note = await process.documents.insert(NOTES, Note(id="n", user_id="ada", text=""))
    await process.erasure.begin(EVENT)
    for write in (
        process.documents.insert(NOTES, Note(id="m", user_id="ada", text="")),
        process.documents.put(NOTES, note),
        process.documents.put(HOMES, Home(id="ada", zone="UTC")),
        process.documents.put_many(
            [Put(NOTES, Note(id="o", user_id="eve", text="")), Put(NOTES, Note(id="p", user_id="ada", text=""))]
        ),
    ):
        with pytest.raises(Erased):
            await write
    assert await process.raw.count(NOTES, "user", ("eve",)) == 0
    assert process.erased.late == {"ada"}


async def test_a_database_that_is_away_means_later(process: Process) -> None:
    await process.fill("ada", 1)
    await process.erasure.begin(EVENT)
    tombstone = await process.tombstone()

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("database")

    process.erasure._documents = SimpleNamespace(find=away, delete=away)
    with pytest.raises(Unavailable):
        await process.erasure.work(tombstone)
    process.erasure._documents = process.documents
    assert (await process.one_pass()).documents == 2


async def test_other_news_of_an_erased_user_reaches_no_handler(process: Process) -> None:
    heard: list[object] = []

    async def other(event: object) -> None:
        heard.append(event)

    handle = process.erasure.handler(other)
    for user_id in ("ada", "eve"):
        await handle(_updated(user_id))
    await handle(EVENT)
    for user_id in ("ada", "eve"):
        await handle(_updated(user_id))
    assert [getattr(event, "user_id", "") for event in heard] == ["ada", "eve", "eve"]


async def test_the_tombstone_outlives_every_log_of_the_users_data() -> None:
    logs = [topic.retention_ms for topic in topics.TOPICS if topic.key == "user_id" and topic.writer != "auth"]
    longest = max(one for one in logs if one != topics.ERASURE_RETENTION_MS)
    assert timedelta(milliseconds=longest + topics.DEAD_LETTER_RETENTION_MS) < KEPT


async def test_a_write_that_meets_another_writer_is_not_lost(process: Process) -> None:
    note = await process.documents.insert(NOTES, Note(id="n", user_id="eve", text=""))
    await process.documents.put(NOTES, note)
    with pytest.raises(Conflict):
        await process.documents.put(NOTES, note)


def _updated(user_id: str) -> UserUpdated:
    return UserUpdated(event_id="u", occurred_at=NOW, user_id=user_id, revision=1, profile=Profile())
