"""What a device sent of what it usually sends: per local day what is expected, came, came late, and is missing.

* expected: the device's median number of samples a day over the last 14 days with data; none with fewer than 3 days.
* late: arrived more than 6 h after it ended.
* gap: a stretch between 06:00 and 22:00 local without a reading, longer than 15 minutes and longer than five times the
  device's usual distance between readings. Interval metrics have none: no steps are no gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, Array

DAY_US = 24 * HOUR_US
USUAL_DAYS = 14
FEWEST_DAYS = 3
LATE_MINUTES = 6 * 60
SHORTEST_GAP_US = 15 * MINUTE_US
USUAL_DISTANCES = 5
AWAKE_FROM_US, AWAKE_TO_US = 6 * HOUR_US, 22 * HOUR_US


@dataclass(frozen=True)
class Gap:
    """A stretch without readings, in local microseconds since 1970, and the offsets in minutes at both ends."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Day:
    """One device's metric on one local day."""

    received: int
    late: int
    gaps: tuple[Gap, ...] | None


@dataclass
class Tally:
    """One metric of one device, fed bucket by bucket in order of time. Days count from 1970, in local time."""

    readings: bool
    received: dict[int, int] = field(default_factory=dict[int, int])
    late: dict[int, int] = field(default_factory=dict[int, int])
    # Stretches of readings less than 15 minutes apart: local start, local end, offset.
    _runs: list[Array] = field(default_factory=list[Array])
    _distances: list[float] = field(default_factory=list[float])

    def add(self, rows: Array) -> None:
        """Live rows (dtype ROW, sorted by start) with known offsets."""
        local = rows["start"] + rows["offset"].astype("i8") * MINUTE_US
        late = rows["arrived"].astype("i8") * MINUTE_US - rows["end"] > LATE_MINUTES * MINUTE_US
        days, place = np.unique(local // DAY_US, return_inverse=True)
        counts, late_counts = np.bincount(place), np.bincount(place, weights=late)
        for day, count, delayed in zip(days.tolist(), counts.tolist(), late_counts.tolist(), strict=True):
            self.received[day] = self.received.get(day, 0) + count
            self.late[day] = self.late.get(day, 0) + int(delayed)
        if self.readings:
            self._runs.append(runs(local, local + (rows["end"] - rows["start"]), rows["offset"]))
            if len(local) > 1:
                self._distances.append(float(np.median(np.diff(np.sort(local)))))

    def expected(self, before: int) -> int | None:
        """The usual number of samples a day, from the last 14 days with data before that day."""
        days = sorted(day for day in self.received if day < before)[-USUAL_DAYS:]
        return round(median(self.received[day] for day in days)) if len(days) >= FEWEST_DAYS else None

    def days(self, wanted: Sequence[int], now_us: int, offset_at: int) -> list[Day]:
        """Those days. What lies behind `now_us` is no gap yet; `offset_at` holds where no reading tells another."""
        found = np.concatenate((np.empty((0, 3), "i8"), *self._runs))
        usual = median(self._distances) if self._distances else 0
        least = max(SHORTEST_GAP_US, USUAL_DISTANCES * usual)
        return [
            Day(
                self.received.get(day, 0),
                self.late.get(day, 0),
                gaps(found, day, now_us, offset_at, least) if self.readings else None,
            )
            for day in wanted
        ]


def runs(start: Array, end: Array, offset: Array) -> Array:
    """Readings in local time as stretches (start, end, offset) without 15 minutes between any two of one."""
    order = np.argsort(start, kind="stable")
    start, reach, offset = start[order], np.maximum.accumulate(end[order]), offset[order]
    opens = np.flatnonzero(np.append(True, start[1:] - reach[:-1] > SHORTEST_GAP_US))
    last = np.append(opens[1:], len(start)) - 1
    return np.stack((start[opens], reach[last], offset[last].astype("i8")), axis=1)


def gaps(found: Array, day: int, now_us: int, offset_at: int, least: float) -> tuple[Gap, ...]:
    """The gaps of one local day among runs in order of their start."""
    begin, end = day * DAY_US + AWAKE_FROM_US, day * DAY_US + AWAKE_TO_US
    near = found[(found[:, 1] > begin - DAY_US) & (found[:, 0] < end)]
    offset = int(near[-1, 2]) if len(near) else offset_at
    end = min(end, now_us + offset * MINUTE_US)
    told: list[Gap] = []
    at, first = begin, int(near[0, 2]) if len(near) else offset_at
    for start, stop, here in near.tolist():
        if min(start, end) - at > least:
            told.append(Gap(at, min(start, end), first, here))
        at, first = max(at, stop), here
    if end - at > least:
        told.append(Gap(at, end, first, offset))
    return tuple(told)
