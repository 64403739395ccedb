"""Several workers at one day: a process that stood still goes on with what it read before."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.ingest.days_store import DaysStore
from services.ingest.preferences import Preferences
from services.ingest.records import COLLECTIONS, DAYS, DIRTY_DAYS, Day
from services.ingest.samples import check
from services.ingest.storing import Storing
from services.ingest.workers import DayWorker
from shared.documents import Collection, Documents, open_documents
from tests.batches import batch, series
from tests.service.ingesting import EIGHT, MINUTE

NOW = datetime(2026, 3, 1, 19, tzinfo=UTC)
LEASE = timedelta(seconds=15)


class Slow:
    """Documents that a process writes days to only after `meanwhile` has happened."""

    def __init__(self, documents: Documents, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._documents = documents
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put(self, collection: Collection[Any], document: Any) -> Any:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None and collection is DAYS:
            await meanwhile()
        return await self._documents.put(collection, document)


def worker(documents: Documents, now: datetime) -> DayWorker:
    return DayWorker(
        DaysStore(documents), Preferences(documents, lambda: now), lambda _: None, lambda: False, lambda: now
    )


async def sent(documents: Documents, number: int, steps: int) -> None:
    start = EIGHT + number * 10 * MINUTE
    rows = [(start, start + 10 * MINUTE, steps, "", 0)]
    await Storing(documents, lambda: NOW).store([(check(batch(f"r{number}", series("steps", rows))), None)])


async def computed(documents: Documents, now: datetime) -> None:
    """All that is due then, as one process computes it."""
    for dirty in await documents.claim(DIRTY_DAYS, "due", now=now, lease=LEASE, limit=10):
        await documents.put(DIRTY_DAYS, await worker(documents, now).compute(dirty))


async def day_of(documents: Documents) -> Day:
    return (await documents.find(DAYS, "user_day", ("user-1",))).documents[0]


@pytest.mark.parametrize("known", [False, True])
async def test_a_worker_that_stood_still_tells_nothing_that_is_over(tmp_path: Path, known: bool) -> None:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open(COLLECTIONS)
    await sent(documents, 1, 100)
    if known:
        await computed(documents, NOW)
        await sent(documents, 2, 10)
    later = NOW + 2 * LEASE

    async def meanwhile() -> None:
        # In another hour, of which the mark that was claimed knows nothing.
        await sent(documents, 9, 1)
        await computed(documents, later)

    (dirty,) = await documents.claim(DIRTY_DAYS, "due", now=NOW + LEASE, lease=LEASE)
    slow: Any = Slow(documents, meanwhile)
    await worker(slow, later).compute(dirty)
    steps = 111 if known else 101
    assert (await day_of(documents)).metrics["steps"].sum == steps
    mark = await documents.get(DIRTY_DAYS, dirty.id)
    assert mark is not None
    assert mark.due_at is None
    await documents.close()
