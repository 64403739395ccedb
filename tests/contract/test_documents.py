"""What every engine behind the document port promises."""

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from shared.documents import Collection, Conflict, Document, Documents, Duplicate, Index, Put, open_documents
from shared.errors import Unavailable
from tests.contract.documents_models import ALL, ENTRIES, TASKS, Entry, Meal, Part, Task

Connect = Callable[[], Documents]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FULL = Entry(
    id="full",
    eaten_at=NOON,
    position=2**40,
    slug="ä/ß",
    local_date=date(2026, 3, 1),
    grams=Decimal("12.50"),
    photo=b"\x00\xff" * 1000,
    food=UUID(int=7),
    meal=Meal.DINNER,
    done=True,
    kcal=0.1,
    tags=("a", "b"),
    parts=(Part(Decimal("1.10"), NOON),),
    by_hour={8: Decimal("1.00")},
    by_source={"a.b$": Part(Decimal("2"), NOON)},
)


@pytest.fixture
async def documents(connect: Connect) -> Documents:
    opened = connect()
    await opened.open(ALL)
    return opened


async def ids(documents: Documents, index: str, *equals: object, **options: object) -> list[str]:
    page = await documents.find(ENTRIES, index, equals, **options)
    return [document.id for document in page.documents]


class TestValues:
    async def test_every_kind_of_value_comes_back_as_it_went(self, documents: Documents) -> None:
        stored = await documents.insert(ENTRIES, FULL)
        assert stored == replace(FULL, version=1)
        assert await documents.get(ENTRIES, "full") == stored
        assert str(stored.grams) == "12.50"

    async def test_times_are_stored_in_utc_at_milliseconds_at_any_depth(self, documents: Documents) -> None:
        berlin = datetime(2026, 3, 1, 13, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=1)))
        entry = Entry(
            id="e", eaten_at=berlin, parts=(Part(Decimal(1), berlin),), by_source={"x": Part(Decimal(1), berlin)}
        )
        stored = await documents.put(ENTRIES, entry)
        read = await documents.get(ENTRIES, "e")
        assert read == stored
        for moment in (stored.eaten_at, stored.parts[0].weighed_at, stored.by_source["x"].weighed_at):
            assert moment == NOON + timedelta(milliseconds=123)
            assert moment is not None
            assert moment.utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        "entry",
        [
            Entry(id="e", eaten_at=NOON.replace(tzinfo=None)),
            Entry(id="e", parts=(Part(Decimal(1), NOON.replace(tzinfo=None)),)),
            Entry(id="e", by_source={"x": Part(Decimal(1), NOON.replace(tzinfo=None))}),
            Entry(id="e", position=2**63),
            Entry(id="e", kcal=float("nan")),
        ],
        ids=["time", "time in a tuple", "time in a dict", "65-bit integer", "NaN in an index"],
    )
    async def test_what_cannot_be_stored_is_refused_before_anything_is_written(
        self, documents: Documents, entry: Entry
    ) -> None:
        with pytest.raises(ValueError, match=r"zone|cannot be stored|64 bits|NaN"):
            await documents.put_many([Put(ENTRIES, Entry(id="first")), Put(ENTRIES, entry)])
        assert await documents.get(ENTRIES, "first") is None

    async def test_an_index_over_a_decimal_is_refused(self, connect: Connect) -> None:
        weights = Collection("weights", Entry, (Index("grams", ("grams",)),))
        with pytest.raises(ValueError, match="Decimal"):
            await connect().open([weights])

    async def test_an_index_over_an_unknown_field_is_refused(self, connect: Connect) -> None:
        with pytest.raises(ValueError, match="no field"):
            await connect().open([Collection("weights", Entry, (Index("x", ("nope",)),))])


