"""Computes dirty days: a day is told again only when its numbers changed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from services.ingest.day_events import day_event
from services.ingest.days import MetricDay, compute, date_of, has_ended, zone_on
from services.ingest.days_store import DaysStore, HeldDay
from services.ingest.energy_split import ENERGY
from services.ingest.marks import DAY_PAUSE, DAY_PAUSE_BEHIND, Touch, day_id
from services.ingest.metrics import METRICS
from services.ingest.preferences import Preferences, UserSettings
from services.ingest.records import Day, DirtyDay, Recomputation
from shared import topics
from shared.clock import Clock
from shared.documents import Conflict
from shared.errors import Unavailable
from shared.outbox import outbox_event, with_events
from shared.telemetry import current_traceparent

TRIES = 10
# A day of more rows is computed in a thread: records that overlap in many layers take up to 0.1 ms each.
INLINE_ROWS = 2_000


@dataclass(frozen=True)
class DayWorker:
    """`told` is called with the id of a day that has an event to publish.

    `behind` says whether more days are due than there are workers for, or batches wait; then each rests longer.
    """

    store: DaysStore
    preferences: Preferences
    told: Callable[[str], None]
    behind: Callable[[], bool]
    clock: Clock

    async def compute(self, dirty: DirtyDay) -> DirtyDay:
        """Compute what changed of the day, and store a revision if its numbers did. Returns the mark, clean."""
        started = self.clock()
        settings, held = await self._tell(dirty)
        zones = settings.history.fingerprint
        if held.elsewhere and zones != dirty.zones:
            # Marked by other zones than these, what has no offset may have left for a day that nobody marked.
            await self.preferences.touch(_elsewhere(dirty, held))
        if await self.preferences.of(dirty.user_id) != settings:
            # Set while this day was computed, perhaps before it was there to be marked.
            return replace(dirty, due_at=started, attempts=0)
        return replace(
            dirty,
            due_at=None,
            attempts=0,
            last_error=None,
            changed=(),
            reason="",
            computed_at=started,
            rests_until=started + (DAY_PAUSE_BEHIND if self.behind() else DAY_PAUSE),
            zones=zones,
        )

    async def mark(self, job: Recomputation) -> None:
        """Mark the days that a setting changed."""
        await self.preferences.mark(job)

    async def _tell(self, claimed: DirtyDay) -> tuple[UserSettings, HeldDay]:
        """Store the day as it is now, with its event where its numbers changed; returns what they were made from."""
        for _ in range(TRIES):
            # This process may stand still at any point, and somebody else tell the day meanwhile. The day is read
            # before all else, so what is read next, the mark too, is no older than what those knew.
            told = await self.store.day(claimed.user_id, claimed.day)
            dirty = await self.store.mark(claimed.user_id, claimed.day) or claimed
            names = to_compute(dirty)
            settings = await self.preferences.of(dirty.user_id)
            held = await self.store.held(dirty, names, settings.history, settings.ranking)
            day = _as_held(told, dirty, names, settings, await _computed(dirty, held), held.floating, self.clock())
            try:
                if day is not None and day != told:
                    await self.store.put_day(day)
                    self.told(day.id)
            except Conflict:
                continue
            return settings, held
        raise Unavailable("database")


def to_compute(dirty: DirtyDay) -> frozenset[str]:
    """The metrics to read again: what changed, all energies when one did, everything where the mark does not say."""
    names = frozenset(dirty.changed or dirty.metrics or METRICS) & METRICS.keys()
    return names.union(ENERGY) if names.intersection(ENERGY) else names


def _elsewhere(dirty: DirtyDay, held: HeldDay) -> list[Touch]:
    return [
        Touch(
            dirty.user_id,
            date_of(day),
            one.from_hour,
            one.to_hour,
            one.metrics,
            dirty.reason,
            traceparent=dirty.traceparent,
        )
        for day, one in held.elsewhere.items()
    ]


async def _computed(dirty: DirtyDay, held: HeldDay) -> dict[str, MetricDay]:
    if held.rows <= INLINE_ROWS:
        return compute(dirty.day, held.input)
    return await asyncio.to_thread(compute, dirty.day, held.input)


def _as_held(
    told: Day | None,
    dirty: DirtyDay,
    names: frozenset[str],
    settings: UserSettings,
    computed: Mapping[str, MetricDay],
    floating: Mapping[str, int],
    now: datetime,
) -> Day | None:
    """The day with its metrics `names` as computed, a revision more if that changes its numbers; None without any."""
    metrics, rest = dict(computed), set(floating)
    if told is not None:
        metrics = {name: one for name, one in told.metrics.items() if name not in names} | metrics
        rest |= {name for name in told.floating if name not in names}
    day = told
    if (told.metrics if told is not None else {}) != metrics:
        zone = zone_on(dirty.day, settings.history, dirty.zone)
        day = revised(told, dirty, zone, dict(sorted(metrics.items())), now)
    return None if day is None else replace(day, floating=tuple(sorted(rest)))


def revised(held: Day | None, dirty: DirtyDay, zone: str, metrics: dict[str, MetricDay], now: datetime) -> Day:
    """The day's next revision, with its event inside.

    The first revision is always `day.updated`, also for a day long over: nobody was told other numbers before. Later
    ones are `day.recomputed` once the local day ended 6 h ago.
    """
    revision = held.revision + 1 if held is not None else 1
    again = held is not None and has_ended(dirty.day, zone, now)
    day = Day(
        id=day_id(dirty.user_id, dirty.day),
        version=held.version if held is not None else 0,
        user_id=dirty.user_id,
        day=dirty.day,
        zone=zone,
        revision=revision,
        metrics=metrics,
        updated_at=now,
        reason=(dirty.reason or "late-data") if again else "",
        previous=held.metrics if held is not None and again else {},
        outbox=held.outbox if held is not None else (),
        outbox_at=held.outbox_at if held is not None else None,
    )
    return with_events(day, outbox_event(topics.DAYS, day_event(day), current_traceparent() or dirty.traceparent))
