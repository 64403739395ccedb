"""Days as ingest keeps them: what is held of one, and what was last told."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from msgspec.structs import replace

from services.ingest.buckets import HOUR_US, Array, joined
from services.ingest.days import HOURS_AFTER, HOURS_BEFORE, DayInput, day_numbers, number_of
from services.ingest.held import Held, all_held
from services.ingest.marks import day_id
from services.ingest.merging import Series
from services.ingest.priorities import Ranking
from services.ingest.records import DAYS, DEVICES, DIRTY_DAYS, SESSIONS, Day, Device, DirtyDay, Session
from services.ingest.removals import device_key
from services.ingest.sleep import NO_SPELLS, Sleep, of_samples, of_session
from services.ingest.workouts import Workout
from services.ingest.zones import ZoneHistory
from shared.documents import Documents
from shared.events.gateway import UNKNOWN_OFFSET, StageColumns

PAGE = 100
# A session with all its streams takes up to 1.6 MB.
SESSIONS_AT_ONCE = 8
# A sleep that ends in a day may hang together with stages of the days beside it; a workout that begins in it may end
# 48 h later.
SESSIONS_AFTER = HOURS_AFTER + 48
SLEEP, WORKOUT = "sleep", "workout"


@dataclass
class Elsewhere:
    """Metrics in the UTC hours [`from_hour`, `to_hour`)."""

    metrics: set[str] = field(default_factory=set[str])
    from_hour: int = 2**31
    to_hour: int = 0


@dataclass(frozen=True)
class HeldDay:
    """All that may touch a day, of some metrics; `floating`: by metric, how many came without an offset.

    `elsewhere`: what came without an offset and lies in other days, by day its metrics and their UTC hours.
    """

    input: DayInput
    floating: dict[str, int]
    elsewhere: dict[int, "Elsewhere"]

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return sum(len(one.rows) for one in self.input.series)


class DaysStore:
    """Days by what they are for. Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def held(self, dirty: DirtyDay, metrics: Iterable[str], history: ZoneHistory, ranking: Ranking) -> HeldDay:
        """What is held of those metrics that may touch the day; what has no offset takes that of the user's zone."""
        names = sorted(set(metrics))
        read = await asyncio.gather(*(self._series(dirty, name) for name in names if name != WORKOUT))
        series = [one for found in read for one in found]
        sessions = await self._sessions(dirty, {SLEEP, WORKOUT}.intersection(names))
        told = [Series(one.metric, one.device_id, one.device_kind, history.with_offsets(one.rows)) for one in series]
        floating = Counter(one.type for one in sessions if one.offset_minutes == UNKNOWN_OFFSET)
        for sent, one in zip(series, told, strict=True):
            floating[one.metric] += _without_offset(sent.rows, one, number_of(dirty.day))
        return HeldDay(
            DayInput(
                [one for one in told if one.metric != SLEEP],
                _sleeps([one for one in told if one.metric == SLEEP], sessions, history),
                [_workout(one, history) for one in sessions if one.type == WORKOUT],
                ranking,
            ),
            {name: count for name, count in floating.items() if count},
            _elsewhere([one.rows for one in series], told, number_of(dirty.day)),
        )

    async def day(self, user_id: str, day: date) -> Day | None:
        """The day as last told."""
        return await self._documents.get(DAYS, day_id(user_id, day))

    async def days(self, user_id: str, from_day: date, below: date | None) -> list[Day]:
        """The days told of from `from_day` on, before `below`, in order."""
        found: list[Day] = []
        cursor: str | None = None
        while True:
            page = await self._documents.find(
                DAYS, "user_day", (user_id,), at_least=from_day, below=below, limit=PAGE, cursor=cursor
            )
            found.extend(page.documents)
            if (cursor := page.cursor) is None:
                return found

    async def put_day(self, day: Day) -> Day:
        """Store a revision. Raises `Conflict`."""
        return await self._documents.put(DAYS, day)

    async def mark(self, user_id: str, day: date) -> DirtyDay | None:
        """The day's mark, None for a day that nothing ever touched."""
        return await self._documents.get(DIRTY_DAYS, day_id(user_id, day))

    async def devices(self, user_id: str, names: Iterable[str]) -> dict[str, Device]:
        """Those of the user's devices, by their own id."""
        found = await self._documents.get_many(DEVICES, [device_key(user_id, name) for name in names])
        return {one.device_id: one for one in found if one is not None}

    async def _series(self, dirty: DirtyDay, metric: str) -> list[Series]:
        """One series per device."""
        begin = number_of(dirty.day) * 24
        if metric == SLEEP:
            from_hour, to_hour = begin - HOURS_BEFORE, begin + SESSIONS_AFTER
        else:
            from_hour = max(dirty.from_hour, begin - HOURS_BEFORE)
            to_hour = min(dirty.to_hour, begin + HOURS_AFTER)
        by_device: dict[str, list[Held]] = {}
        if from_hour < to_hour:
            for one in await all_held(self._documents, dirty.user_id, metric, max(0, from_hour), to_hour):
                by_device.setdefault(one.device_id, []).append(one)
        return [
            Series(metric, device_id, held[-1].device_kind, joined([one.rows for one in held]))
            for device_id, held in sorted(by_device.items())
        ]

    async def _sessions(self, dirty: DirtyDay, types: Iterable[str]) -> list[Session]:
        begin = number_of(dirty.day) * 24
        if not types:
            return []
        found: list[Session] = []
        cursor: str | None = None
        while True:
            page = await self._documents.find(
                SESSIONS,
                "user_hour",
                (dirty.user_id,),
                at_least=max(0, begin - HOURS_BEFORE),
                below=begin + SESSIONS_AFTER,
                limit=SESSIONS_AT_ONCE,
                cursor=cursor,
            )
            # Streams are no part of a day.
            found.extend(replace(one, streams=()) for one in page.documents if one.type in types and not one.deleted)
            if (cursor := page.cursor) is None:
                return found


