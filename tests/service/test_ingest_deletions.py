"""What a batch deletes: by metric and time, by id, before and after the sample, and what it leaves behind."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from services.ingest.held import read_held
from services.ingest.records import (
    BUCKETS,
    COLLECTIONS,
    DELETION_JOBS,
    DELETIONS,
    PLACES,
    REPLACED,
    SESSIONS,
    Receipt,
)
from services.ingest.samples import check
from services.ingest.searching import DeletionSearch
from services.ingest.storing import Storing
from shared.documents import open_documents
from shared.events.gateway import SeriesColumns
from shared.events.ingest import DayRecomputed
from tests.batches import batch, series
from tests.polling import eventually
from tests.service.ingesting import EIGHT, EVER, MINUTE, Ingest, gone, ingesting, named, session, steps

DAY = timedelta(days=1)


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncGenerator[Ingest]:
    async with ingesting(tmp_path) as one:
        yield one


def weighed(*samples: tuple[float, str, int], day: int = 0) -> SeriesColumns:
    """(kg, id, version) each at its own minute."""
    at = EIGHT + day * DAY
    return series(
        "body_mass",
        [(at + n * MINUTE, at + n * MINUTE, kg, of, version) for n, (kg, of, version) in enumerate(samples)],
    )


async def settled(ingest: Ingest, receipt_id: str) -> dict[str, object]:
    """The receipt's counts, when its search has ended."""

    async def there() -> bool:
        return (await ingest.receipt(receipt_id)).status_code == 200

    await eventually(there)
    return await ingest.counts(receipt_id)


async def test_a_sample_is_deleted_by_metric_and_time_and_its_day_told_anew(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10, 20)))
    await eventually(ingest.days)
    ingest.clock.ahead += timedelta(hours=20)
    await ingest.send(batch("r2", received=1, deletions=(gone("", "steps", EIGHT, EIGHT + MINUTE),)))
    assert await ingest.counts("r2") == {"deleted": 1}
    assert await ingest.values("steps") == [20]
    (day,) = await eventually(lambda: ingest.days()[1:])
    assert isinstance(day, DayRecomputed)
    assert (day.reason, day.metrics["steps"].sum) == ("deletion", 20)
    (was,) = await ingest.all(REPLACED, "user_metric_start", "user-1", "steps")
    assert (was.value, was.reason, was.receipt_id) == (10, "deleted", "r2")


async def test_a_deletion_comes_twice_and_its_sample_again(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))
    for receipt_id in ("r2", "r3"):
        await ingest.send(batch(receipt_id, received=1, deletions=(gone("", "steps", EIGHT, EIGHT + MINUTE),)))
    assert [await ingest.counts(one) for one in ("r2", "r3")] == [{"deleted": 1}, {"duplicates": 1}]
    await ingest.send(batch("r4", steps(10)))
    assert await ingest.counts("r4") == {"refused": [(0, "deleted")]}
    assert await ingest.values("steps") == []


async def test_a_tombstone_comes_before_its_sample(ingest: Ingest) -> None:
    await ingest.send(batch("r1", received=1, deletions=(gone("a", "heart_rate", EIGHT),)))
    await ingest.send(batch("r2", series("heart_rate", [(EIGHT, EIGHT, 60, "a", 4)])))
    assert [await ingest.counts(one) for one in ("r1", "r2")] == [{"deleted": 1}, {"refused": [(0, "deleted")]}]


async def test_a_deletion_of_a_version_loses_to_a_later_one(ingest: Ingest) -> None:
    await ingest.send(batch("r1", series("heart_rate", [(EIGHT, EIGHT, 60, "a", 5)])))
    await ingest.send(batch("r2", received=1, deletions=(gone("a", "heart_rate", EIGHT, version=4),)))
    assert await ingest.counts("r2") == {"refused": [(0, "superseded")]}
    await ingest.send(batch("r3", received=1, deletions=(gone("a", "heart_rate", EIGHT, version=5),)))
    await ingest.send(batch("r4", series("heart_rate", [(EIGHT, EIGHT, 61, "a", 6)])))
    assert [await ingest.counts(one) for one in ("r3", "r4")] == [{"deleted": 1}, {"stored": 1}]
    assert await ingest.values("heart_rate") == [61]