class TestWrites:
    async def test_insert_refuses_a_known_id(self, documents: Documents) -> None:
        await documents.insert(ENTRIES, Entry(id="e", position=1))
        with pytest.raises(Duplicate) as caught:
            await documents.insert(ENTRIES, Entry(id="e", position=2))
        assert caught.value.index == "id"
        assert (await documents.get(ENTRIES, "e")) == Entry(id="e", position=1, version=1)

    async def test_a_put_moves_the_version_by_one(self, documents: Documents) -> None:
        first = await documents.put(ENTRIES, Entry(id="e"))
        second = await documents.put(ENTRIES, replace(first, position=5))
        assert (first.version, second.version) == (1, 2)
        assert await documents.get(ENTRIES, "e") == second

    @pytest.mark.parametrize("version", [0, 1, 3])
    async def test_a_put_over_another_version_is_a_conflict(self, documents: Documents, version: int) -> None:
        await documents.put(ENTRIES, await documents.put(ENTRIES, Entry(id="e")))
        with pytest.raises(Conflict) as caught:
            await documents.put(ENTRIES, Entry(id="e", version=version))
        assert caught.value.ids == ("e",)

    async def test_a_put_over_a_document_that_is_gone_is_a_conflict(self, documents: Documents) -> None:
        stored = await documents.put(ENTRIES, Entry(id="e"))
        assert await documents.delete(ENTRIES, "e")
        assert not await documents.delete(ENTRIES, "e")
        with pytest.raises(Conflict):
            await documents.put(ENTRIES, stored)

    async def test_a_unique_index_names_itself(self, documents: Documents) -> None:
        await documents.insert(ENTRIES, Entry(id="a", slug="soup"))
        other = await documents.insert(ENTRIES, Entry(id="b", slug="bread"))
        await documents.insert(ENTRIES, Entry(id="c", user_id="u2", slug="soup"))
        for write in (
            documents.insert(ENTRIES, Entry(id="d", slug="soup")),
            documents.put(ENTRIES, Entry(id="d", slug="soup")),
            documents.put(ENTRIES, replace(other, slug="soup")),
        ):
            with pytest.raises(Duplicate) as caught:
                await write
            assert caught.value.index == "slug"

    async def test_a_unique_index_lets_none_through(self, documents: Documents) -> None:
        await documents.insert(ENTRIES, Entry(id="a"))
        await documents.insert(ENTRIES, Entry(id="b"))
        found = await documents.get_many(ENTRIES, ["a", "b"])
        assert [one.id for one in found if one is not None] == ["a", "b"]

    async def test_a_known_id_counts_before_a_unique_index(self, documents: Documents) -> None:
        await documents.insert(ENTRIES, Entry(id="a", slug="soup"))
        with pytest.raises(Conflict):
            await documents.put(ENTRIES, Entry(id="a", slug="soup"))
        with pytest.raises(Duplicate, match="id is taken"):
            await documents.insert(ENTRIES, Entry(id="a", slug="soup"))

    async def test_put_many_stops_at_the_first_conflict(self, documents: Documents) -> None:
        await documents.put(ENTRIES, Entry(id="taken"))
        puts = [Put(ENTRIES, Entry(id="a")), Put(TASKS, Task(id="t")), Put(ENTRIES, Entry(id="taken"))]
        with pytest.raises(Conflict) as caught:
            await documents.put_many([*puts, Put(ENTRIES, Entry(id="z"))])
        assert (caught.value.collection, caught.value.ids) == ("entries", ("taken",))
        assert await documents.get(ENTRIES, "z") is None

    async def test_put_many_returns_the_documents_as_stored(self, documents: Documents) -> None:
        stored = await documents.put_many([Put(ENTRIES, Entry(id="a")), Put(TASKS, Task(id="a"))])
        assert stored == [Entry(id="a", version=1), Task(id="a", version=1)]
        assert await documents.put_many([]) == []

    async def test_one_of_many_concurrent_writers_wins(self, documents: Documents) -> None:
        stored = await documents.put(ENTRIES, Entry(id="e"))
        writes = [documents.put(ENTRIES, replace(stored, position=n)) for n in range(50)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(outcome, Entry) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49

    async def test_a_conflict_undoes_no_neighbours_write(self, documents: Documents) -> None:
        await documents.put(ENTRIES, Entry(id="taken", slug="s"))
        writes = [documents.put(ENTRIES, Entry(id="taken" if n % 3 == 0 else f"e{n}")) for n in range(100)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            assert isinstance(outcome, Conflict) if n % 3 == 0 else isinstance(outcome, Entry)
        found = await documents.get_many(ENTRIES, [f"e{n}" for n in range(100) if n % 3])
        assert None not in found

    async def test_get_many_keeps_the_order_asked_for(self, documents: Documents) -> None:
        await documents.put_many([Put(ENTRIES, Entry(id=id)) for id in "abc"])
        found = await documents.get_many(ENTRIES, ["c", "nope", "a", "c"])
        assert [document and document.id for document in found] == ["c", None, "a", "c"]
        assert await documents.get_many(ENTRIES, []) == []

    async def test_versions_tell_what_was_written_since_and_read_no_bodies(
        self, documents: Documents, connect: Connect
    ) -> None:
        stored = await documents.put(ENTRIES, Entry(id="a"))
        await documents.insert(ENTRIES, Entry(id="b"))
        assert await documents.versions(ENTRIES, ["b", "nope", "a", "b"]) == [1, 0, 1, 1]
        other = connect()
        await other.open(ALL)
        await other.put(ENTRIES, stored)
        await other.delete(ENTRIES, "b")
        assert await documents.versions(ENTRIES, ["a", "b"]) == [2, 0]
        many = [f"n{n}" for n in range(1_100)]
        await documents.put_many([Put(ENTRIES, Entry(id=id)) for id in many])
        assert await documents.versions(ENTRIES, many) == [1] * 1_100
        assert await documents.versions(ENTRIES, []) == []

    async def test_another_client_sees_what_was_answered(self, documents: Documents, connect: Connect) -> None:
        other = connect()
        await other.open(ALL)
        stored = await documents.put(ENTRIES, Entry(id="e"))
        assert await other.get(ENTRIES, "e") == stored
        await other.put(ENTRIES, stored)
        with pytest.raises(Conflict):
            await documents.put(ENTRIES, stored)


class TestFind:
    @pytest.fixture(autouse=True)
    async def entries(self, documents: Documents) -> None:
        rows = [Entry(id=f"e{n}", eaten_at=NOON + (n // 2) * MINUTE, position=-n) for n in range(10)]
        rows += [Entry(id="none"), Entry(id="other", user_id="u2", eaten_at=NOON)]
        await documents.put_many([Put(ENTRIES, row) for row in rows])

    async def test_equal_fields_in_order_ties_by_id(self, documents: Documents) -> None:
        assert await ids(documents, "by_time", "u1") == [f"e{n}" for n in range(10)]
        assert await ids(documents, "by_time", "u1", descending=True) == [f"e{n}" for n in range(9, -1, -1)]

    async def test_bounds_are_half_open(self, documents: Documents) -> None:
        between = {"at_least": NOON + MINUTE, "below": NOON + 3 * MINUTE}
        assert await ids(documents, "by_time", "u1", **between) == ["e2", "e3", "e4", "e5"]
        assert await documents.count(ENTRIES, "by_time", ["u1"], **between) == 4

    async def test_bounds_finer_than_a_millisecond(self, documents: Documents) -> None:
        just_after = NOON + timedelta(microseconds=1)
        assert await ids(documents, "by_time", "u1", at_least=just_after, limit=1) == ["e2"]
        assert await ids(documents, "by_time", "u1", below=just_after) == ["e0", "e1"]

    async def test_documents_with_none_are_not_in_the_index(self, documents: Documents) -> None:
        assert await documents.count(ENTRIES, "by_time", ["u1"]) == 10
        assert await documents.count(ENTRIES, "by_time") == 11
        assert await documents.count(ENTRIES, "by_position") == 0

    async def test_all_fields_equal(self, documents: Documents) -> None:
        assert await ids(documents, "by_time", "u1", NOON) == ["e0", "e1"]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("limit", [1, 3, 10, 50])
    async def test_pages_cover_everything_once(self, documents: Documents, limit: int, descending: bool) -> None:
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await documents.find(
                ENTRIES, "by_time", ["u1"], limit=limit, cursor=cursor, descending=descending, below=NOON + 4 * MINUTE
            )
            seen += [document.id for document in page.documents]
            if (cursor := page.cursor) is None:
                break
        expected = [f"e{n}" for n in range(8)]
        assert seen == (expected[::-1] if descending else expected)

    async def test_a_page_continues_behind_documents_that_came_meanwhile(self, documents: Documents) -> None:
        page = await documents.find(ENTRIES, "by_time", ["u1"], limit=4)
        await documents.delete(ENTRIES, "e3")
        await documents.insert(ENTRIES, Entry(id="early", eaten_at=NOON - MINUTE))
        assert (await ids(documents, "by_time", "u1", cursor=page.cursor))[0] == "e4"

    @pytest.mark.parametrize(
        "cursor", ["", "x", "nonsense", "kA", "ä", "k" * 10_000, "wA==", "kqFhkQE", "kqF4" + "kZGR" * 900]
    )
    async def test_a_foreign_cursor_is_refused(self, documents: Documents, cursor: str) -> None:
        with pytest.raises(ValueError, match="cursor"):
            await documents.find(ENTRIES, "by_time", ["u1"], cursor=cursor)

    async def test_a_cursor_of_another_index_is_refused(self, documents: Documents) -> None:
        page = await documents.find(ENTRIES, "done", [False], limit=1)
        assert page.cursor is not None
        with pytest.raises(ValueError, match="cursor"):
            await documents.find(ENTRIES, "by_time", ["u1"], cursor=page.cursor)

    async def test_searches_that_an_index_cannot_answer_are_refused(self, documents: Documents) -> None:
        with pytest.raises(KeyError):
            await documents.find(ENTRIES, "nope")
        for equals, bound in ((["u1", NOON, 3], None), (["u1", NOON], NOON), ([None], None), ([Decimal(1)], None)):
            with pytest.raises(ValueError, match=r"cannot be searched|index field"):
                await documents.find(ENTRIES, "by_time", equals, at_least=bound)
        with pytest.raises(ValueError, match="limit"):
            await documents.find(ENTRIES, "by_time", ["u1"], limit=0)

    async def test_a_changed_document_moves_in_its_indexes(self, documents: Documents) -> None:
        moved = await documents.get(ENTRIES, "e0")
        assert moved is not None
        await documents.put(ENTRIES, replace(moved, eaten_at=NOON + 60 * MINUTE))
        assert (await ids(documents, "by_time", "u1"))[-1] == "e0"
        left = await documents.get(ENTRIES, "e1")
        assert left is not None
        await documents.put(ENTRIES, replace(left, eaten_at=None))
        assert "e1" not in await ids(documents, "by_time", "u1")

    async def test_delete_where_deletes_what_find_finds(self, documents: Documents) -> None:
        assert await documents.delete_where(ENTRIES, "by_time", ["u1"], at_least=NOON + MINUTE) == 8
        assert await ids(documents, "by_time", "u1") == ["e0", "e1"]
        assert await documents.get(ENTRIES, "none") is not None
        assert await documents.delete_where(ENTRIES, "by_time", ["u2"]) == 1
        assert await documents.delete_where(ENTRIES, "by_time", ["u2"]) == 0


class TestClaim:
    LEASE = timedelta(seconds=15)

    async def test_due_documents_are_handed_out_oldest_first(self, documents: Documents) -> None:
        for n in (3, 1, 2, 9):
            await documents.insert(TASKS, Task(id=f"t{n}", due_at=NOON + n * MINUTE))
        await documents.insert(TASKS, Task(id="finished"))
        claimed = await documents.claim(TASKS, "due", now=NOON + 5 * MINUTE, lease=self.LEASE, limit=2)
        assert [(task.id, task.attempts, task.version) for task in claimed] == [("t1", 1, 2), ("t2", 1, 2)]
        assert claimed[0].due_at == NOON + 5 * MINUTE + self.LEASE
        assert claimed[0] == await documents.get(TASKS, "t1")
        rest = await documents.claim(TASKS, "due", now=NOON + 5 * MINUTE, lease=self.LEASE, limit=9)
        assert [task.id for task in rest] == ["t3"]

    async def test_due_at_this_very_moment(self, documents: Documents) -> None:
        await documents.insert(TASKS, Task(id="t", due_at=NOON))
        assert await documents.claim(TASKS, "due", now=NOON - timedelta(milliseconds=1), lease=self.LEASE) == []
        assert len(await documents.claim(TASKS, "due", now=NOON, lease=self.LEASE)) == 1

    async def test_after_the_lease_another_gets_it_and_the_first_is_refused(self, documents: Documents) -> None:
        await documents.insert(TASKS, Task(id="t", due_at=NOON))
        (first,) = await documents.claim(TASKS, "due", now=NOON, lease=self.LEASE)
        assert await documents.claim(TASKS, "due", now=NOON + self.LEASE / 2, lease=self.LEASE) == []
        (second,) = await documents.claim(TASKS, "due", now=NOON + self.LEASE, lease=self.LEASE)
        assert second.attempts == 2
        with pytest.raises(Conflict):
            await documents.put(TASKS, replace(first, due_at=None))
        await documents.put(TASKS, replace(second, due_at=None))

    async def test_a_claim_within_a_queue(self, documents: Documents) -> None:
        await documents.insert(TASKS, Task(id="a", queue="a", due_at=NOON))
        await documents.insert(TASKS, Task(id="b", queue="b", due_at=NOON))
        claimed = await documents.claim(TASKS, "by_queue", ["b"], now=NOON, lease=self.LEASE, limit=5)
        assert [task.id for task in claimed] == ["b"]

    async def test_an_index_that_does_not_end_with_due_at_is_refused(self, documents: Documents) -> None:
        with pytest.raises(ValueError, match="claim"):
            await documents.claim(TASKS, "by_queue", now=NOON, lease=self.LEASE)


class Old(Document, frozen=True, kw_only=True):
    name: str


class New(Document, frozen=True, kw_only=True):
    title: str
    rank: int = 1
    added_at: datetime | None = None


class TestChange:
    OLD = Collection("things", Old)
    NEW = Collection(
        "things",
        New,
        (Index("by_title", ("rank", "title")),),
        v=2,
        upgrades={1: lambda raw: {"title": raw["name"].upper()}},
    )

    async def test_old_documents_are_upgraded_when_read_and_found_by_new_indexes(self, connect: Connect) -> None:
        old = connect()
        await old.open([self.OLD])
        await old.insert(self.OLD, Old(id="a", name="soup"))
        await old.close()
        new = connect()
        await new.open([self.NEW])
        assert await new.get(self.NEW, "a") == New(id="a", title="SOUP", version=1)
        page = await new.find(self.NEW, "by_title", [1, "SOUP"])
        assert [thing.id for thing in page.documents] == ["a"]
        stored = await new.put(self.NEW, replace(page.documents[0], title="stew"))
        assert await new.get(self.NEW, "a") == stored

    async def test_an_index_over_other_fields_under_the_same_name(self, connect: Connect) -> None:
        first = connect()
        await first.open([self.NEW])
        await first.insert(self.NEW, New(id="a", title="x", added_at=NOON))
        await first.close()
        changed = Collection("things", New, (Index("by_title", ("added_at",)),), v=2)
        second = connect()
        await second.open([changed])
        assert await second.count(changed, "by_title", at_least=NOON) == 1

    async def test_an_index_that_becomes_unique(self, connect: Connect) -> None:
        first = connect()
        await first.open([self.NEW])
        await first.insert(self.NEW, New(id="a", title="x"))
        await first.close()
        changed = Collection("things", New, (Index("by_title", ("rank", "title"), unique=True),), v=2)
        second = connect()
        await second.open([changed])
        with pytest.raises(Duplicate) as caught:
            await second.insert(changed, New(id="b", title="x"))
        assert caught.value.index == "by_title"

    async def test_opening_twice_and_from_two_clients_at_once(self, connect: Connect) -> None:
        clients = [connect() for _ in range(4)]
        await asyncio.gather(*(client.open(ALL) for client in clients))
        await clients[0].open(ALL)
        await asyncio.gather(*(client.put(ENTRIES, Entry(id=str(n))) for n, client in enumerate(clients)))
        assert None not in await clients[0].get_many(ENTRIES, ["0", "1", "2", "3"])

    async def test_a_field_the_model_no_longer_has_is_ignored(self, connect: Connect) -> None:
        rich = connect()
        await rich.open([self.NEW])
        await rich.insert(self.NEW, New(id="a", title="x", rank=4))
        poor = Collection("things", msgspec.defstruct("Poor", [("title", str)], bases=(Document,), kw_only=True))
        other = connect()
        await other.open([poor])
        found = await other.get(poor, "a")
        assert found is not None
        assert found.id == "a"


class TestEnd:
    async def test_after_close_nothing_answers(self, connect: Connect) -> None:
        documents = connect()
        await documents.open(ALL)
        await documents.put(ENTRIES, Entry(id="e"))
        await documents.close()
        await documents.close()
        for verb in (documents.get(ENTRIES, "e"), documents.put(ENTRIES, Entry(id="f"))):
            with pytest.raises(Unavailable):
                await verb

    async def test_close_finishes_what_was_begun(self, connect: Connect) -> None:
        documents = connect()
        await documents.open(ALL)
        writes = [asyncio.create_task(documents.put(ENTRIES, Entry(id=str(n)))) for n in range(300)]
        await asyncio.sleep(0)  # the writes begin
        await documents.close()
        assert all(isinstance(stored, Entry) for stored in await asyncio.gather(*writes))

    async def test_a_cancelled_write_leaves_the_others_alone(self, documents: Documents) -> None:
        writes = [asyncio.create_task(documents.put(ENTRIES, Entry(id=str(n)))) for n in range(20)]
        await asyncio.sleep(0)  # the writes begin
        writes[3].cancel()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(outcome, Entry) for outcome in outcomes) == 19

    async def test_a_collection_that_was_not_opened(self, documents: Documents) -> None:
        with pytest.raises(RuntimeError, match="not opened"):
            await documents.get(Collection("nope", Entry), "e")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://host", "names no database"),
        ("mongodb://host:port/db", "is not mongodb://"),
        ("mongodb:///db", "is not mongodb://"),
        ("mongodb+srv://host/db", "sqlite"),
        ("postgres://x", "sqlite"),
        ("sqlite://", "sqlite"),
        ("", "sqlite"),
    ],
)
def test_an_address_without_an_engine_says_what_to_set(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_documents(url, "contract")