def _without_offset(sent: Array, told: Series, day_number: int) -> int:
    """How many samples of the day came without an offset; `told` has the same rows with those of the user's zone."""
    unknown = sent["offset"] == UNKNOWN_OFFSET
    if not unknown.any():
        return 0
    first, last = day_numbers(told.rows[unknown])
    beside = 1 if told.metric == SLEEP else 0
    return int(((first - beside <= day_number) & (last + beside >= day_number)).sum())


def _elsewhere(sent: Sequence[Array], told: Sequence[Series], day_number: int) -> dict[int, Elsewhere]:
    found: dict[int, Elsewhere] = {}
    for rows, one in zip(sent, told, strict=True):
        unknown = rows["offset"] == UNKNOWN_OFFSET
        if not unknown.any():
            continue
        hours = rows["start"][unknown] // HOUR_US
        beside = 1 if one.metric == SLEEP else 0
        first, last = day_numbers(one.rows[unknown])
        for away in np.unique(np.concatenate((first - beside, last + beside))).tolist():
            if away != day_number:
                other = found.setdefault(away, Elsewhere())
                other.metrics.add(one.metric)
                other.from_hour = min(other.from_hour, int(hours.min()))
                other.to_hour = max(other.to_hour, int(hours.max()) + 1)
    return found


def _sleeps(stages: Sequence[Series], sessions: Sequence[Session], history: ZoneHistory) -> list[Sleep]:
    """One per device: its sessions and its single stages together."""
    kinds: dict[str, str] = {}
    spells: dict[str, list[Array]] = {}
    for one in stages:
        kinds[one.device_id] = one.device_kind
        spells.setdefault(one.device_id, [NO_SPELLS]).append(of_samples(one.rows))
    for one in sessions:
        if one.type == SLEEP:
            kinds[one.device_id] = one.device_kind
            told = of_session(one.start_us, one.end_us, one.offset_minutes, _stages(one.stages))
            spells.setdefault(one.device_id, [NO_SPELLS]).append(history.with_offsets(told))
    return [Sleep(device_id, kinds[device_id], np.concatenate(parts)) for device_id, parts in spells.items()]


def _stages(columns: StageColumns | None) -> list[tuple[int, int, str]]:
    if columns is None:
        return []
    start, end = (np.frombuffer(times, "<i8").tolist() for times in (columns.start_us, columns.end_us))
    return list(zip(start, end, columns.stage, strict=True))


def _workout(one: Session, history: ZoneHistory) -> Workout:
    offset = history.offset_at(one.start_us) if one.offset_minutes == UNKNOWN_OFFSET else one.offset_minutes
    return Workout(one.device_id, one.device_kind, one.sport, one.start_us, one.end_us, offset)
