"""Marks on days: what touches a day adds to its mark, and the mark says when the day is to be computed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from msgspec.structs import replace

from services.ingest.records import DirtyDay

# A day is computed at once when it was clean for so long, else this long after it was last computed.
DAY_PAUSE = timedelta(seconds=2)
# The same while more days are due than the workers can compute.
DAY_PAUSE_BEHIND = timedelta(seconds=10)


@dataclass(frozen=True)
class Touch:
    """Something that changes a day: `metrics` in the UTC hours [from_hour, to_hour), and why.

    `reason`: late-data, correction, priorities-changed, zone-changed, …; `zone`: "" where it is not told.
    """

    user_id: str
    day: date
    from_hour: int
    to_hour: int
    metrics: Iterable[str]
    reason: str
    zone: str = ""
    traceparent: str | None = None


def day_id(user_id: str, day: date) -> str:
    """The id of a day's documents."""
    return f"{user_id}/{day.isoformat()}"


def marked(held: DirtyDay | None, touch: Touch, now: datetime) -> DirtyDay:
    """The day's mark after one more touch; it forgets nothing until a worker has computed it."""
    metrics = set(touch.metrics)
    if held is None:
        return DirtyDay(
            id=day_id(touch.user_id, touch.day),
            user_id=touch.user_id,
            day=touch.day,
            from_hour=touch.from_hour,
            to_hour=touch.to_hour,
            metrics=tuple(sorted(metrics)),
            changed=tuple(sorted(metrics)),
            zone=touch.zone,
            reason=touch.reason,
            traceparent=touch.traceparent,
            due_at=now,
        )
    return replace(
        held,
        from_hour=min(held.from_hour, touch.from_hour),
        to_hour=max(held.to_hour, touch.to_hour),
        metrics=tuple(sorted(metrics.union(held.metrics))),
        changed=tuple(sorted(metrics.union(held.changed))),
        zone=touch.zone or held.zone,
        # New samples may change anything, so they are the reason told even when a correction comes with them.
        reason="late-data" if held.reason == "late-data" else touch.reason,
        traceparent=touch.traceparent or held.traceparent,
        due_at=_due_at(held, now),
        attempts=0,
    )


def _due_at(held: DirtyDay, now: datetime) -> datetime:
    if held.due_at is None:
        return now if held.rests_until is None else max(now, held.rests_until)
    if held.attempts == 0:
        return held.due_at
    # Claimed or backing off: the run under way may have read before this write, so the day rests as long as last time.
    if held.rests_until is None or held.computed_at is None:
        return now + DAY_PAUSE
    return now + (held.rests_until - held.computed_at)
