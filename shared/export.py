"""How a service gives out all that it holds of a user: one object per export, written by a job that auth then joins.

Auth deletes the object. Each attempt has a key of its own, so that one that lost its lease spoils nothing; what such a
one left, and what nobody came for, the job sweeps away itself.
"""

from contextlib import suppress
from datetime import datetime, timedelta

from msgspec.structs import replace

from shared import kafka
from shared.clock import Clock, truncated
from shared.documents import Collection, Documents, Duplicate, Index
from shared.erased import Personal
from shared.erasure import Erasure
from shared.events.auth import ExportRequested
from shared.events.personal import ExportPartReady
from shared.exported import Contents, NotExported, write
from shared.ids import derived_id
from shared.jobs import DUE_INDEX, Job, Workers
from shared.kafka import Broker
from shared.objects import Objects
from shared.outbox import OUTBOX_INDEX, OutboxEvent, Relay, outbox_event, with_events
from shared.telemetry import bind, current_traceparent
from shared.topics import EXPORT_PARTS, EXPORTS

# An export waits a day for its parts and is kept for another one.
KEPT = timedelta(hours=24)
# What is left of a part then goes; and a week later what is known of it: no topic brings the request again.
SWEPT_AFTER = KEPT + timedelta(hours=1)
FORGOTTEN_AFTER = timedelta(days=8)


class ExportPart(Job, frozen=True, kw_only=True):
    """A service's part of an export (its id). `written`: auth was told where it lies."""

    user_id: str
    needed_until: datetime
    written: bool = False
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None


PARTS = Collection(
    "export_parts",
    ExportPart,
    (DUE_INDEX, OUTBOX_INDEX, Index("user", ("user_id",)), Index("needed", ("needed_until",))),
)
PERSONAL_PARTS = Personal(PARTS, ("user",))
OWN_PARTS = NotExported(PARTS, "says only that an export like this one was asked for")


class Exporter:
    """Writes one service's parts. Call `listen` before the broker starts, and run `run`."""

    def __init__(
        self,
        service: str,
        documents: Documents,
        objects: Objects,
        contents: Contents,
        relay: Relay,
        clock: Clock,
    ) -> None:
        self._service = service
        self._documents = documents
        self._objects = objects
        self._contents = contents
        self._relay = relay
        self._clock = clock
        self._workers = Workers(documents, PARTS, self.work, concurrency=2, clock=clock, on_stored=self._stored)

    def listen(self, broker: Broker, erasure: Erasure) -> None:
        """Begin whenever a user asks."""
        kafka.subscribe(broker, EXPORTS, self._service, erasure.handler(self.on_export_requested))

    async def on_export_requested(self, event: ExportRequested) -> None:
        """Have the part written; a repeat changes nothing, and what nobody waits for any more is left."""
        bind(user_id=event.user_id)
        now = truncated(self._clock())
        if now >= event.needed_until:
            return
        part = ExportPart(
            id=event.export_id,
            user_id=event.user_id,
            needed_until=event.needed_until,
            due_at=now,
            traceparent=current_traceparent(),
        )
        with suppress(Duplicate):
            await self._documents.insert(PARTS, part)
        self._workers.nudge()
        await self._documents.delete_where(PARTS, "needed", (), below=now - FORGOTTEN_AFTER)

    async def run(self) -> None:
        """Write what is to be written until cancelled."""
        await self._workers.run()

    async def work(self, part: ExportPart) -> ExportPart:
        """Write the part and tell where it is; sweep later."""
        bind(user_id=part.user_id)
        now, place = truncated(self._clock()), f"{self._service}/{part.user_id}/exports/{part.id}"
        if now >= part.needed_until + SWEPT_AFTER:
            await self._objects.delete_all(place)
            return replace(part, due_at=None, attempts=0)
        swept_at = part.needed_until + SWEPT_AFTER
        if part.written or now >= part.needed_until:
            return replace(part, due_at=swept_at, attempts=0)
        written = await write(
            self._objects, f"{place}/{part.version}", self._documents, self._contents, part.user_id, now
        )
        event = ExportPartReady(
            event_id=derived_id(self._service, part.id, "export.part_ready"),
            occurred_at=now,
            user_id=part.user_id,
            export_id=part.id,
            service=self._service,
            object=written.object,
            data_bytes=written.data_bytes,
            files=written.files,
        )
        told = outbox_event(EXPORT_PARTS[self._service], event, part.traceparent)
        return replace(with_events(part, told), written=True, due_at=swept_at, attempts=0, last_error=None)

    def _stored(self, part: ExportPart) -> None:
        if part.outbox:
            self._relay.nudge(PARTS, part.id)
