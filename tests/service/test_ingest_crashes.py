"""A joint write that ends after any of its writes, as MongoDB may leave it: the same batches again mend everything."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from services.ingest.held import read_held
from services.ingest.records import (
    COLLECTIONS,
    DELETION_JOBS,
    DELETIONS,
    DEVICES,
    DIRTY_DAYS,
    PLACES,
    RECEIPTS,
    REPLACED,
    SESSIONS,
    ZONES,
)
from services.ingest.samples import CheckedBatch, check
from services.ingest.storing import Storing
from shared.documents import Documents, Put, open_documents
from shared.errors import Unavailable
from shared.events.gateway import BatchSubmitted
from tests.batches import batch, series
from tests.service.ingesting import EIGHT, EVER, MINUTE, gone, named, session, steps

NOW = datetime(2026, 3, 1, 19, tzinfo=UTC)
DAY = timedelta(days=1)
METRICS = ("heart_rate", "steps", "body_mass", "sleep")


class Torn:
    """Documents whose `put_many` writes one by one, and ends for good after so many."""

    def __init__(self, documents: Documents, after: int) -> None:
        self._documents = documents
        self.left = after
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Sequence[Put]) -> Any:
        for put in puts:
            if not self.left:
                raise Unavailable("database")
            await self._documents.put_many([put])
            self.left -= 1
            self.written.append(put.collection.name)


def before() -> list[BatchSubmitted]:
    """What is there already: a bucket with a tail, weights, a night, a sample of each kind to lose."""
    beats = [(EIGHT + n * MINUTE, EIGHT + n * MINUTE, 60, f"h{n}", 1) for n in range(40)]
    late = EIGHT + 50 * MINUTE
    weights = series("body_mass", [(EIGHT, EIGHT, 80, "w1", 1), (EIGHT + MINUTE, EIGHT + MINUTE, 81, "w2", 1)])
    return [
        batch("b1", series("heart_rate", beats)),
        batch("b2", series("heart_rate", [(late, late, 61, "late", 1)])),
        batch("b3", weights, steps(10, 20, 30, first_index=2)),
        batch("b4", received=1, sessions=(session("sleep", "n1", EIGHT - 8 * 60 * MINUTE, EIGHT, version=1),)),
    ]


def turn() -> list[BatchSubmitted]:
    """Corrections, moves, deletions of all kinds, new samples for a bucket and for another's tail."""
    again = [(EIGHT + n * MINUTE, EIGHT + n * MINUTE, 70, f"h{n}", 2) for n in range(38, 48)]
    moved = series("body_mass", [(EIGHT - 3 * DAY, EIGHT - 3 * DAY, 79, "w1", 2)], 10)
    night = session("sleep", "n1", EIGHT - 32 * 60 * MINUTE, EIGHT - DAY, version=2, index=11)
    deletions = (gone("w2", index=12), gone("", "steps", EIGHT, EIGHT + MINUTE, index=13), gone("h0", index=14))
    return [
        batch("r1", series("heart_rate", again), moved, received=15, sessions=(night,), deletions=deletions),
        batch("r2", steps(5, start=EIGHT + 10 * MINUTE), device_id="phone-1", device_kind="phone", zone="Asia/Tokyo"),
        batch("r3", received=1, sessions=(session("workout", "w", EIGHT, EIGHT + 30 * MINUTE),)),
    ]


def checked(batches: Sequence[BatchSubmitted]) -> list[tuple[CheckedBatch, None]]:
    return [(check(one), None) for one in batches]


async def state(documents: Documents) -> dict[str, Any]:
    """All there is, but for versions, times of writing and what receipts call what was stored twice."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        held = read_held(documents, "user-1", metric, 0, EVER, with_deleted=True)
        found[metric] = {(one.device_id, row.item()) for one in [each async for each in held] for row in one.rows}
    ids = [f"user-1/{named(of).hex()}/watch-1" for of in ("w1", "w2", "n1", "w")]
    for collection, wanted in (
        (PLACES, ids),
        (SESSIONS, ids),
        (DELETIONS, ["user-1/watch-1"]),
        (DEVICES, ["user-1/watch-1", "user-1/phone-1"]),
        (ZONES, ["user-1"]),
    ):
        found[collection.name] = [
            one and {**asdict(one), "version": 0} for one in await documents.get_many(collection, wanted)
        ]
    history = [await documents.find(REPLACED, "user_metric_start", ("user-1", one), limit=500) for one in METRICS]
    found["history"] = {(one.id, one.value, one.reason) for page in history for one in page.documents}
    days = [f"user-1/2026-{day}" for day in ("02-26", "02-27", "02-28", "03-01")]
    marks = await documents.get_many(DIRTY_DAYS, days)
    found["days"] = [mark and (mark.metrics, mark.from_hour, mark.to_hour, mark.due_at is not None) for mark in marks]
    return found


async def crashed(folder: Path, after: int) -> tuple[dict[str, Any], list[str], int]:
    """What there is after a crash behind so many writes and the same turn again; what was written before it."""
    folder.mkdir()
    documents = open_documents(f"sqlite:///{folder}", "ingest")
    await documents.open(COLLECTIONS)
    for one in before():
        await Storing(documents, lambda: NOW).store(checked([one]))
    torn = Torn(documents, after)
    try:
        await Storing(torn, lambda: NOW).store(checked(turn()))
    except Unavailable:
        await Storing(documents, lambda: NOW).store(checked(turn()))
    found = await state(documents)
    receipts = [one for one in await documents.get_many(RECEIPTS, ["r2", "r3"]) if one is not None]
    job = await documents.get(DELETION_JOBS, "r1")
    assert job is not None
    for one in (*receipts, job.receipt):
        counted = one.stored + one.duplicates + one.corrections + one.deleted + len(one.refused)
        assert counted == one.received
    await documents.close()
    return found, torn.written, len(receipts)


async def test_a_turn_that_comes_again_after_a_crash_behind_any_write_ends_the_same(tmp_path: Path) -> None:
    expected, order, _ = await crashed(tmp_path / "whole", 1_000)
    # history, early marks, buckets, tails, …, marks, receipts: what a crash leaves is mended by what comes again.
    assert list(dict.fromkeys(order)) == [
        "replaced",
        "dirty_days",
        "buckets",
        "tails",
        "places",
        "sessions",
        "deletions",
        "devices",
        "zones",
        "deletion_jobs",
        "receipts",
    ]
    for after in range(len(order)):
        found, written, receipts = await crashed(tmp_path / str(after), after)
        assert written == order[:after]
        assert (found, receipts) == (expected, 2), f"after {after} writes, the last of {written[-1:]}"
