"""A user's local day out of samples: which day a sample belongs to, and one number per metric without counting twice.

A sample belongs to the day of its own offset; one that crosses midnight is divided in proportion. Interval metrics of
several devices are resolved along time (`merging`), a daily metric takes its best device's newest value, sleep and
workouts are `sleep` and `workouts`. Instant metrics take every sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, Array, taken
from services.ingest.energy_split import ENERGY, reconcile
from services.ingest.merging import DAY_US, Series, quanta, shown, total
from services.ingest.metrics import METRICS
from services.ingest.priorities import Ranking
from services.ingest.sleep import Sleep, sleep_day
from services.ingest.workouts import Workout, workout_day
from services.ingest.zones import ZoneHistory, zone_of

EPOCH = date(1970, 1, 1)
# A day stays open this long after its local end: phones and watches sync late.
STAYS_OPEN = timedelta(hours=6)
# Hours around the UTC day in which what touches a local day begins: offsets go to 14 h, a sample takes up to 26 h.
HOURS_BEFORE, HOURS_AFTER = 14 + 26, 24 + 14


@dataclass(frozen=True)
class DayInput:
    """All that may touch a local day, tombstones left out, offsets told; one series per metric and device."""

    series: Sequence[Series] = ()
    sleeps: Sequence[Sleep] = ()
    workouts: Sequence[Workout] = ()
    ranking: Ranking = field(default_factory=Ranking)

    def of(self, metric: str) -> list[Series]:
        """The metric's series, best device first."""
        return self.ranking.ranked(metric, (one for one in self.series if one.metric == metric))


class MetricDay(msgspec.Struct, frozen=True):
    """One metric's day: `sum` for intervals and sessions; `min`, `max` and `mean` for the others.

    `count`: the samples that took part, sleeps or workouts; 0 for a number that is `derived`.
    """

    unit: str
    count: int
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    parts: dict[str, float] = {}
    derived: bool = False


def day_numbers(rows: Array) -> tuple[Array, Array]:
    """The first and the last local day each row touches, in days since 1970."""
    shift = rows["offset"].astype("i8") * MINUTE_US
    first = (rows["start"] + shift) // DAY_US
    last = (rows["end"] + shift - 1) // DAY_US
    return first, np.maximum(first, last)


def date_of(day_number: int) -> date:
    """The date that many days after 1970-01-01."""
    return EPOCH + timedelta(days=day_number)


def number_of(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def has_ended(day: date, zone: str, now: datetime) -> bool:
    """Whether the local day ended so long ago that a new revision is a recomputation."""
    end = datetime.combine(day + timedelta(days=1), time(), zone_of(zone) or UTC)
    return now >= end + STAYS_OPEN


def zone_on(day: date, history: ZoneHistory, told: str) -> str:
    """The user's zone when that local day ended; `told` by the day's own batches where the history begins later."""
    name = told or history.home
    for _ in range(2):
        end = datetime.combine(day + timedelta(days=1), time(), zone_of(name) or UTC)
        last_us = round(end.timestamp() * 1_000_000) - 1
        if not history.changes or history.changes[0].from_us > last_us:
            return told or history.home
        name = history.at(last_us)
    return name


def compute(day: date, held: DayInput) -> dict[str, MetricDay]:
    """The day's metrics, by name; a metric without samples is absent."""
    metrics: dict[str, MetricDay] = {}
    for name in sorted({one.metric for one in held.series}):
        result = _BY_KIND[METRICS[name].kind](day, held.of(name))
        if result is not None:
            metrics[name] = result
    return _with_energy(metrics) | _sleep(day, held) | _workouts(day, held)


def newest(rows: Array, day_number: int) -> Array:
    """Of one device's daily values the one for that day, the newest by version, then by arrival; none or one row."""
    rows = rows[day_numbers(rows)[0] == day_number]
    return rows[np.lexsort((rows["start"], rows["arrived"], rows["version"]))[-1:]]


def on_day(rows: Array, day_number: int) -> Array:
    """The rows that begin on that local day."""
    return taken(rows, np.flatnonzero(day_numbers(rows)[0] == day_number))


def readings(metric: str, value: Array) -> MetricDay | None:
    """Least, most and mean of some values, None without any."""
    if not len(value):
        return None
    known = METRICS[metric]
    mean = round(float(value.mean()), known.decimals)
    return MetricDay(known.unit, len(value), min=float(value.min()), max=float(value.max()), mean=mean)


def _instants(day: date, ranked: Sequence[Series]) -> MetricDay | None:
    number = number_of(day)
    value = np.concatenate([on_day(one.rows, number)["value"] for one in ranked])
    return readings(ranked[0].metric, value)


def _dailies(day: date, ranked: Sequence[Series]) -> MetricDay | None:
    number = number_of(day)
    told = (newest(one.rows, number) for one in ranked)
    best = next((rows for rows in told if len(rows)), None)
    return None if best is None else readings(ranked[0].metric, best["value"])


def _intervals(day: date, ranked: Sequence[Series]) -> MetricDay | None:
    result, count = total(ranked, number_of(day) * DAY_US)
    if not count:
        return None
    metric = METRICS[ranked[0].metric]
    return MetricDay(metric.unit, count, sum=shown(quanta(result, metric.decimals), metric.decimals))


def _none(day: date, ranked: Sequence[Series]) -> MetricDay | None:
    return None


_BY_KIND = {"instant": _instants, "interval": _intervals, "daily": _dailies, "session": _none}


def _with_energy(metrics: dict[str, MetricDay]) -> dict[str, MetricDay]:
    made = reconcile({name: int(quanta(metrics[name].sum, 3)) for name in ENERGY if name in metrics})
    for name, value in made.thousandths.items():
        if name in made.derived:
            metrics[name] = MetricDay("kcal", 0, sum=shown(value, 3), derived=True)
        else:
            metrics[name] = msgspec.structs.replace(metrics[name], sum=shown(value, 3))
    return metrics


def _sleep(day: date, held: DayInput) -> dict[str, MetricDay]:
    made = sleep_day(number_of(day), held.ranking.ranked("sleep", held.sleeps))
    if not made.sleeps:
        return {}
    return {"sleep": MetricDay("s", len(made.sleeps), sum=made.sum, parts=made.parts)}


def _workouts(day: date, held: DayInput) -> dict[str, MetricDay]:
    made = workout_day(number_of(day), held.ranking.ranked("workout", held.workouts))
    if not made.workouts:
        return {}
    return {"workout": MetricDay("s", len(made.workouts), sum=sum(made.parts.values()), parts=made.parts)}
