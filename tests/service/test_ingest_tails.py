"""Whether rows wait in a tail or stand in the bucket, and whoever wrote them, what is readable is the same."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ingest import tails
from services.ingest.bucket_cache import BucketCache, size_of
from services.ingest.held import read_held
from services.ingest.records import BUCKETS, COLLECTIONS, TAILS
from services.ingest.samples import check
from services.ingest.storing import Storing
from services.ingest.turn import BucketKey
from shared.documents import Documents, Put, open_documents
from tests.batches import batch, series
from tests.service.ingesting import EIGHT, EVER, gone

NOW = datetime(2026, 3, 1, 19, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
HOUR_OF_EIGHT = round(EIGHT.timestamp()) // 3600
# (second, value or None for a deletion, version, whether the source names it)
Sample = tuple[int, int | None, int, bool]
samples = st.lists(
    st.tuples(
        st.integers(30, 70),
        st.sampled_from([60, 60, 60, 61, 62, 62, None]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=5,
)


def start_of(sample: Sample) -> datetime:
    return EIGHT + sample[0] * SECOND


def sent(number: int, one: list[Sample]) -> object:
    live = [sample for sample in one if sample[1] is not None]
    dead = [sample for sample in one if sample[1] is None]
    rows = [(start_of(s), start_of(s), s[1] or 0, f"s{s[0]}" if s[3] else "", s[2]) for s in live]
    deletions = tuple(
        gone(f"s{s[0]}" if s[3] else "", "heart_rate", start_of(s), start_of(s), version=s[2], index=len(live) + n)
        for n, s in enumerate(dead)
    )
    return check(batch(f"r{number}", series("heart_rate", rows), received=len(one), deletions=deletions))


def after(turns: list[list[list[Sample]]]) -> list[tuple[int, float]]:
    """What a plain loop keeps: (second, value) of live samples."""
    final = 2**62
    kept: dict[tuple[int, bool], tuple[int, bool, int]] = {(n, False): (0, False, 50) for n in range(40)}
    for one in (each for turn in turns for each in turn):
        for second, value, version, is_named in sorted(one, key=lambda sample: sample[1] is None):
            dead = value is None
            rank = (final if dead and not version else version, dead)
            held = kept.get((second, is_named))
            if held is None or rank >= held[:2]:
                kept[second, is_named] = (*rank, value or 0)
    return sorted((second, value) for (second, _), (_, dead, value) in kept.items() if not dead)


async def read(documents: Documents) -> list[tuple[int, float]]:
    held = read_held(documents, "user-1", "heart_rate", 0, EVER)
    began = round(EIGHT.timestamp())
    rows = [row async for one in held for row in one.rows]
    return sorted((int(row["start"]) // 1_000_000 - began, float(row["value"])) for row in rows)


async def stored(folder: Path, turns: list[list[list[Sample]]]) -> tuple[list[tuple[int, float]], int]:
    documents = open_documents(f"sqlite:///{folder}", "ingest")
    await documents.open(COLLECTIONS)
    # Each remembers the buckets as it saw them, and the other one writes them.
    processes = [Storing(documents, lambda: NOW), Storing(documents, lambda: NOW)]
    base = [(n, 50, 0, False) for n in range(40)]
    await processes[0].store([(sent(0, base), None)])
    number = 0
    for place, turn in enumerate(turns):
        batches = []
        for one in turn:
            number += 1
            batches.append((sent(number, one), None))
        done = await processes[place // 2 % 2].store(batches)
        assert [one.received for one in done.written] == [
            one.stored + one.duplicates + one.corrections + one.deleted + len(one.refused) for one in done.written
        ]
    found = await read(documents)
    found_tails = await documents.find(TAILS, "user_metric_hour", ("user-1",))
    await documents.close()
    return found, sum(one.version for one in found_tails.documents)


@pytest.fixture(autouse=True, scope="module")
def short_tails() -> Iterator[None]:
    """So short that a few turns fill them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "SMALLEST", 3)
        patch.setattr(tails, "LARGEST", 6)
        yield


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(samples, min_size=1, max_size=2), max_size=6))
def test_any_turns_leave_what_a_plain_loop_leaves(turns: list[list[list[Sample]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found, _ = asyncio.run(stored(Path(folder), turns))
    assert found == after(turns)


def test_turns_of_single_new_samples_go_through_a_tail(tmp_path: Path) -> None:
    turns = [[[(second, 60, 0, False)]] for second in range(40, 70)]
    found, writes = asyncio.run(stored(tmp_path, turns))
    assert found == after(turns)
    assert writes >= 25


class Overtaken:
    """Documents in which somebody else's write happens just before the next one."""

    def __init__(self, documents: Documents, others: Callable[[], Awaitable[object]]) -> None:
        self._documents = documents
        self._others: Callable[[], Awaitable[object]] | None = others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Sequence[Put]) -> Any:
        others, self._others = self._others, None
        if others is not None:
            await others()
        return await self._documents.put_many(puts)


@pytest.mark.parametrize("newer_in_tail", [True, False])
async def test_writers_who_did_not_see_each_other_hide_no_newer_sample(tmp_path: Path, newer_in_tail: bool) -> None:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open(COLLECTIONS)
    other = Storing(documents, lambda: NOW)
    await other.store([(sent(0, [(n, 50, 0, True) for n in range(40)]), None)])
    many: list[Sample] = [(n, 70, 1, True) for n in range(45, 60)]
    one: list[Sample] = [(50, 80, 2 if newer_in_tail else 0, True)]

    slow = Storing(Overtaken(documents, lambda: other.store([(sent(1, many), None)])), lambda: NOW)
    await slow.store([(sent(2, one), None)])
    tail = (await documents.find(TAILS, "user_metric_hour", ("user-1",))).documents[0]
    assert tail.columns.count == 1
    wanted = after([[many], [one]])[40:]
    kept = [(second, 50.0) for second in range(40)] + wanted
    assert await read(documents) == kept

    # What came through neither's eyes goes into the bucket with the next rows, and stays as it is.
    await other.store([(sent(3, [(61, 90, 0, True)]), None)])
    await other.store([(sent(4, [(n, 91, 0, True) for n in range(62, 70)]), None)])
    assert await read(documents) == [*kept, (61, 90.0), *((n, 91.0) for n in range(62, 70))]
    await documents.close()


async def test_buckets_are_remembered_while_there_is_room_and_never_stale(tmp_path: Path) -> None:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open(COLLECTIONS)
    storing = Storing(documents, lambda: NOW)
    for hour in range(3):
        rows = [(EIGHT + hour * HOUR + n * SECOND, EIGHT + hour * HOUR + n * SECOND, 60.0, "", 0) for n in range(50)]
        await storing.store([(check(batch(f"r{hour}", series("heart_rate", rows))), None)])
    keys = [
        BucketKey("user-1", "heart_rate", "watch-1", "watch", hour) for hour in range(HOUR_OF_EIGHT, HOUR_OF_EIGHT + 3)
    ]
    stored = [await documents.get(BUCKETS, key.id) for key in keys]
    buckets = [one for one in stored if one is not None]
    assert len(buckets) == 3

    cache = BucketCache(documents, max_bytes=2 * size_of(buckets[0]))
    first = await cache.held(keys[:2])
    again = await cache.held([keys[1], keys[0]])
    assert all(again[key.id].bucket is first[key.id].bucket for key in keys[:2])
    # The third takes the place of the one that was not used for longest.
    await cache.held(keys[2:])
    held = await cache.held(keys)
    assert held[keys[0].id].bucket is again[keys[0].id].bucket
    assert held[keys[1].id].bucket is not again[keys[1].id].bucket

    await documents.put(BUCKETS, replace(buckets[0], device_kind="ring"))
    fresh = (await cache.held(keys[:1]))[keys[0].id].bucket
    assert fresh is not None
    assert (fresh.device_kind, fresh.version) == ("ring", 2)
    await documents.delete(BUCKETS, keys[0].id)
    assert (await cache.held(keys[:1]))[keys[0].id].bucket is None
    await documents.close()
