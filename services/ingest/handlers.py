"""What ingest does with what it hears: batches become buckets, dirty days and receipts; users lend their zone."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from services.ingest.preferences import Preferences
from services.ingest.records import Receipt
from services.ingest.referred import Referred
from services.ingest.samples import CheckedBatch, check, decode, decode_head
from services.ingest.store import Store
from services.ingest.storing import Caused, Storing
from services.ingest.turn import Tally, weight
from shared import topics
from shared.clock import Clock
from shared.dead_letters import DeadLetterCause
from shared.erasure import Erasure
from shared.errors import Rejected
from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.events.gateway import BatchSubmitted
from shared.events.ingest import ReceiptsCompleted, ReceiptSummary
from shared.ids import derived_id
from shared.kafka import Broker, subscribe_batches
from shared.kafka import subscribe as subscribe_to
from shared.telemetry import METRICS

PublishReceipts = Callable[[ReceiptsCompleted, str | None], Awaitable[None]]
SERVICE = "ingest"
# A joint write of so many buckets takes about a second.
MAX_BUCKETS = 10_000
# About 30 bytes each, and a message holds 1,000,000.
MAX_REFUSED_TOLD = 20_000
# A batch by reference is read before it is stored.
Submitted = tuple[CheckedBatch | BatchSubmitted, str | None]
B = TypeVar("B", CheckedBatch, CheckedBatch | BatchSubmitted)


def decide(value: bytes) -> CheckedBatch | BatchSubmitted:
    """A batch's records, each judged, or the message as it is where they lie elsewhere.

    Raises:
        Rejected: no record can be judged.
    """
    batch = decode(value)
    return check(batch) if batch.object is None else batch


def subscribe(broker: Broker, handlers: "Handlers", erasure: Erasure) -> None:
    """Connect the handlers to what they listen to."""
    subscribe_batches(
        broker, topics.BATCHES, SERVICE, decide, handlers.on_batches, on_dead_letter=handlers.on_dead_letter
    )
    subscribe_to(broker, topics.USERS, SERVICE, erasure.handler(handlers.on_user))


@dataclass(frozen=True)
class Handlers:
    """`publish` sends to `ingest.receipts.v1` and takes the cause's traceparent.

    `days_marked` wakes the days' workers at the time given, `searches_begun` those of deletions.
    """

    store: Store
    storing: Storing
    referred: Referred
    publish: PublishReceipts
    days_marked: Callable[[datetime | None], None]
    searches_begun: Callable[[], None]
    clock: Clock
    preferences: Preferences

    async def on_batches(self, batches: Sequence[Submitted]) -> None:
        """Store the batches in one joint write, then tell of all their receipts, old ones unchanged.

        Years of sparse history touch thousands of buckets a batch; then there are several writes, each with its
        receipts, so that a turn that lasts too long goes on where it was.
        """
        first_of_each: dict[str, Submitted] = {}
        for batch, cause in batches:
            first_of_each.setdefault(batch.receipt_id, (batch, cause))
        for portion in portions(list(first_of_each.values())):
            for part in await self._whole(portion):
                await self._store(part)
        referred = {
            batch.object.key: batch for batch, _ in batches if isinstance(batch, BatchSubmitted) and batch.object
        }
        for batch in referred.values():
            await self.referred.drop(batch)

    async def on_dead_letter(self, raw: bytes, cause: DeadLetterCause) -> None:
        """Close the receipt of a batch that can't be stored."""
        head = decode_head(raw)
        if head is None:
            return
        kept = await self.store.record_failed(
            Receipt(
                id=head.receipt_id,
                user_id=head.user_id,
                group=derived_id(head.receipt_id, "failed"),
                state="failed",
                received=head.received,
                stored=0,
                duplicates=0,
                corrections=0,
                refused=(),
                completed_at=self.clock(),
                reason=cause.reason,
            )
        )
        # A batch may fail when it is stored already, after which its group is told as before.
        await self._tell(await self.store.told_with([kept]), {})

    async def on_user(self, event: Event) -> None:
        """Keep the user's home zone."""
        if isinstance(event, UserUpdated):
            await self.preferences.put_home(event.user_id, event.revision, event.profile.home_zone)

    async def _whole(self, portion: Sequence[Submitted]) -> Iterable[list[Caused]]:
        """The batches, those that came by reference read, in portions again.

        The gateway publishes a reference after the object is safe, and nobody but us deletes it, after the batch is
        stored. So one that is gone and not stored will never come back: its sender must hear so, not wait.

        Raises:
            Rejected: an object is gone or damaged.
        """
        referred = [batch for batch, _ in portion if isinstance(batch, BatchSubmitted)]
        read = iter(await asyncio.gather(*map(self.referred.read, referred)))
        whole: list[Caused] = []
        for batch, cause in portion:
            checked = next(read) if isinstance(batch, BatchSubmitted) else batch
            if checked is not None:
                whole.append((checked, cause))
            elif not await self.storing.is_settled(batch.receipt_id):
                raise Rejected("object-missing", "the batch is no longer in the object store; send it again")
        return portions(whole) if referred else [whole]

    async def _store(self, part: Sequence[Caused]) -> None:
        stored = await self.storing.store(part)
        self.days_marked(stored.due_at)
        if stored.searching:
            self.searches_begun()
        for outcome, count in totals(stored.tallies).items():
            METRICS.samples.labels(outcome).inc(count)
        told = await self.store.told_with(stored.known)
        await self._tell([*told, *stored.written], {batch.receipt_id: cause for batch, cause in part})

    async def tell(self, receipt: Receipt, cause: str | None) -> None:
        """Tell of a receipt that is a group of its own."""
        await self._tell([receipt], {receipt.id: cause})

    async def _tell(self, receipts: Sequence[Receipt], causes: dict[str, str | None]) -> None:
        """Publish one event per group; repeated, it has the same id and content. The newest cause goes on."""
        groups: dict[str, dict[str, Receipt]] = {}
        for receipt in receipts:
            groups.setdefault(receipt.group, {})[receipt.id] = receipt
        await asyncio.gather(*(self._tell_group(group, members, causes) for group, members in groups.items()))

    async def _tell_group(self, group: str, members: dict[str, Receipt], causes: dict[str, str | None]) -> None:
        of_group = sorted(members.values(), key=lambda one: one.id)
        cause = next((causes[id] for id in reversed(causes) if id in members and causes[id]), None)
        await self.publish(_event(group, of_group), cause)


