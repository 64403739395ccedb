"""Any sequence of verbs gives what a dictionary would give."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from shared.documents import Collection, Conflict, Duplicate, Index, Put, open_documents
from tests.contract.conftest import dropped
from tests.contract.documents_models import Task

START = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(seconds=3)


class Thing(Task, frozen=True, kw_only=True):
    rank: int | None = None
    name: str | None = None


THINGS = Collection(
    "things",
    Thing,
    (
        Index("by_rank", ("queue", "rank", "name")),
        Index("name", ("name",), unique=True),
        Index("due", ("queue", "due_at")),
    ),
)
ids = st.sampled_from("abcdef")
queues = st.sampled_from(["p", "q"])
moments = st.integers(0, 8).map(lambda second: START + timedelta(seconds=second))
things = st.builds(
    Thing,
    id=ids,
    version=st.integers(0, 3),
    queue=queues,
    due_at=st.none() | moments,
    rank=st.none() | st.integers(-2, 2),
    name=st.none() | st.sampled_from(["", "Z", "a", "ä", "\U0001f35e"]),
)
bounds = st.none() | st.integers(-2, 2)


class Model(RuleBasedStateMachine):
    """`stored` is what the engine must hold; `alike` gets how many documents it does hold after each step."""

    def __init__(self, url: str, alike: list[int], *, undoes: bool) -> None:
        super().__init__()
        self.url, self.alike, self.undoes = url, alike, undoes
        self.runner = asyncio.Runner()
        self.stored: dict[str, Thing] = {}
        self.connect()

    def connect(self) -> None:
        self.documents = open_documents(self.url, "contract")
        self.runner.run(self.documents.open([THINGS]))

    def teardown(self) -> None:
        self.runner.run(self.documents.close())
        self.runner.run(dropped(self.url))
        self.runner.close()

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.documents.close())
        self.connect()

    @rule(thing=things)
    def insert(self, thing: Thing) -> None:
        expected = Duplicate if thing.id in self.stored or self.name_taken(thing, self.stored) else None
        self.attempt(self.documents.insert(THINGS, thing), expected)
        if expected is None:
            self.stored[thing.id] = replace(thing, version=1)

    @rule(puts=st.lists(things, min_size=1, max_size=3), fresh=st.booleans())
    def put_many(self, puts: list[Thing], fresh: bool) -> None:
        after = dict(self.stored)
        expected: type[Exception] | None = None
        tried: list[Thing] = []
        for thing in puts:
            current = after[thing.id].version if thing.id in after else 0
            written = replace(thing, version=current) if fresh else thing
            tried.append(written)
            if expected is not None:
                continue
            if written.version != current:
                expected = Conflict
            elif self.name_taken(written, after):
                expected = Duplicate
            else:
                after[thing.id] = replace(written, version=current + 1)
        self.attempt(self.documents.put_many([Put(THINGS, thing) for thing in tried]), expected)
        if expected is None or not self.undoes:
            self.stored = after

    @rule(id=ids)
    def delete(self, id: str) -> None:
        assert self.runner.run(self.documents.delete(THINGS, id)) == (self.stored.pop(id, None) is not None)

    @rule(queue=queues, at_least=bounds, below=bounds)
    def delete_where(self, queue: str, at_least: int | None, below: int | None) -> None:
        found = self.ranked(queue, at_least, below)
        deleted = self.documents.delete_where(THINGS, "by_rank", [queue], at_least=at_least, below=below)
        assert self.runner.run(deleted) == len(found)
        for thing in found:
            del self.stored[thing.id]

    @rule(queue=queues, now=moments, limit=st.integers(1, 4))
    def claim(self, queue: str, now: datetime, limit: int) -> None:
        due = [one for one in self.stored.values() if one.queue == queue and one.due_at and one.due_at <= now]
        due.sort(key=lambda one: (one.due_at, one.id))
        expected = [
            replace(one, due_at=now + LEASE, attempts=one.attempts + 1, version=one.version + 1) for one in due[:limit]
        ]
        claimed = self.documents.claim(THINGS, "due", [queue], now=now, lease=LEASE, limit=limit)
        assert self.runner.run(claimed) == expected
        self.stored |= {one.id: one for one in expected}

    @rule(queue=queues, at_least=bounds, below=bounds, descending=st.booleans(), limit=st.integers(1, 4))
    def find(self, queue: str, at_least: int | None, below: int | None, descending: bool, limit: int) -> None:
        found: list[Thing] = []
        cursor: str | None = None
        for _ in itertools.count():
            page = self.runner.run(
                self.documents.find(
                    THINGS,
                    "by_rank",
                    [queue],
                    at_least=at_least,
                    below=below,
                    descending=descending,
                    limit=limit,
                    cursor=cursor,
                )
            )
            found += page.documents
            if (cursor := page.cursor) is None:
                break
        expected = self.ranked(queue, at_least, below)
        assert found == (expected[::-1] if descending else expected)
        count = self.documents.count(THINGS, "by_rank", [queue], at_least=at_least, below=below)
        assert self.runner.run(count) == len(expected)

    @invariant()
    def same(self) -> None:
        found = self.runner.run(self.documents.get_many(THINGS, list("abcdef")))
        assert found == [self.stored.get(id) for id in "abcdef"]
        self.alike.append(len(self.stored))

    def attempt(self, verb: Any, expected: type[Exception] | None) -> None:
        raised: type[Exception] | None = None
        try:
            self.runner.run(verb)
        except (Conflict, Duplicate) as error:
            raised = type(error)
        assert raised is expected

    def name_taken(self, thing: Thing, among: dict[str, Thing]) -> bool:
        return thing.name is not None and any(
            other.name == thing.name and other.id != thing.id for other in among.values()
        )

    def ranked(self, queue: str, at_least: int | None, below: int | None) -> list[Thing]:
        found = [
            (one.rank, one.name.encode(), one.id, one)
            for one in self.stored.values()
            if one.queue == queue
            and one.rank is not None
            and one.name is not None
            and (at_least is None or one.rank >= at_least)
            and (below is None or one.rank < below)
        ]
        return [one for *_, one in sorted(found, key=lambda row: row[:3])]


def test_any_sequence_of_verbs(engine: str, fresh_url: Callable[[], str]) -> None:
    alike: list[int] = []
    run_state_machine_as_test(
        lambda: Model(fresh_url(), alike, undoes=engine == "sqlite"),
        settings=settings(max_examples=40, stateful_step_count=30, deadline=None),
    )
    assert max(alike) > 1, "no sequence of verbs stored anything to compare"
