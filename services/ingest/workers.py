"""Computes dirty days: a day is told again only when its numbers changed."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from msgspec.structs import replace

from services.ingest.days import MetricDay, Series, compute, has_ended
from services.ingest.records import Day, DirtyDay
from services.ingest.store import TRIES, Store, day_id
from shared import topics
from shared.clock import Clock
from shared.documents import Conflict
from shared.errors import Unavailable
from shared.events import DayMetric, DayRecomputed, DayUpdated, derived_id
from shared.outbox import outbox_event, with_events
from shared.telemetry import current_traceparent

# A day of more rows is computed in a thread: records that overlap in many layers take up to 0.1 ms each.
INLINE_ROWS = 2_000


@dataclass(frozen=True)
class DayWorker:
    """`told` is called with the id of a day that has an event to publish."""

    store: Store
    told: Callable[[str], None]
    clock: Clock

    async def compute(self, dirty: DirtyDay) -> DirtyDay:
        """Compute the day from its buckets, and store a revision if it changed. Returns the mark, clean."""
        started = self.clock()
        series, held = await asyncio.gather(self.store.series(dirty), self.store.day(dirty.user_id, dirty.day))
        metrics = await _computed(dirty.day, series)
        for _ in range(TRIES):
            if (held.metrics if held is not None else {}) == metrics:
                break
            zone = dirty.zone or (held.zone if held is not None else await self.store.home_zone(dirty.user_id))
            try:
                day = await self.store.put_day(revised(held, dirty, zone, metrics, self.clock()))
            except Conflict:
                held = await self.store.day(dirty.user_id, dirty.day)
                continue
            self.told(day.id)
            break
        else:
            raise Unavailable("database")
        return replace(dirty, due_at=None, attempts=0, last_error=None, reason="", computed_at=started)


async def _computed(day: date, series: Sequence[Series]) -> dict[str, MetricDay]:
    if sum(len(one.rows) for one in series) <= INLINE_ROWS:
        return compute(day, series)
    return await asyncio.to_thread(compute, day, series)


def revised(held: Day | None, dirty: DirtyDay, zone: str, metrics: dict[str, MetricDay], now: datetime) -> Day:
    """The day's next revision, with its event inside.

    The first revision is always `day.updated`, also for a day long over: nobody was told other numbers before. Later
    ones are `day.recomputed` once the local day ended 6 h ago.
    """
    revision = held.revision + 1 if held is not None else 1
    day = Day(
        id=day_id(dirty.user_id, dirty.day),
        version=held.version if held is not None else 0,
        user_id=dirty.user_id,
        day=dirty.day,
        zone=zone,
        revision=revision,
        metrics=metrics,
        updated_at=now,
        outbox=held.outbox if held is not None else (),
        outbox_at=held.outbox_at if held is not None else None,
    )
    event: DayUpdated | DayRecomputed
    if held is not None and has_ended(dirty.day, zone, now):
        event = DayRecomputed(
            event_id=derived_id(day.id, revision, "day.recomputed"),
            occurred_at=now,
            user_id=day.user_id,
            date=day.day,
            zone=zone,
            revision=revision,
            metrics=_told(metrics),
            previous=_told(held.metrics),
            reason=dirty.reason or "late-data",
        )
    else:
        event = DayUpdated(
            event_id=derived_id(day.id, revision, "day.updated"),
            occurred_at=now,
            user_id=day.user_id,
            date=day.day,
            zone=zone,
            revision=revision,
            metrics=_told(metrics),
        )
    return with_events(day, outbox_event(topics.DAYS, event, current_traceparent() or dirty.traceparent))


def _told(metrics: Mapping[str, MetricDay]) -> dict[str, DayMetric]:
    return {
        name: DayMetric(unit=one.unit, count=one.count, sum=one.sum, min=one.min, max=one.max, mean=one.mean)
        for name, one in metrics.items()
    }
