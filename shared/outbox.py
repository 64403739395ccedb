"""Events that travel inside the document they tell about, and the relay that publishes and clears them in order."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, cast

import msgspec
from msgspec.structs import replace

from shared.cancelling import together
from shared.clock import truncated, utc_now
from shared.documents import Collection, Conflict, Document, Documents, Index
from shared.errors import Erased, Rejected, Unavailable
from shared.events.event import Event
from shared.ids import derived_id
from shared.redaction import whereabouts
from shared.telemetry import METRICS, current_traceparent
from shared.topics import TOPICS, Topic

logger = logging.getLogger(__name__)

OUTBOX_INDEX = Index("outbox", ("outbox_at",))
# Beyond so many unpublished events a document takes no more: the broker has been away too long.
MAX_PENDING = 100
PAGE = 200
# A state topic keeps the last record of a key alone, so that one must be the newest.
STATES = frozenset(topic.name for topic in TOPICS if topic.kind == "state")
# A send ends after 21 s at the latest (shared/publishing.py) and begins in the first quarter; the rest is for clocks
# that differ.
LEASE = timedelta(seconds=40)


class OutboxEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event ready to be sent: `topic` is the topic's name, `value` the record's bytes, None to delete the key."""

    event_id: str
    topic: str
    key: str
    value: bytes | None
    traceparent: str | None = None


class Outboxed(Document, frozen=True, kw_only=True):
    """A document with events to publish. `outbox_at` is when the oldest came, None without any.

    While a relay publishes to a state topic it is a moment to come: until then no other process does.

    A struct has one parent with fields: a job that also has events declares these two fields itself.
    """

    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None


class HasOutbox(Protocol):
    """What the functions below need of a document."""

    @property
    def outbox(self) -> tuple[OutboxEvent, ...]:
        """The events to publish, oldest first."""
        ...

    @property
    def outbox_at(self) -> datetime | None:
        """When the oldest of them came, None without any."""
        ...


class PublishBytes(Protocol):
    """`shared.kafka.publish_bytes` with its broker bound; returns after the broker's ack."""

    async def __call__(self, topic_name: str, value: bytes | None, key: str, *, traceparent: str | None = None) -> None:
        """Raises when the record was not acknowledged."""
        ...


O = TypeVar("O", bound=HasOutbox)  # noqa: E741 - a type variable has one letter, this is the outbox's


def outbox_event(topic: Topic, event: Event, traceparent: str | None = None) -> OutboxEvent:
    """`event` as it will be sent to `topic`, as part of `traceparent` (or of the current trace)."""
    return OutboxEvent(
        event_id=event.event_id,
        topic=topic.name,
        key=str(getattr(event, topic.key)),
        value=event.model_dump_json().encode(),
        traceparent=traceparent or current_traceparent(),
    )


def null_record(topic: Topic, key: str, cause: object) -> OutboxEvent:
    """What deletes `key` from a state topic; `cause` tells one deletion of it from the next."""
    return OutboxEvent(
        event_id=derived_id(topic.name, key, cause, "null"),
        topic=topic.name,
        key=key,
        value=None,
        traceparent=current_traceparent(),
    )


def with_events(document: O, *events: OutboxEvent) -> O:
    """`document` with `events` appended; one that is already waiting is not added again.

    Raises:
        Unavailable: ("broker") 100 events of this document wait already.
    """
    waiting = {event.event_id for event in document.outbox}
    new = tuple(event for event in events if event.event_id not in waiting)
    if not new:
        return document
    if len(document.outbox) >= MAX_PENDING:
        raise Unavailable("broker")
    return _with_outbox(document, document.outbox + new, document.outbox_at or utc_now())


def _with_outbox(document: O, outbox: tuple[OutboxEvent, ...], outbox_at: datetime | None) -> O:
    struct = cast(Any, document)
    return replace(struct, outbox=outbox, outbox_at=outbox_at)


