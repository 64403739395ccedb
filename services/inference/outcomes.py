"""How a photo's job ends: read or rejected, the event inside the document."""

from datetime import datetime

from msgspec.structs import replace

from services.inference.readings import FIELDS, Reading
from services.inference.store import Found, Nutrient, PhotoJob, Refusal
from shared import topics
from shared.errors import Rejected
from shared.events.inference import LabelReading, NutrientReading, PhotoRead, PhotoRejected, ReadingMode
from shared.ids import derived_id
from shared.outbox import outbox_event, with_events


def found_of(reading: Reading, model: str, weights_sha256: str) -> Found:
    """The reading as it is kept."""
    return Found(
        nutrients={name: Nutrient(amount.value, amount.confidence) for name, amount in reading.amounts.items()},
        warnings=reading.warnings,
        name=reading.name,
        model=model,
        weights_sha256=weights_sha256,
    )


def label_reading(found: Found) -> LabelReading:
    """The numbers as others see them."""
    known = {name: found.nutrients[name] for name in FIELDS if name in found.nutrients}
    return LabelReading(
        **{name: NutrientReading(amount=n.amount, confidence=n.confidence) for name, n in known.items()}
    )


def mode_of(found: Found) -> ReadingMode:
    """Which model read it; there is no fallback model."""
    return ReadingMode(model=found.model, weights_sha256=found.weights_sha256, fallback=False)


def read_job(job: PhotoJob, found: Found, now: datetime) -> PhotoJob:
    """`job` as read; due again for deleting the original."""
    event = PhotoRead(
        event_id=derived_id(job.id, "photo.read"),
        occurred_at=now,
        user_id=job.user_id,
        photo_id=job.id,
        reading=label_reading(found),
        warnings=found.warnings,
        mode=mode_of(found),
        name=found.name,
        grams=job.grams,
        eaten_at=job.eaten_at,
        local_date=job.local_date,
    )
    ended = replace(job, state="read", found=found, due_at=now, last_error=None)
    return with_events(ended, outbox_event(topics.READINGS, event, job.traceparent))


def rejected_job(job: PhotoJob, rejected: Rejected, now: datetime) -> PhotoJob:
    """`job` as rejected, with the reason and what to do; due again for deleting the original."""
    event = PhotoRejected(
        event_id=derived_id(job.id, "photo.rejected"),
        occurred_at=now,
        user_id=job.user_id,
        photo_id=job.id,
        reason=rejected.reason,
        detail=rejected.detail,
    )
    refusal = Refusal(rejected.reason, rejected.detail)
    ended = replace(job, state="rejected", refusal=refusal, due_at=now, last_error=rejected.reason)
    return with_events(ended, outbox_event(topics.READINGS, event, job.traceparent))
