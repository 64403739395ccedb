"""What ingest does with what it hears: batches become buckets, dirty days and receipts; users lend their zone."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.ingest.buckets import unpack
from services.ingest.records import Receipt
from services.ingest.samples import CheckedBatch, check, decode, decode_head
from services.ingest.store import TRIES, Store, bucket_of
from services.ingest.turn import Tally, gather, merge_turn, weight
from shared import topics
from shared.clock import Clock
from shared.dead_letters import DeadLetterCause
from shared.documents import Conflict
from shared.errors import Unavailable
from shared.events import ReceiptsCompleted, ReceiptSummary, UserUpdated, derived_id
from shared.kafka import Broker, subscribe_batches
from shared.kafka import subscribe as subscribe_to
from shared.telemetry import METRICS

PublishReceipts = Callable[[ReceiptsCompleted, str | None], Awaitable[None]]
SERVICE = "ingest"
# A joint write of so many buckets takes about a second.
MAX_BUCKETS = 10_000
# About 30 bytes each, and a message holds 1,000,000.
MAX_REFUSED_TOLD = 20_000
Caused = tuple[CheckedBatch, str | None]


def decide(value: bytes) -> CheckedBatch:
    """A batch's records, each judged. Raises `Rejected` where none can be."""
    return check(decode(value))


def subscribe(broker: Broker, handlers: "Handlers") -> None:
    """Connect the handlers to what they listen to."""
    subscribe_batches(
        broker, topics.BATCHES, SERVICE, decide, handlers.on_batches, on_dead_letter=handlers.on_dead_letter
    )
    subscribe_to(broker, topics.USERS, SERVICE, handlers.on_user_updated)


@dataclass(frozen=True)
class Handlers:
    """`publish` sends to `ingest.receipts.v1` and takes the cause's traceparent.

    `days_marked` wakes the workers at the time given.
    """

    store: Store
    publish: PublishReceipts
    days_marked: Callable[[datetime | None], None]
    clock: Clock

    async def on_batches(self, batches: Sequence[Caused]) -> None:
        """Store the batches in one joint write, then tell of all their receipts, old ones unchanged.

        Years of sparse history touch thousands of buckets a batch; then there are several writes, each with its
        receipts, so that a turn that lasts too long goes on where it was.
        """
        first_of_each: dict[str, Caused] = {}
        for batch, cause in batches:
            first_of_each.setdefault(batch.receipt_id, (batch, cause))
        for portion in portions(list(first_of_each.values())):
            receipts = await self._stored(portion)
            await self._tell(receipts, {batch.receipt_id: cause for batch, cause in portion})

    async def on_dead_letter(self, raw: bytes, cause: DeadLetterCause) -> None:
        """Close the receipt of a batch that can't be stored."""
        head = decode_head(raw)
        if head is None:
            return
        receipt = await self.store.record_failed(
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
        await self._tell([receipt], {})

    async def on_user_updated(self, event: UserUpdated) -> None:
        """Keep the user's home zone."""
        await self.store.put_user(event.user_id, event.revision, event.profile.home_zone)

    async def _stored(self, batches: Sequence[Caused]) -> list[Receipt]:
        for _ in range(TRIES):
            known = await self.store.receipts([batch.receipt_id for batch, _ in batches])
            fresh = [one for one in batches if one[0].receipt_id not in known]
            try:
                stored = await self._merged(fresh) if fresh else []
            except Conflict:
                continue
            told = await self.store.receipts_of_groups(sorted({one.group for one in known.values()}))
            return [*told, *stored]
        raise Unavailable("database")

    async def _merged(self, fresh: Sequence[Caused]) -> list[Receipt]:
        turn = gather([batch for batch, _ in fresh])
        held = await self.store.buckets(turn.keys)
        result = merge_turn(turn, [None if one is None else unpack(one.columns) for one in held])
        receipts = self._receipts(turn.batches, result.tallies)
        due_at = await self.store.put_turn(
            [bucket_of(turn.keys[place], rows, held[place]) for place, rows in result.buckets],
            result.dirty,
            {place: (cause, batch.zone) for place, (batch, cause) in enumerate(fresh)},
            receipts,
        )
        self.days_marked(due_at)
        for outcome, count in totals(result.tallies).items():
            METRICS.samples.labels(outcome).inc(count)
        return receipts

    def _receipts(self, batches: Sequence[CheckedBatch], tallies: Sequence[Tally]) -> list[Receipt]:
        ids: dict[str, list[str]] = {}
        for batch in batches:
            ids.setdefault(batch.user_id, []).append(batch.receipt_id)
        groups = {user_id: derived_id("receipts.completed", *sorted(of_user)) for user_id, of_user in ids.items()}
        now = self.clock()
        return [
            Receipt(
                id=batch.receipt_id,
                user_id=batch.user_id,
                group=groups[batch.user_id],
                state="stored",
                received=batch.received,
                stored=tally.stored,
                duplicates=tally.duplicates,
                corrections=tally.corrections,
                refused=tally.refused,
                completed_at=now,
                device_id=batch.device_id,
            )
            for batch, tally in zip(batches, tallies, strict=True)
        ]

    async def _tell(self, receipts: Sequence[Receipt], causes: dict[str, str | None]) -> None:
        """Publish one event per group; repeated, it has the same id and content. The newest cause goes on."""
        groups: dict[str, dict[str, Receipt]] = {}
        for receipt in receipts:
            groups.setdefault(receipt.group, {})[receipt.id] = receipt
        for group, members in groups.items():
            of_group = sorted(members.values(), key=lambda one: one.id)
            cause = next((causes[id] for id in reversed(causes) if id in members and causes[id]), None)
            await self.publish(_event(group, of_group), cause)


def portions(batches: Sequence[Caused], most: int = MAX_BUCKETS) -> Iterator[Sequence[Caused]]:
    """The batches in order, cut so that each part touches `most` buckets at most; one batch is never cut."""
    part: list[Caused] = []
    buckets = 0
    for one in batches:
        heavy = weight(one[0])
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
                refused=one.refused[:listed],
                reason=one.reason,
            )
            for one in receipts
        ),
    )