class Relay:
    """Publishes the events of documents, in order within each document, and clears what was sent.

    An event is sent at least once: a crash between sending and clearing sends it again with the same id. Documents
    are nudged after a write; a scan of `OUTBOX_INDEX` each second finds what a crash or a failure left behind. A
    document stops at its first failure until the next scan; an event that the broker can never take (`Rejected`) is
    logged as an error and dropped. Two processes may both send an event of a log; readers refuse revisions they have
    seen. Those of state topics are sent by one process at a time, under a lease: sent late by another one, an older
    state would stay in the topic for good.
    """

    def __init__(
        self,
        documents: Documents,
        collections: Sequence[Collection[Any]],
        publish_bytes: PublishBytes,
        *,
        concurrency: int = 32,
        scan_seconds: float = 1.0,
        lease: timedelta = LEASE,
    ) -> None:
        self._documents = documents
        self._collections = {collection.name: collection for collection in collections}
        self._publish = publish_bytes
        self._concurrency = concurrency
        self._scan_seconds = scan_seconds
        # Full, it drops nudges (the scan finds them again) and makes the scan wait.
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=10_000)
        self._queued: set[tuple[str, str]] = set()
        self._busy: set[tuple[str, str]] = set()
        self._again: set[tuple[str, str]] = set()
        self._failing = False
        self._lease = lease
        self._leases: dict[tuple[str, str], datetime] = {}

    def nudge(self, collection: Collection[Any], id: str) -> None:
        """Publish this document's events soon. Raises KeyError for a collection that is not the relay's."""
        name = self._collections[collection.name].name
        if self._admit((name, id)) and not self._queue.full():
            self._queued.add((name, id))
            self._queue.put_nowait((name, id))

    async def run(self) -> None:
        """Publish until cancelled; what is cut off in the middle is sent again at the next start."""
        await together(self._scan(), *(self._work() for _ in range(self._concurrency)))

    def _admit(self, place: tuple[str, str]) -> bool:
        """Whether `place` must be queued; one that is being worked on is looked at again afterwards."""
        if place in self._busy:
            self._again.add(place)
            return False
        return place not in self._queued

    async def _scan(self) -> None:
        while True:
            pending = 0
            try:
                for collection in self._collections.values():
                    pending += await self._scan_collection(collection)
                METRICS.outbox_pending.set(pending)
            except Unavailable:
                logger.warning("the outbox scan did not reach the database")
            except Exception as error:
                logger.error("the outbox scan failed: %s", whereabouts(error))
            await asyncio.sleep(self._scan_seconds)

    async def _scan_collection(self, collection: Collection[Any]) -> int:
        pending, cursor = 0, None
        while True:
            page = await self._documents.find(collection, OUTBOX_INDEX.name, limit=PAGE, cursor=cursor)
            pending += len(page.documents)
            for document in page.documents:
                place = (collection.name, document.id)
                if self._admit(place):
                    self._queued.add(place)
                    await self._queue.put(place)
            cursor = page.cursor
            if cursor is None:
                return pending

    async def _work(self) -> None:
        while True:
            place = await self._queue.get()
            self._queued.discard(place)
            self._busy.add(place)
            try:
                await self._publish_document(self._collections[place[0]], place[1])
                self._note(None, place[0])
            except Erased:
                self._again.discard(place)  # the document is deleted as it is, with what it has to tell
            except Exception as error:
                self._again.discard(place)
                self._note(error, place[0])
            finally:
                self._busy.discard(place)
            if place in self._again:
                self._again.discard(place)
                self.nudge(self._collections[place[0]], place[1])

    async def _publish_document(self, collection: Collection[Any], id: str) -> None:
        while (document := await self._documents.get(collection, id)) is not None and document.outbox:
            until: datetime | None = None
            if any(event.topic in STATES for event in document.outbox):
                if not self._may_lease(collection, document):
                    return
                try:
                    document = await self._leased(collection, document)
                except Conflict:
                    continue
                until = document.outbox_at - self._lease * 3 / 4
            sent: set[str] = set()
            release = False
            try:
                for event in document.outbox:
                    if until is not None and utc_now() > until:
                        break
                    await self._send(f"{collection.name} {id}", event)
                    sent.add(event.event_id)
            except Exception:
                # What failed is on its way no more, and another process may reach the broker.
                release = until is not None
                raise
            finally:
                if sent or release:
                    await self._clear(collection, document, sent, release=release)
        self._leases.pop((collection.name, id), None)

    def _may_lease(self, collection: Collection[Any], document: HasOutbox) -> bool:
        """Whether no other process publishes its events now."""
        held = self._leases.get((collection.name, cast(Any, document).id))
        return document.outbox_at is None or document.outbox_at <= utc_now() or document.outbox_at == held

    async def _leased(self, collection: Collection[Any], document: Any) -> Any:
        """The document with its events for this process alone. Raises Conflict: it was written meanwhile."""
        until = truncated(utc_now() + self._lease)
        stored = await self._documents.put(collection, _with_outbox(document, document.outbox, until))
        self._leases[(collection.name, document.id)] = until
        return stored

    async def _send(self, place: str, event: OutboxEvent) -> None:
        try:
            await self._publish(event.topic, event.value, event.key, traceparent=event.traceparent)
        except Rejected as rejected:
            # It can never be sent, and kept it would hold back every later event of its document.
            METRICS.published.labels(event.topic, "dropped").inc()
            logger.error("event %s of %s is dropped, not sent to %s: %s", event.event_id, place, event.topic, rejected)

    async def _clear(self, collection: Collection[Any], document: Any, sent: set[str], *, release: bool) -> None:
        """Take out exactly what was sent, whatever else was written meanwhile; `release` ends the lease too."""
        lease = document.outbox_at
        while document is not None:
            rest = tuple(event for event in document.outbox if event.event_id not in sent)
            outbox_at = utc_now() if release and document.outbox_at == lease else document.outbox_at
            try:
                await self._documents.put(collection, _with_outbox(document, rest, outbox_at if rest else None))
                return
            except Conflict:
                document = await self._documents.get(collection, document.id)

    def _note(self, error: Exception | None, collection: str) -> None:
        """Log the first of a row of failures, and its end; the scan repeats them each second."""
        if error is not None and not self._failing:
            logger.warning("events of %s wait: %s", collection, type(error).__name__)
        elif error is None and self._failing:
            logger.info("events are published again")
        self._failing = error is not None
