"""Where a day's numbers come from: which device told which stretch of time, and what was dropped and why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, tzinfo
from typing import Any, Literal

from services.ingest.days import DayInput, MetricDay, compute, newest, number_of, on_day
from services.ingest.energy_split import ACTIVE, BASAL, ENERGY, TOTAL
from services.ingest.merging import DAY_US, Segment, clipped, explained, shown
from services.ingest.metrics import METRICS
from services.ingest.moments import moment
from services.ingest.sleep import sleep_day
from services.ingest.workouts import workout_day
from services.ingest.zones import zone_of

NOTES: Mapping[str, str] = {
    TOTAL: "Active and basal energy added up; a total reported by devices gives way to them.",
    BASAL: "The total less active energy, never below 0.",
    ACTIVE: "The total less basal energy, never below 0.",
}
Kind = Literal["instant", "interval", "daily", "session"]
MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedShown:
    """What did not count of a segment: whose word it is, its value, and why (`covered-by <device>`, `finer-record`)."""

    device: str
    value: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentShown:
    """A stretch of time told by one device: `value` was taken. `part`: a sleep's stage or a workout's sport."""

    device: str
    start: datetime
    end: datetime
    minutes: float
    value: float
    part: str | None = None
    dropped: tuple[DroppedShown, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShown:
    """What one device reported of a metric: `samples` in all; for sums what was taken of it and what dropped.

    `sent` = `taken` + `dropped`. `why` says why a daily value was not taken, null where it was.
    """

    device: str
    kind: str
    samples: int
    sent: float | None = None
    taken: float | None = None
    dropped: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepShown:
    """One sleep, from falling asleep to its last stage, and seconds by stage, awake ones included."""

    start: datetime
    end: datetime
    stages: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricExplained:
    """A metric's number, computed from what is held now, and where it comes from.

    The segments' values add up to `sum`. Devices are in order of priority. `not_counted`: seconds of a night that are
    no sleep. `without_offset`: samples whose day rests on the user's zone. `note`: what was reconciled.
    """

    kind: Kind
    unit: str
    count: int
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    parts: dict[str, float] = field(default_factory=dict[str, float])
    derived: bool = False
    devices: tuple[DeviceShown, ...] = ()
    segments: tuple[SegmentShown, ...] = ()
    sleeps: tuple[SleepShown, ...] = ()
    not_counted: dict[str, float] = field(default_factory=dict[str, float])
    without_offset: int = 0
    note: str | None = None


@dataclass(frozen=True)
class _Day:
    """The day explained: its number since 1970, where its times are shown, what is held of it, and what that makes."""

    number: int
    zone: tzinfo
    held: DayInput
    metrics: Mapping[str, MetricDay]

    def time(self, moment_us: int) -> datetime:
        """A time as the answer shows it."""
        return moment(moment_us).astimezone(self.zone)


def explain(day: date, zone: str, held: DayInput, without_offset: Mapping[str, int]) -> dict[str, MetricExplained]:
    """Every metric of the day, by name; times are shown in `zone`.

    `without_offset`: by metric, how many of the samples came without one.
    """
    told = _Day(number_of(day), zone_of(zone) or UTC, held, compute(day, held))
    made: dict[str, MetricExplained] = {}
    for name, one in sorted(told.metrics.items()):
        plain = MetricExplained(
            kind=METRICS[name].kind,
            unit=one.unit,
            count=one.count,
            sum=one.sum,
            min=one.min,
            max=one.max,
            mean=one.mean,
            parts=one.parts,
            derived=one.derived,
            without_offset=without_offset.get(name, 0),
        )
        made[name] = replace(plain, **_BEHIND.get(name, _BY_KIND[METRICS[name].kind])(told, name))
    return made


def _intervals(told: _Day, name: str) -> dict[str, Any]:
    ranked, decimals = told.held.of(name), METRICS[name].decimals
    found = explained(ranked, told.number * DAY_US, decimals)
    taken = dict.fromkeys((one.device_id for one in ranked), 0)
    dropped = dict(taken)
    # In whole steps of the last decimal, so that the sums are exact.
    step = 10**decimals
    for segment in found.segments:
        taken[segment.device_id] += round(segment.value * step)
        for one in segment.dropped:
            dropped[one.device_id] += round(one.value * step)
    counted = ((one, len(clipped(one.rows, told.number * DAY_US)[0])) for one in ranked)
    devices = tuple(
        DeviceShown(
            device=one.device_id,
            kind=one.device_kind,
            samples=count,
            sent=shown(taken[one.device_id] + dropped[one.device_id], decimals),
            taken=shown(taken[one.device_id], decimals),
            dropped=shown(dropped[one.device_id], decimals),
        )
        for one, count in counted
        if count
    )
    return {"devices": devices, "segments": tuple(_segment(told, one) for one in found.segments)}


def _energy(told: _Day, name: str) -> dict[str, Any]:
    """As other intervals; a number that follows from the others has no segments of its own."""
    behind = _intervals(told, name)
    if not told.metrics[name].derived:
        return behind
    devices = tuple(replace(one, taken=0.0, dropped=one.sent, why="not-the-sum") for one in behind["devices"])
    return {"devices": devices, "note": NOTES[name]}


def _readings(told: _Day, name: str) -> dict[str, Any]:
    counted = ((one, len(on_day(one.rows, told.number))) for one in told.held.of(name))
    return {
        "devices": tuple(
            DeviceShown(device=one.device_id, kind=one.device_kind, samples=count) for one, count in counted if count
        )
    }


def _dailies(told: _Day, name: str) -> dict[str, Any]:
    devices: list[DeviceShown] = []
    for one in told.held.of(name):
        value = newest(one.rows, told.number)["value"]
        if len(value):
            why = f"covered-by {devices[0].device}" if devices else None
            samples = len(on_day(one.rows, told.number))
            devices.append(
                DeviceShown(device=one.device_id, kind=one.device_kind, samples=samples, sent=float(value[0]), why=why)
            )
    return {"devices": tuple(devices)}


def _sleep(told: _Day, name: str) -> dict[str, Any]:
    ranked = told.held.ranking.ranked(name, told.held.sleeps)
    made = sleep_day(told.number, ranked)
    return {
        "devices": tuple(
            DeviceShown(device=one.device_id, kind=one.device_kind, samples=len(one.spells)) for one in ranked
        ),
        "segments": tuple(_segment(told, one, stage) for stage, one in made.segments),
        "sleeps": tuple(
            SleepShown(start=told.time(one.start_us), end=told.time(one.end_us), stages=one.stages)
            for one in made.sleeps
        ),
        "not_counted": made.not_counted,
    }


def _workouts(told: _Day, name: str) -> dict[str, Any]:
    made = workout_day(told.number, told.held.ranking.ranked(name, told.held.workouts))
    return {
        "segments": tuple(
            SegmentShown(
                device=one.device_id,
                start=told.time(one.start_us),
                end=told.time(one.end_us),
                minutes=(one.end_us - one.start_us) / MINUTE_US,
                value=float(one.seconds),
                part=one.sport or "other",
                dropped=tuple(
                    DroppedShown(device=each.device_id, value=float(each.seconds), why=f"same-as {one.device_id}")
                    for each in same
                ),
            )
            for one, same in made.workouts
        )
    }


def _segment(told: _Day, one: Segment, part: str | None = None) -> SegmentShown:
    return SegmentShown(
        device=one.device_id,
        start=told.time(one.start_us),
        end=told.time(one.end_us),
        minutes=(one.end_us - one.start_us) / MINUTE_US,
        value=one.value,
        part=part,
        dropped=tuple(DroppedShown(device=each.device_id, value=each.value, why=each.why) for each in one.dropped),
    )


_Behind = Callable[[_Day, str], dict[str, Any]]
_BEHIND: dict[str, _Behind] = {"sleep": _sleep, "workout": _workouts, **dict.fromkeys(ENERGY, _energy)}
_BY_KIND: dict[str, _Behind] = {
    "interval": _intervals,
    "instant": _readings,
    "daily": _dailies,
    "session": _readings,
}
