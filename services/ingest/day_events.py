"""A day's events, made from the stored day alone: told again, a revision's event has the same id and says the same."""

from collections.abc import Mapping

from services.ingest.days import MetricDay
from services.ingest.records import Day
from shared.events.ingest import DayMetric, DayRecomputed, DayUpdated
from shared.ids import derived_id


def day_event(day: Day) -> DayUpdated | DayRecomputed:
    """What the day's current revision tells."""
    if day.reason:
        return DayRecomputed(
            event_id=derived_id(day.id, day.revision, "day.recomputed"),
            occurred_at=day.updated_at,
            user_id=day.user_id,
            date=day.day,
            zone=day.zone,
            revision=day.revision,
            metrics=told(day.metrics),
            previous=told(day.previous),
            reason=day.reason,
        )
    return DayUpdated(
        event_id=derived_id(day.id, day.revision, "day.updated"),
        occurred_at=day.updated_at,
        user_id=day.user_id,
        date=day.day,
        zone=day.zone,
        revision=day.revision,
        metrics=told(day.metrics),
    )


def told(metrics: Mapping[str, MetricDay]) -> dict[str, DayMetric]:
    """The metrics as they cross our border."""
    return {
        name: DayMetric(
            unit=one.unit,
            count=one.count,
            sum=one.sum,
            min=one.min,
            max=one.max,
            mean=one.mean,
            parts=one.parts,
            derived=one.derived,
        )
        for name, one in metrics.items()
    }