def portions(batches: Sequence[tuple[B, str | None]], most: int = MAX_BUCKETS) -> Iterator[list[tuple[B, str | None]]]:
    """The batches in order, cut so that each part touches `most` buckets at most; one batch is never cut.

    One by reference counts as a fourth of that, so that no more than four are in memory.
    """
    part: list[tuple[B, str | None]] = []
    buckets = 0
    for one in batches:
        heavy = weight(one[0]) if isinstance(one[0], CheckedBatch) else MAX_BUCKETS // 4
        if part and buckets + heavy > most:
            yield part
            part, buckets = [], 0
        part.append(one)
        buckets += heavy
    if part:
        yield part


def totals(tallies: Sequence[Tally]) -> dict[str, int]:
    """Samples by what became of them, over all batches of a turn."""
    return {
        "stored": sum(one.stored for one in tallies),
        "duplicate": sum(one.duplicates for one in tallies),
        "corrected": sum(one.corrections for one in tallies),
        "deleted": sum(one.deleted for one in tallies),
        "refused": sum(len(one.refused) for one in tallies),
    }


def _event(group: str, receipts: Sequence[Receipt]) -> ReceiptsCompleted:
    """The group's event; it lists so many refused records that it fits into a message, `GET` lists them all."""
    listed = MAX_REFUSED_TOLD // len(receipts)
    return ReceiptsCompleted(
        event_id=group,
        occurred_at=receipts[0].completed_at,
        user_id=receipts[0].user_id,
        receipts=tuple(
            ReceiptSummary(
                receipt_id=one.id,
                state="failed" if one.state == "failed" else "stored",
                received=one.received,
                stored=one.stored,
                duplicates=one.duplicates,
                corrections=one.corrections,
                deleted=one.deleted,
                refused=one.refused[:listed],
                reason=one.reason,
            )
            for one in receipts
        ),
    )
