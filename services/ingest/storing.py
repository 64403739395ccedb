"""A turn from end to end: read what it needs, decide, write once, and again where somebody else wrote meanwhile."""

import asyncio
from collections import ChainMap, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.ingest.bucket_cache import BucketCache
from services.ingest.consequences import Cause, devices_of, is_news
from services.ingest.deciding import Extras, decide_turn, write_of
from services.ingest.joint_write import TRIES
from services.ingest.known import Facts, read_facts, with_zones_of
from services.ingest.records import DELETION_JOBS, RECEIPTS, DeletionJob, Device, Receipt
from services.ingest.removals import Judged, device_key
from services.ingest.samples import CheckedBatch
from services.ingest.turn import Tally, gather
from shared.clock import Clock
from shared.documents import Conflict, Documents
from shared.errors import Unavailable
from shared.ids import derived_id

Caused = tuple[CheckedBatch, str | None]
# About 400 bytes each.
MAX_DEVICES_KNOWN = 20_000
# A batch that waited longer than this to be stored says that others wait too, as long as it is not older itself.
BEHIND = timedelta(seconds=1)


@dataclass(frozen=True)
class Stored:
    """What became of some batches: receipts known before, and those written now with the tallies of their batches.

    `due_at`: when the first of the days touched is due; `searching`: whether a deletion search has begun.
    """

    known: tuple[Receipt, ...] = ()
    written: tuple[Receipt, ...] = ()
    tallies: tuple[Tally, ...] = ()
    due_at: datetime | None = None
    searching: bool = False