async def test_within_one_batch_a_deletion_strikes_what_stands_before_it(ingest: Ingest) -> None:
    sent = batch("r1", steps(10, 20), received=3, deletions=(gone("", "steps", EIGHT, EIGHT + MINUTE, index=2),))
    await ingest.send(sent)
    assert await ingest.counts("r1") == {"stored": 2, "deleted": 1}
    assert await ingest.values("steps") == [20]


@pytest.mark.parametrize("metric", ["body_mass", ""])
async def test_a_sparse_sample_is_deleted_by_id_alone_at_once(ingest: Ingest, metric: str) -> None:
    await ingest.send(batch("r1", weighed((80, "a", 1), (81, "b", 1))))
    await ingest.send(batch("r2", received=1, deletions=(gone("a", metric),)))
    assert await ingest.counts("r2") == {"deleted": 1}
    assert await ingest.values("body_mass") == [81]
    await ingest.send(batch("r3", weighed((80, "a", 1), day=-3)))
    assert await ingest.counts("r3") == {"refused": [(0, "deleted")]}


async def test_one_id_that_stands_for_two_metrics_is_deleted_in_both(ingest: Ingest) -> None:
    upper = series("blood_pressure_systolic", [(EIGHT, EIGHT, 120, "p", 1)])
    lower = series("blood_pressure_diastolic", [(EIGHT, EIGHT, 80, "p", 1)], 1)
    await ingest.send(batch("r1", upper, lower))
    await ingest.send(batch("r2", received=1, deletions=(gone("p"),)))
    assert [await ingest.counts(one) for one in ("r1", "r2")] == [{"stored": 2}, {"deleted": 1}]
    assert await ingest.values("blood_pressure_systolic") == await ingest.values("blood_pressure_diastolic") == []


async def test_a_sparse_sample_unknown_by_id_is_kept_away_when_it_comes(ingest: Ingest) -> None:
    await ingest.send(batch("r1", received=1, deletions=(gone("a", "body_mass"),)))
    await ingest.send(batch("r2", weighed((80, "a", 1), (81, "b", 1))))
    assert await ingest.counts("r1") == {"deleted": 1}
    assert await ingest.counts("r2") == {"stored": 1, "refused": [(0, "deleted")]}
    assert not await ingest.all(DELETION_JOBS, "due")


async def test_a_dense_sample_is_searched_for_by_id_alone_and_the_receipt_waits(ingest: Ingest) -> None:
    old = EIGHT - 40 * DAY
    await ingest.send(
        batch("r1", series("heart_rate", [(old, old, 60, "a", 1), (EIGHT, EIGHT, 61, "b", 1)])),
        batch("r2", series("heart_rate", [(old, old, 70, "a", 1)]), device_id="other"),
    )
    await eventually(lambda: ingest.days()[1:])
    ingest.clock.ahead += timedelta(seconds=10)
    before = len(ingest.told())
    await ingest.send(batch("r3", received=2, deletions=(gone("a"), gone("never-seen", index=1))))
    assert await settled(ingest, "r3") == {"deleted": 2}
    assert await ingest.values("heart_rate") == [61]
    assert await ingest.values("heart_rate", "other") == [70]
    (told,) = ingest.told()[before:]
    assert [one.receipt_id for one in told.receipts] == ["r3"]
    (was,) = await ingest.all(REPLACED, "user_metric_start", "user-1", "heart_rate")
    assert (was.value, was.reason, was.receipt_id) == (60, "deleted", "r3")
    # The day of the deleted sample has one device's left.
    await eventually(lambda: any(day.metrics["heart_rate"].mean == 70 for day in ingest.days()[1:]))


