"""Searches one device's dense buckets for samples that were deleted by id alone, and then tells the receipt."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from services.ingest.buckets import Array, joined
from services.ingest.held import Held, read_held
from services.ingest.records import RECEIPTS, DeletionJob, Receipt
from services.ingest.samples import CheckedBatch, CheckedSeries
from services.ingest.storing import Storing
from shared.clock import Clock
from shared.documents import Documents

# So many are struck in one joint write.
STRUCK_AT_ONCE = 2_000
_LAST_HOUR = 2**31 - 1


@dataclass
class _Found:
    """What one stretch of the search found: rows struck, records outlived, and where it goes on."""

    rows: list[Array] = field(default_factory=list[Array])
    outlived: set[int] = field(default_factory=set[int])
    next_hour: int | None = None

    @property
    def struck(self) -> int:
        return sum(len(one) for one in self.rows)


@dataclass(frozen=True)
class DeletionSearch:
    """`tell` publishes a receipt; `days_marked` wakes the workers at the time given.

    `buckets_at_once`: how many are looked at under one lease before the job notes how far it is.
    """

    documents: Documents
    storing: Storing
    tell: Callable[[Receipt, str | None], Awaitable[None]]
    days_marked: Callable[[datetime | None], None]
    clock: Clock
    buckets_at_once: int = 1_000

    async def work(self, job: DeletionJob) -> DeletionJob:
        """Search on from where the job is. The job to store: with its progress, or done and without its ids."""
        if not job.metrics:
            await self._tell(job)
            return replace(job, due_at=None, attempts=0, identity=b"", source_version=b"", index=(), outlived=())
        found = await self._stretch(job, job.metrics[0])
        if found.rows:
            self.days_marked(await self.storing.strike(_batch(job, job.metrics[0], found.rows), job.traceparent))
        outlived = tuple(sorted(found.outlived | set(job.outlived)))
        metrics = job.metrics[1:] if found.next_hour is None else job.metrics
        return replace(
            job,
            metrics=metrics,
            from_hour=found.next_hour or 0,
            outlived=outlived,
            due_at=self.clock(),
            attempts=0,
            last_error=None,
        )

    async def _stretch(self, job: DeletionJob, metric: str) -> _Found:
        wanted = _Wanted.of(job)
        found, seen = _Found(), 0
        held = read_held(self.documents, job.user_id, metric, job.from_hour, _LAST_HOUR, device_id=job.device_id)
        async for one in held:
            found.rows.extend(_strikes(one, wanted, found.outlived))
            seen += 1
            if seen >= self.buckets_at_once or found.struck >= STRUCK_AT_ONCE:
                found.next_hour = one.hour + 1
                break
        await held.aclose()
        return found

    async def _tell(self, job: DeletionJob) -> None:
        """Store the receipt unless it is there, then tell of it, as often as it takes."""
        outlived = tuple((index, "superseded") for index in job.outlived)
        receipt = replace(
            job.receipt,
            deleted=job.receipt.deleted - len(outlived),
            refused=tuple(sorted((*job.receipt.refused, *outlived))),
            completed_at=self.clock(),
        )
        stored = await self.documents.get(RECEIPTS, receipt.id)
        if stored is None or stored.state == "failed":
            # A Conflict ends this attempt, and the next one looks again.
            stored = await self.documents.put(RECEIPTS, replace(receipt, version=stored.version if stored else 0))
        await self.tell(stored, job.traceparent)


@dataclass(frozen=True)
class _Wanted:
    """(version, index) by identity, and the first halves of all identities."""

    by_identity: dict[bytes, tuple[int, int]]
    hi: Array

    @classmethod
    def of(cls, job: DeletionJob) -> "_Wanted":
        identities = [job.identity[place : place + 16] for place in range(0, len(job.identity), 16)]
        versions = np.frombuffer(job.source_version, "<i8").tolist()
        return cls(
            dict(zip(identities, zip(versions, job.index, strict=True), strict=True)),
            np.frombuffer(job.identity, "<u8")[::2],
        )


def _strikes(held: Held, wanted: _Wanted, outlived: set[int]) -> Iterator[Array]:
    """A tombstone for each sample wanted, but for those that have a later version."""
    rows = held.rows
    for place in np.flatnonzero(np.isin(rows["id_hi"], wanted.hi)).tolist():
        row = rows[place : place + 1].copy()
        known = wanted.by_identity.get(np.stack((row["id_hi"], row["id_lo"]), axis=1).tobytes())
        if known is None:
            continue
        version, index = known
        if int(row["version"][0]) > version:
            outlived.add(index)
            continue
        row["version"], row["deleted"], row["value"] = version, 1, 0
        yield row


def _batch(job: DeletionJob, metric: str, rows: list[Array]) -> CheckedBatch:
    struck = joined(rows)
    struck["arrived"] = int(job.occurred_at.timestamp()) // 60
    return CheckedBatch(
        user_id=job.user_id,
        receipt_id=job.id,
        device_id=job.device_id,
        device_kind=job.device_kind,
        zone="",
        received=0,
        series=(CheckedSeries(metric, struck, np.zeros(len(struck), "<u4")),),
        refused=(),
        app="",
        occurred_at=job.occurred_at,
    )