class Storing:
    """Stores batches. One per process: it remembers which devices need no look, and buckets."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._buckets = BucketCache(documents)
        self._devices: OrderedDict[str, Device] = OrderedDict()
        self._last_late = datetime.min.replace(tzinfo=UTC)

    @property
    def behind(self) -> bool:
        """Whether batches wait for more than a second before they are stored."""
        return self._clock() - self._last_late < BEHIND

    def forget(self, user_id: str) -> None:
        """Drop what is remembered of a user."""
        for id in [id for id, device in self._devices.items() if device.user_id == user_id]:
            del self._devices[id]
        self._buckets.forget(user_id)

    async def store(self, batches: Sequence[Caused]) -> Stored:
        """Store what is new of the batches in one joint write.

        Raises:
            Unavailable: the database does not answer, or others wrote the same documents all the time.
        """
        for _ in range(TRIES):
            try:
                return await self._store(batches)
            except Conflict:
                # A device that somebody else wrote may be the cause.
                self._devices.clear()
        raise Unavailable("database")

    async def strike(self, batch: CheckedBatch, traceparent: str | None) -> datetime | None:
        """Merge tombstones found for a batch that is stored already; returns when the first of the days is due."""
        turn = gather([batch])
        for _ in range(TRIES):
            facts, held = await asyncio.gather(read_facts(self._documents, [batch], ()), self._buckets.held(turn.keys))
            decided = await decide_turn(self._buckets, [batch], turn, facts, held)
            facts = await with_zones_of(self._documents, facts, decided.floating)
            causes = [Cause(batch.receipt_id, traceparent, batch.zone)]
            try:
                return await write_of(decided, causes, facts, Extras(), self._clock).run(self._documents, self._clock)
            except Conflict:
                continue
        raise Unavailable("database")

    async def is_settled(self, receipt_id: str) -> bool:
        """Whether that batch is stored, its receipt told or waiting for a search."""
        receipt = await self._documents.get(RECEIPTS, receipt_id)
        if receipt is not None and receipt.state != "failed":
            return True
        return await self._documents.get(DELETION_JOBS, receipt_id) is not None

    async def _store(self, caused: Sequence[Caused]) -> Stored:
        batches = [batch for batch, _ in caused]
        turn = gather(batches)
        facts, held = await asyncio.gather(
            read_facts(self._documents, batches, self._unsure_of(batches)), self._buckets.held(turn.keys)
        )
        known = tuple(one for one in facts.receipts.values() if facts.is_settled(one.id))
        fresh = [one for one in caused if not facts.is_settled(one[0].receipt_id)]
        if not fresh:
            return Stored(known)
        if len(fresh) < len(caused):
            batches = [batch for batch, _ in fresh]
            turn = gather(batches)
        decided = await decide_turn(self._buckets, batches, turn, facts, held)
        facts = await with_zones_of(self._documents, facts, decided.floating)
        tallies = decided.tallies
        receipts = _receipts(decided.judged, tallies, facts, self._clock())
        searches = _searches(decided.judged, receipts, [cause for _, cause in fresh], self._clock())
        extras = Extras(
            [searches.get(one.id, one) for one in receipts],
            devices_of(batches, ChainMap(facts.devices, self._devices)),
        )
        causes = [Cause(batch.receipt_id, traceparent, batch.zone) for batch, traceparent in fresh]
        due_at = await write_of(decided, causes, facts, extras, self._clock).run(self._documents, self._clock)
        self._remember(facts.devices.values(), extras.devices)
        if (now := self._clock()) - min(batch.occurred_at for batch in batches) > BEHIND:
            self._last_late = now
        written = tuple(one for one in receipts if one.id not in searches)
        return Stored(known, written, tallies, due_at, bool(searches))

    def _unsure_of(self, batches: Sequence[CheckedBatch]) -> set[str]:
        """The devices to look up: those not known to be stored as the batches say."""
        unsure: set[str] = set()
        for batch in batches:
            id = device_key(batch.user_id, batch.device_id)
            known = self._devices.get(id)
            if known is None or is_news(known, batch):
                unsure.add(id)
        return unsure

    def _remember(self, read: Iterable[Device], written: Iterable[Device]) -> None:
        for one in read:
            self._devices[one.id] = one
        for one in written:
            # Its version is one more by now: unknown is safe, and read again when there is news of it.
            self._devices[one.id] = one
        while len(self._devices) > MAX_DEVICES_KNOWN:
            self._devices.popitem(last=False)


def _receipts(judged: Sequence[Judged], tallies: Sequence[Tally], facts: Facts, now: datetime) -> list[Receipt]:
    """A receipt per batch; those of one user make one group, whose event tells of them all.

    One that waits for a search is a group of its own. The leader is written first, so that the others are told of.
    """
    ids: dict[str, list[str]] = {}
    for one in judged:
        if not one.searched:
            ids.setdefault(one.batch.user_id, []).append(one.batch.receipt_id)
    members = {user_id: tuple(of_user) for user_id, of_user in ids.items()}
    receipts: list[Receipt] = []
    for one, tally in zip(judged, tallies, strict=True):
        batch = one.batch
        failed = facts.receipts.get(batch.receipt_id)
        group = (batch.receipt_id,) if one.searched else members[batch.user_id]
        receipts.append(
            Receipt(
                id=batch.receipt_id,
                version=failed.version if failed is not None else 0,
                user_id=batch.user_id,
                group=derived_id("receipts.completed", *group),
                leader=group[0] if len(group) > 1 else "",
                members=group if len(group) > 1 and group[0] == batch.receipt_id else (),
                state="stored",
                received=batch.received,
                stored=tally.stored,
                duplicates=tally.duplicates,
                corrections=tally.corrections,
                deleted=tally.deleted,
                refused=tally.refused,
                completed_at=now,
                device_id=batch.device_id,
            )
        )
    return receipts


def _searches(
    judged: Sequence[Judged], receipts: Sequence[Receipt], causes: Sequence[str | None], now: datetime
) -> dict[str, DeletionJob]:
    """By receipt a search for each batch whose deletions need one; its receipt is told alone when that ends."""
    return {
        receipt.id: _search(one, receipt, cause, now)
        for one, receipt, cause in zip(judged, receipts, causes, strict=True)
        if one.searched
    }


def _search(one: Judged, receipt: Receipt, traceparent: str | None, now: datetime) -> DeletionJob:
    batch, remembered = one.batch, one.remembered
    return DeletionJob(
        id=receipt.id,
        user_id=batch.user_id,
        device_id=batch.device_id,
        device_kind=batch.device_kind,
        occurred_at=batch.occurred_at,
        identity=b"".join(each.row_identity for each in remembered),
        source_version=b"".join(each.version.to_bytes(8, "little", signed=True) for each in remembered),
        index=tuple(each.index for each in remembered),
        metrics=tuple(sorted(one.searched)),
        receipt=receipt,
        traceparent=traceparent,
        due_at=now,
    )