async def test_the_receipt_of_a_search_is_not_there_before_its_end_and_once_after(ingest: Ingest) -> None:
    await ingest.send(batch("r1", series("heart_rate", [(EIGHT, EIGHT, 60, "a", 1)])))
    deletion = batch("r2", received=1, deletions=(gone("a"),))
    await ingest.send(deletion)
    assert (await ingest.receipt("r2")).status_code == 404
    # It comes again while it is searched, and once more after.
    await ingest.send(deletion)
    assert await settled(ingest, "r2") == {"deleted": 1}
    await eventually(lambda: [one for one in ingest.told() if one.receipts[0].receipt_id == "r2"])
    await ingest.send(deletion)
    told = [one for one in ingest.told() if one.receipts[0].receipt_id == "r2"]
    assert told[0] == told[-1]

    async def over() -> bool:
        job = await ingest.documents.get(DELETION_JOBS, "r2")
        return (job.due_at, job.identity) == (None, b"")

    # The job's end is stored behind the receipt.
    await eventually(over)


async def test_a_search_does_not_strike_a_later_version(ingest: Ingest) -> None:
    await ingest.send(batch("r1", series("heart_rate", [(EIGHT, EIGHT, 60, "a", 7)])))
    await ingest.send(batch("r2", received=1, deletions=(gone("a", version=6),)))
    assert await settled(ingest, "r2") == {"refused": [(0, "superseded")]}
    assert await ingest.values("heart_rate") == [60]


async def test_a_long_search_goes_on_where_it_was(tmp_path: Path) -> None:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open(COLLECTIONS)
    now = EIGHT + DAY
    storing = Storing(documents, lambda: now)
    hours = [EIGHT - timedelta(hours=n) for n in range(7)]
    held = series("heart_rate", [(at, at, 60, f"h{n}", 1) for n, at in enumerate(hours)])
    deletions = tuple(gone(f"h{n}", "heart_rate", index=n) for n in (0, 3, 6))
    for one in (batch("r1", held), batch("r2", received=3, deletions=deletions)):
        await storing.store([(check(one), None)])
    told: list[Receipt] = []

    async def tell(receipt: Receipt, _cause: str | None) -> None:
        told.append(receipt)

    search = DeletionSearch(documents, storing, tell, lambda _due: None, lambda: now, buckets_at_once=2)
    job = await documents.get(DELETION_JOBS, "r2")
    seen: list[int] = []
    while job is not None and job.due_at is not None:
        job = await search.work(job)
        seen.append(job.from_hour)
    assert len(set(seen)) >= 3
    assert [(one.id, one.deleted) for one in told] == [("r2", 3)]
    rows = [row async for one in read_held(documents, "user-1", "heart_rate", 0, EVER) for row in one.rows]
    assert len(rows) == 4
    await documents.close()


async def test_a_deleted_id_stays_away_in_every_later_batch_of_its_device(ingest: Ingest) -> None:
    await ingest.send(batch("r1", received=1, deletions=(gone("a"),)))
    await settled(ingest, "r1")
    late = series("heart_rate", [(EIGHT, EIGHT, 60, "a", 1), (EIGHT + MINUTE, EIGHT + MINUTE, 61, "b", 1)])
    await ingest.send(batch("r2", late), batch("r3", late, device_id="other"))
    assert await ingest.counts("r2") == {"stored": 1, "refused": [(0, "deleted")]}
    assert await ingest.counts("r3") == {"stored": 2}
    kept = await ingest.documents.get(DELETIONS, "user-1/watch-1")
    assert kept.identity == named("a")


async def test_a_sample_in_a_tail_is_deleted_too(ingest: Ingest) -> None:
    many = [(EIGHT + n * MINUTE, EIGHT + n * MINUTE, 60, f"s{n}", 1) for n in range(40)]
    await ingest.send(batch("r1", series("heart_rate", many)))
    late = EIGHT + 50 * MINUTE
    await ingest.send(batch("r2", series("heart_rate", [(late, late, 99, "late", 1)])))
    assert (await ingest.values("heart_rate"))[-1] == 99
    await ingest.send(batch("r3", received=1, deletions=(gone("late"),)))
    assert await settled(ingest, "r3") == {"deleted": 1}
    assert 99 not in await ingest.values("heart_rate")


