"""What inference does with accepted photos: a job each, committed at once."""

from collections.abc import Callable
from dataclasses import dataclass

from services.inference.outcomes import rejected_job
from services.inference.store import PhotoJob, Store
from shared import kafka, topics
from shared.clock import utc_now
from shared.erasure import Erasure
from shared.errors import Rejected
from shared.events.event import Event
from shared.events.gateway import PhotoSubmitted
from shared.kafka import Broker, DeadLetterCause
from shared.telemetry import bind, current_traceparent

SERVICE = "inference"
FAILED = "The picture could not be taken in; send it again."


@dataclass(frozen=True)
class Handlers:
    """The handlers and what they need. `nudge` wakes the workers."""

    store: Store
    nudge: Callable[[], None]

    async def handle_photo(self, event: Event) -> None:
        """Queue the photo; a repeat changes nothing."""
        if isinstance(event, PhotoSubmitted):
            bind(user_id=event.user_id, photo_id=event.photo_id)
            await self.store.add(job_of(event))
            self.nudge()

    async def fail_photo(self, raw: bytes, cause: DeadLetterCause) -> None:
        """A submission that became a dead letter ends its photo as rejected, if it says which."""
        try:
            event = PhotoSubmitted.model_validate_json(raw)
        except ValueError:
            return
        refusal = Rejected(cause.reason, cause.detail or FAILED)
        await self.store.add(rejected_job(job_of(event), refusal, utc_now()))
        self.nudge()


def job_of(event: PhotoSubmitted) -> PhotoJob:
    """A fresh job, due at once."""
    return PhotoJob(
        id=event.photo_id,
        due_at=utc_now(),
        traceparent=current_traceparent(),
        user_id=event.user_id,
        object_key=event.object.key,
        submitted_at=event.occurred_at,
        grams=event.grams,
        eaten_at=event.eaten_at,
        local_date=event.local_date,
    )


def subscribe(broker: Broker, handlers: Handlers, erasure: Erasure) -> None:
    """One subscriber per topic, each in a group of its own."""
    kafka.subscribe(broker, topics.PHOTOS, SERVICE, handlers.handle_photo, on_dead_letter=handlers.fail_photo)
    kafka.subscribe(broker, topics.USERS, SERVICE, erasure.handler())
