"""Interval data of several devices along time: what a better device covers is cut from the others, in proportion.

Within one device the shorter records win, so an hourly total beside its own minutes adds only what the minutes leave
open. `total` is the quick answer for a day's number; `explained` gives the same number with the pieces behind it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import msgspec
import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, Array

DAY_US = 24 * HOUR_US
# A device that says nothing for so long still tells of one stretch, if nobody else speaks in between.
JOINED_US = 15 * MINUTE_US
FINER_RECORD = "finer-record"


@dataclass(frozen=True)
class Series:
    """Live rows (dtype ROW) of one metric and device that may touch the day."""

    metric: str
    device_id: str
    device_kind: str
    rows: Array


class Dropped(msgspec.Struct, frozen=True):
    """What another device, or a longer record of the same one, said about a segment, and why it does not count."""

    device_id: str
    value: float
    why: str


class Segment(msgspec.Struct, frozen=True):
    """A stretch of time told by one device: microseconds since 1970 UTC, the value taken, and what was dropped."""

    device_id: str
    start_us: int
    end_us: int
    value: float
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class Explained:
    """A day's total and the segments it is made of; their values add up to it exactly, at the decimals shown."""

    sum: float
    count: int
    segments: tuple[Segment, ...]


def quanta(values: Any, decimals: int) -> Array:
    """`values` in whole steps of the last decimal shown, int64.

    Rounded in two steps: sums in another order differ by some 1e-9, which must not decide about a half.
    """
    scaled: Array = np.asarray(values, "f8") * 10**decimals
    return np.rint(np.round(scaled, 5)).astype("i8")


def shown(steps: Any, decimals: int) -> float:
    """The number of `quanta`, as near as a float comes to it."""
    return int(steps) / 10**decimals


def shares(values: Array, decimals: int) -> Array:
    """`values` (none negative) in quanta that add up to the quanta of their sum; each is off by one step at most."""
    return np.diff(quanta(np.cumsum(values), decimals), prepend=0)


def total(ranked: Iterable[Series], begin: int) -> tuple[float, int]:
    """The sum over the local day that begins at `begin` (local microseconds), and how many samples took part.

    `ranked`: one series per device, best device first.
    """
    covered = Cover()
    count, result = 0, 0.0
    for one in ranked:
        for rows in layers(one.rows):
            start, end, rows = clipped(rows, begin)
            taken = covered.free(start, end) / (rows["end"] - rows["start"])
            result += float((rows["value"] * taken).sum())
            count += int((taken > 0).sum())
            covered = covered.with_intervals(start, end)
    return result, count


def explained(ranked: Sequence[Series], begin: int, decimals: int) -> Explained:
    """What `total` gives, rounded to `decimals`, and the segments it consists of."""
    start, end, place, value, count = _taken(ranked, begin)
    if not len(start):
        return Explained(0.0, 0, ())
    opens = np.append(True, (place[1:] != place[:-1]) | (start[1:] - end[:-1] > JOINED_US))
    first = np.flatnonzero(opens)
    taken = np.add.reduceat(value, first)
    start, end, place = start[first], end[np.append(first[1:] - 1, len(end) - 1)], place[first]
    parts = shares(taken, decimals)
    dropped = _dropped(ranked, begin, (start, end, place, taken), decimals)
    runs: list[tuple[int, int, int, int]] = np.stack((place, start, end, parts), axis=1).tolist()
    segments = tuple(
        Segment(ranked[one].device_id, from_us, to_us, shown(part, decimals), rest)
        for (one, from_us, to_us, part), rest in zip(runs, dropped, strict=True)
    )
    return Explained(shown(parts.sum(), decimals), count, segments)


def _taken(ranked: Sequence[Series], begin: int) -> tuple[Array, Array, Array, Array, int]:
    """The pieces that count, in order of time: start, end, place of the device, value; and the samples behind them."""
    covered = Cover()
    starts, ends, places, values = [np.empty(0, "i8")], [np.empty(0, "i8")], [np.empty(0, "i8")], [np.empty(0)]
    count = 0
    for place, one in enumerate(ranked):
        for rows in layers(one.rows):
            start, end, rows = clipped(rows, begin)
            piece_start, piece_end, of = covered.pieces(start, end)
            starts.append(piece_start)
            ends.append(piece_end)
            places.append(np.full(len(of), place))
            values.append(rows["value"][of] * ((piece_end - piece_start) / (rows["end"] - rows["start"])[of]))
            count += len(np.unique(of))
            covered = covered.with_intervals(start, end)
    start = np.concatenate(starts)
    order = np.argsort(start)
    end, place, value = (np.concatenate(one)[order] for one in (ends, places, values))
    return start[order], end, place, value, count