@pytest.mark.parametrize("type", ["sleep", "workout"])
async def test_a_session_is_stored_corrected_and_deleted(ingest: Ingest, type: str) -> None:
    end = EIGHT + 60 * MINUTE
    first = session(type, "n", EIGHT, end, version=1)
    longer = session(type, "n", EIGHT, end + MINUTE, version=2)
    for receipt_id, one in (("r1", first), ("r2", first), ("r3", longer), ("r4", first)):
        await ingest.send(batch(receipt_id, received=1, sessions=(one,)))
    assert [await ingest.counts(one) for one in ("r1", "r2", "r3", "r4")] == [
        {"stored": 1},
        {"duplicates": 1},
        {"corrections": 1},
        {"refused": [(0, "superseded")]},
    ]
    await ingest.send(batch("r5", received=1, deletions=(gone("n"),)))
    await ingest.send(batch("r6", received=1, sessions=(longer,)))
    assert [await ingest.counts(one) for one in ("r5", "r6")] == [{"deleted": 1}, {"refused": [(0, "deleted")]}]
    (kept,) = await ingest.all(SESSIONS, "user_hour", "user-1")
    assert (kept.deleted, kept.streams, kept.stages) == (True, (), None)
    was = await ingest.all(REPLACED, "user_metric_start", "user-1", type)
    assert sorted((one.value, one.reason) for one in was) == [(3600, "correction"), (3660, "deleted")]


async def test_a_session_without_an_id_is_deleted_by_its_times(ingest: Ingest) -> None:
    end = EIGHT + 60 * MINUTE
    await ingest.send(batch("r1", received=1, sessions=(session("workout", "", EIGHT, end),)))
    await ingest.send(batch("r2", received=1, deletions=(gone("", "workout", EIGHT, end),)))
    assert await ingest.counts("r2") == {"deleted": 1}
    (kept,) = await ingest.all(SESSIONS, "user_hour", "user-1")
    assert kept.deleted


async def test_a_session_that_was_deleted_by_id_first_stays_away(ingest: Ingest) -> None:
    await ingest.send(batch("r1", received=1, deletions=(gone("n", "workout"),)))
    await ingest.send(batch("r2", received=1, sessions=(session("workout", "n", EIGHT, EIGHT + MINUTE),)))
    assert [await ingest.counts(one) for one in ("r1", "r2")] == [{"deleted": 1}, {"refused": [(0, "deleted")]}]


async def test_a_correction_moves_a_sparse_sample_to_another_day(ingest: Ingest) -> None:
    await ingest.send(batch("r1", weighed((80, "a", 1), (81, "b", 1))))
    await eventually(ingest.days)
    ingest.clock.ahead += timedelta(seconds=10)
    await ingest.send(batch("r2", weighed((79, "a", 2), day=-3)))
    assert await ingest.counts("r2") == {"corrections": 1}
    assert await ingest.values("body_mass") == [79, 81]
    assert sorted(one.columns.count for one in await ingest.all(BUCKETS, "user_metric_hour", "user-1")) == [1, 1]
    (was,) = await ingest.all(REPLACED, "user_metric_start", "user-1", "body_mass")
    assert (was.value, was.reason) == (80, "moved")
    (place,) = [await ingest.documents.get(PLACES, f"user-1/{named('a').hex()}/watch-1")]
    assert place.hours == {"body_mass": int((EIGHT - 3 * DAY).timestamp()) // 86_400 * 24}
    await eventually(lambda: {str(day.date) for day in ingest.days()[1:]} == {"2026-02-26", "2026-03-01"})
    # An older word on it does not move it back, wherever it points.
    await ingest.send(batch("r3", weighed((80, "a", 1))))
    assert await ingest.counts("r3") == {"refused": [(0, "superseded")]}
    assert await ingest.values("body_mass") == [79, 81]


async def test_one_batch_may_move_a_sample_to_and_fro(ingest: Ingest) -> None:
    at = [EIGHT - n * DAY for n in range(3)]
    sent = series("body_mass", [(one, one, 80 + n, "a", n) for n, one in enumerate((at[0], at[1], at[2], at[0]))])
    await ingest.send(batch("r1", sent))
    assert await ingest.counts("r1") == {"stored": 1, "corrections": 3}
    assert await ingest.values("body_mass") == [83]
    await ingest.send(batch("r2", received=1, deletions=(gone("a"),)))
    assert await ingest.values("body_mass") == []
