"""A user's local day out of samples: which day a sample belongs to, and one number per metric without counting twice.

A sample belongs to the day of its own offset; one that crosses midnight is divided in proportion. Interval metrics of
several devices are resolved along time by device priority: what a better device covers is cut from the others in
proportion. Within one device the shorter records win, so an hourly total beside its own minutes adds only what the
minutes leave open. Instant metrics take every sample.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from heapq import heappop, heappush

import msgspec
import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, Array
from services.ingest.metrics import METRICS, priority
from services.ingest.zones import zone_of

DAY_US = 24 * HOUR_US
EPOCH = date(1970, 1, 1)
# A day stays open this long after its local end: phones and watches sync late.
STAYS_OPEN = timedelta(hours=6)


@dataclass(frozen=True)
class Series:
    """Rows (dtype ROW) of one metric and device that may touch the day."""

    metric: str
    device_id: str
    device_kind: str
    rows: Array


class MetricDay(msgspec.Struct, frozen=True):
    """One metric's day: `sum` for intervals; `min`, `max` and `mean` for instants. `count`: samples that took part."""

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


def has_ended(day: date, zone: str, now: datetime) -> bool:
    """Whether the local day ended so long ago that a new revision is a recomputation."""
    end = datetime.combine(day + timedelta(days=1), time(), zone_of(zone) or UTC)
    return now >= end + STAYS_OPEN


def compute(day: date, series: Sequence[Series]) -> dict[str, MetricDay]:
    """The day's metrics, by name; a metric without samples is absent."""
    metrics: dict[str, MetricDay] = {}
    for name in sorted({one.metric for one in series}):
        metric = METRICS[name]
        of_metric = [one for one in series if one.metric == name]
        result = _intervals(day, of_metric) if metric.kind == "interval" else _instants(day, of_metric)
        if result is not None:
            metrics[name] = result
    return metrics


def _instants(day: date, series: Sequence[Series]) -> MetricDay | None:
    number = (day - EPOCH).days
    value = np.concatenate([one.rows["value"][day_numbers(one.rows)[0] == number] for one in series])
    if not len(value):
        return None
    value.sort()
    return MetricDay(
        METRICS[series[0].metric].unit,
        len(value),
        min=float(value[0]),
        max=float(value[-1]),
        mean=round(float(value.mean()), 3),
    )


def _intervals(day: date, series: Sequence[Series]) -> MetricDay | None:
    begin = (day - EPOCH).days * DAY_US
    ranked = sorted(series, key=lambda one: (priority(one.device_kind), one.device_id))
    covered = Cover()
    count, total = 0, 0.0
    for one in ranked:
        for rows in layers(one.rows):
            shift = rows["offset"].astype("i8") * MINUTE_US
            # Clipped to the local day, then back to UTC: devices may disagree about the offset, never about the time.
            start = np.clip(rows["start"] + shift, begin, begin + DAY_US) - shift
            end = np.clip(rows["end"] + shift, begin, begin + DAY_US) - shift
            inside = end > start
            start, end, rows = start[inside], end[inside], rows[inside]
            taken = covered.free(start, end) / (rows["end"] - rows["start"])
            total += float((rows["value"] * taken).sum())
            count += int((taken > 0).sum())
            covered = covered.with_intervals(start, end)
    if not count:
        return None
    return MetricDay(METRICS[series[0].metric].unit, count, sum=round(total, 3))


class Cover:
    """The times already accounted for: disjoint, sorted intervals in UTC microseconds."""

    def __init__(self, start: Array | None = None, end: Array | None = None) -> None:
        self._start = np.empty(0, "i8") if start is None else start
        self._end = np.empty(0, "i8") if end is None else end
        self._length = np.concatenate((np.zeros(1, "i8"), np.cumsum(self._end - self._start)))

    def free(self, start: Array, end: Array) -> Array:
        """Microseconds of each [start, end) that are not covered."""
        return (end - start) - (self._covered_until(end) - self._covered_until(start))

    def with_intervals(self, start: Array, end: Array) -> "Cover":
        """This and the intervals given."""
        starts = np.concatenate((self._start, start))
        ends = np.concatenate((self._end, end))
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        if not len(starts):
            return self
        opens = np.append(True, starts[1:] > reach[:-1])
        return Cover(starts[opens], reach[np.append(opens[1:], True)])

    def _covered_until(self, moment: Array) -> Array:
        place = np.searchsorted(self._start, moment, side="right")
        length = self._length[place]
        # Inside the last interval that began before, what lies beyond `moment` does not count yet.
        beyond = np.where(place > 0, np.append(self._end, 0)[place - 1] - moment, 0)
        return length - np.maximum(beyond, 0)


def layers(rows: Array) -> Iterator[Array]:
    """`rows` of one device as groups without overlap inside, shorter records first; nearly always one group."""
    if _disjoint(rows):
        yield rows
        return
    length = rows["end"] - rows["start"]
    order = np.lexsort((rows["start"], length))
    edges = np.flatnonzero(np.diff(length[order])) + 1
    for of_length in np.split(rows[order], edges):
        layer = _first_fit(of_length["start"].tolist(), int(of_length["end"][0] - of_length["start"][0]))
        by_layer = np.argsort(layer, kind="stable")
        yield from np.split(of_length[by_layer], np.flatnonzero(np.diff(layer[by_layer])) + 1)


def _first_fit(starts: Sequence[int], duration: int) -> Array:
    """For records of one length, sorted by start, the first layer in which each overlaps none before it."""
    layer = np.empty(len(starts), "i8")
    free: list[int] = []
    busy: deque[tuple[int, int]] = deque()
    for place, start in enumerate(starts):
        while busy and busy[0][0] <= start:
            heappush(free, busy.popleft()[1])
        chosen = heappop(free) if free else len(busy)
        layer[place] = chosen
        busy.append((start + duration, chosen))
    return layer


def _disjoint(rows: Array) -> bool:
    start, end = rows["start"], rows["end"]
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    return bool((start[1:] >= end[:-1]).all())