def _dropped(
    ranked: Sequence[Series], begin: int, runs: tuple[Array, Array, Array, Array], decimals: int
) -> list[tuple[Dropped, ...]]:
    """Per run (start, end, place of its device, value taken), what the devices said there beyond what was taken."""
    start, end, place, taken = runs
    found: list[list[Dropped]] = [[] for _ in range(len(start))]
    for number, one in enumerate(ranked):
        sent = _Said(one.rows, begin)
        rest = sent.until(end) - sent.until(start) - np.where(place == number, taken, 0)
        parts = shares(np.maximum(rest, 0), decimals)
        reasons = [f"covered-by {taker.device_id}" for taker in ranked]
        reasons[number] = FINER_RECORD
        some = np.flatnonzero(parts)
        told: list[tuple[int, int, int]] = np.stack((some, place[some], parts[some]), axis=1).tolist()
        for run, taker, part in told:
            found[run].append(Dropped(one.device_id, shown(part, decimals), reasons[taker]))
    return [tuple(one) for one in found]


class _Said:
    """All that one device's records say of a day, as a sum that grows along time, overlaps counted as often as sent."""

    def __init__(self, rows: Array, begin: int) -> None:
        start, end, rows = clipped(rows, begin)
        rate = rows["value"] / (rows["end"] - rows["start"])
        self._begin = begin
        self._sides = [self._side(start, rate), self._side(end, rate)]

    def _side(self, moment: Array, rate: Array) -> tuple[Array, Array, Array]:
        order = np.argsort(moment)
        # Counted from the day's begin: since 1970 a microsecond's value would drown in the float's last digits.
        moment, rate = moment[order] - self._begin, rate[order]
        zero = np.zeros(1)
        return moment, np.append(zero, np.cumsum(rate)), np.append(zero, np.cumsum(rate * moment))

    def until(self, moment: Array) -> Array:
        """The sum until each moment, from when on does not matter."""
        moment = moment - self._begin
        result = np.zeros(len(moment))
        for sign, (edges, rate, offset) in zip((1, -1), self._sides, strict=True):
            place = np.searchsorted(edges, moment)
            result += sign * (rate[place] * moment - offset[place])
        return result


def clipped(rows: Array, begin: int) -> tuple[Array, Array, Array]:
    """Start and end of the rows inside the local day that begins at `begin`, in UTC microseconds, and those rows.

    Clipped in local time, then back to UTC: devices may disagree about the offset, never about the time.
    """
    shift = rows["offset"].astype("i8") * MINUTE_US
    start = np.clip(rows["start"] + shift, begin, begin + DAY_US) - shift
    end = np.clip(rows["end"] + shift, begin, begin + DAY_US) - shift
    inside = end > start
    if inside.all():
        return start, end, rows
    return start[inside], end[inside], rows[inside]


class Cover:
    """The times already accounted for: disjoint, sorted intervals in UTC microseconds."""

    def __init__(self, start: Array | None = None, end: Array | None = None) -> None:
        self._start = np.empty(0, "i8") if start is None else start
        self._end = np.empty(0, "i8") if end is None else end
        self._length = np.concatenate((np.zeros(1, "i8"), np.cumsum(self._end - self._start)))

    @property
    def length(self) -> int:
        """Microseconds covered in all."""
        return int(self._length[-1])

    def free(self, start: Array, end: Array) -> Array:
        """Microseconds of each [start, end) that are not covered."""
        return (end - start) - (self._covered_until(end) - self._covered_until(start))

    def pieces(self, start: Array, end: Array) -> tuple[Array, Array, Array]:
        """The parts of disjoint intervals that are not covered: start, end, and which interval each is of."""
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
        begins = np.concatenate((start[~self._holds(start, "right")], self._inside(self._end, start, end)))
        stops = np.concatenate((end[~self._holds(end, "left")], self._inside(self._start, start, end)))
        begins.sort()
        stops.sort()
        return begins, stops, order[np.searchsorted(start, begins, side="right") - 1]

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

    def _holds(self, moment: Array, side: Any) -> Array:
        """Whether time right after ("right") or right before ("left") each moment is covered."""
        place = np.searchsorted(self._start, moment, side=side)
        end = np.append(self._end, 0)[place - 1]
        return (place > 0) & ((moment < end) if side == "right" else (moment <= end))

    def _inside(self, edges: Array, start: Array, end: Array) -> Array:
        """Those of the cover's edges that lie inside one of the intervals."""
        if not len(start):
            return edges[:0]
        place = np.searchsorted(start, edges)
        return edges[(place > 0) & (edges < end[place - 1])]

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
