"""A metric over time: samples as they were sent, pieces that count after merging, or windows with their aggregates.

Rows arrive in order of the buckets they stand in; what is known for good is given out at once and the rest is kept,
so a year takes no more memory than two days. A sample longer than 24 h is refused, hence what is kept stays small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, NO_ROWS, ROW, Array
from services.ingest.merging import Cover, Series, layers
from services.ingest.priorities import Ranking

Resolution = Literal["raw", "1m", "15m", "1h", "1d"]
STEPS: Mapping[str, int] = {"1m": MINUTE_US, "15m": 15 * MINUTE_US, "1h": HOUR_US, "1d": 24 * HOUR_US}
# Samples are never longer, so what reaches into a range began at most so long before it.
LOOK_BACK_US = 24 * HOUR_US
# A local day ends at the latest so long after the UTC day of the same date.
BEHIND_UTC_US = 14 * HOUR_US
END_OF_TIME_US = 2**62

# A piece of a sample that counts, or an instant: `sample` is the number of its row.
PIECE = np.dtype(
    [
        ("start", "<i8"),
        ("end", "<i8"),
        ("value", "<f8"),
        ("offset", "<i2"),
        ("device", "<i4"),
        ("sample", "<i8"),
    ]
)
# `key` is the window's number since 1970, in local time for days; `first` and `last` the offsets at both ends.
WINDOW = np.dtype(
    [
        ("key", "<i8"),
        ("device", "<i4"),
        ("first", "<i2"),
        ("last", "<i2"),
        ("count", "<i8"),
        ("sum", "<f8"),
        ("min", "<f8"),
        ("max", "<f8"),
    ]
)


@dataclass(frozen=True)
class Wanted:
    """What is asked for: [from_us, to_us), never more. `step_us` None = single samples.

    `merged`: interval samples of several devices as one truth, by the user's `ranking`; else each device for itself.
    """

    metric: str
    interval: bool
    from_us: int
    to_us: int
    step_us: int | None
    merged: bool
    ranking: Ranking = field(default_factory=Ranking)

    @property
    def daily(self) -> bool:
        """Whether windows are local days."""
        return self.step_us == STEPS["1d"]

    @property
    def windowed(self) -> bool:
        """Whether windows are asked for."""
        return self.step_us is not None

    @property
    def resolved(self) -> bool:
        """Whether single samples are cut into the pieces that count."""
        return not self.windowed and self.interval and self.merged

    def reads_from_us(self, key: int | None = None) -> int:
        """Where reading must begin to know all points from `key` on, which is a window's number or a start."""
        begin = self.from_us
        if key is not None:
            begin = max(begin, key * (self.step_us or 1) - (BEHIND_UTC_US if self.daily else 0))
        return max(0, begin - (LOOK_BACK_US if self.interval else 0))


@dataclass(frozen=True)
class Table:
    """Points in order; `device` is the place of each one's in `devices`."""

    rows: Array
    device: Array
    devices: tuple[str, ...]

    def only(self, kept: Any) -> "Table":
        """The points chosen by a mask or a slice."""
        return Table(self.rows[kept], self.device[kept], self.devices)

    def device_of(self, place: int) -> str:
        """The id of one point's device."""
        return self.devices[int(self.device[place])]


@dataclass
class Flow:
    """Turns parts into points. `feed` returns what is known for good, in order, each point once."""

    wanted: Wanted
    _kinds: dict[str, str] = field(default_factory=dict[str, str])
    _rows: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])
    _given_until: int = -END_OF_TIME_US

    def feed(self, parts: Sequence[Series], complete_us: int) -> Table:
        """`parts` are all rows not fed yet that begin before `complete_us`."""
        for part in parts:
            self._kinds[part.device_id] = part.device_kind
            self._rows.setdefault(part.device_id, []).append(part.rows)
        wanted = self.wanted
        if wanted.step_us is not None:
            return self._windows(complete_us, wanted.step_us)
        return self._pieces(complete_us) if wanted.resolved else self._samples()

    def _samples(self) -> Table:
        rows, devices = self._joined()
        self._rows.clear()
        wanted = self.wanted
        inside = (rows["start"] < wanted.to_us) & (
            rows["end"] > wanted.from_us if wanted.interval else rows["start"] >= wanted.from_us
        )
        found = Table(rows, devices.place, devices.names)
        return in_order(found if inside.all() else found.only(inside))

    def _pieces(self, complete_us: int) -> Table:
        rows, devices = self._joined()
        pieces = self._resolved(rows, devices)
        # One at most goes on behind what is known; it is given as a whole once it ends.
        goes_on = pieces["start"][(pieces["start"] < complete_us) & (pieces["end"] > complete_us)]
        until = int(goes_on[0]) if len(goes_on) else complete_us
        self._keep(rows, devices, rows["end"] > until)
        begin, self._given_until = max(self.wanted.from_us, self._given_until), until
        given = clipped(pieces, begin, min(self.wanted.to_us, until))
        return Table(given, given["device"], devices.names)

    def _windows(self, complete_us: int, step: int) -> Table:
        rows, devices = self._joined()
        wanted = self.wanted
        pieces = self._resolved(rows, devices) if wanted.interval else _instants(rows, devices.place)
        pieces = clipped(pieces, wanted.from_us, wanted.to_us)
        table = aggregated(pieces, step, wanted.daily, by_device=not wanted.merged)
        until = (complete_us - (BEHIND_UTC_US if wanted.daily else 0)) // step
        given = table[(table["key"] >= self._given_until) & (table["key"] < until)]
        last = np.maximum(rows["end"] - 1, rows["start"]) + (_shift(rows["offset"]) if wanted.daily else 0)
        self._keep(rows, devices, last // step >= until)
        self._given_until = until
        return Table(given, given["device"], devices.names)

    def _joined(self) -> tuple[Array, "_Devices"]:
        names = tuple(sorted(self._rows))
        place = np.repeat(np.arange(len(names)), [sum(map(len, self._rows[name])) for name in names])
        return joined([rows for name in names for rows in self._rows[name]]), _Devices(names, place)

    def _keep(self, rows: Array, devices: "_Devices", kept: Array) -> None:
        rows, place = rows[kept], devices.place[kept]
        self._rows = {devices.names[one]: [rows[place == one]] for one in np.unique(place).tolist()}

    def _resolved(self, rows: Array, devices: "_Devices") -> Array:
        """What counts of each sample, as disjoint pieces (of all devices, or within each), sorted by start."""
        named = [_Device(name, self._kinds[name], place) for place, name in enumerate(devices.names)]
        ranked = [one.place for one in self.wanted.ranking.ranked(self.wanted.metric, named)]
        groups = [ranked] if self.wanted.merged else [[one] for one in ranked]
        found = [np.empty(0, PIECE)]
        for group in groups:
            covered = Cover()
            for one in group:
                here = np.flatnonzero(devices.place == one)
                for layer in layers(_numbered(rows[here], here)):
                    found.append(_uncovered(layer, covered, one))
                    covered = covered.with_intervals(layer["start"], layer["end"])
        pieces = np.concatenate(found)
        return pieces[np.lexsort((pieces["device"], pieces["start"]))]


@dataclass(frozen=True)
class _Device:
    device_id: str
    device_kind: str
    place: int


@dataclass(frozen=True)
class _Devices:
    """`names` in order, and per row the place of its device in them."""

    names: tuple[str, ...]
    place: Array


def joined(parts: Sequence[Array]) -> Array:
    """Rows (dtype ROW) one after another; numpy would compare all fields of each two of them, 10 µs a part."""
    return np.concatenate([_NONE, *(rows.view(_NONE.dtype) for rows in parts)]).view(ROW)


def in_order(table: Table) -> Table:
    """Samples by start, then device, then identity; those of one device nearly always are already."""
    start, device = table.rows["start"], table.device
    if not (start[1:] > start[:-1]).all():
        rows = table.rows
        return table.only(np.lexsort((rows["id_lo"], rows["id_hi"], device, start)))
    return table


def clipped(pieces: Array, from_us: int, to_us: int) -> Array:
    """`pieces` inside [from_us, to_us), their values cut in proportion; an instant is in or out."""
    start, end = np.maximum(pieces["start"], from_us), np.minimum(pieces["end"], to_us)
    instant = pieces["start"] == pieces["end"]
    inside = np.where(instant, (start == pieces["start"]) & (start < to_us), end > start)
    found = pieces[inside].copy()
    length = found["end"] - found["start"]
    found["start"], found["end"] = start[inside], end[inside]
    cut = found["end"] - found["start"] < length
    found["value"][cut] *= ((found["end"] - found["start"])[cut]) / length[cut]
    return found


def aggregated(pieces: Array, step: int, daily: bool, *, by_device: bool) -> Array:
    """The windows (dtype WINDOW) of sorted pieces, by key and device; windows without any are left out."""
    parts = _at_windows(pieces, step, daily)
    table = np.zeros(0, WINDOW)
    if not len(parts):
        return table
    device = parts["device"] if by_device else np.zeros(len(parts), "<i4")
    order = np.lexsort((parts["start"], device, parts["key"]))
    parts, device = parts[order], device[order]
    first = np.flatnonzero(
        np.append(True, (parts["key"][1:] != parts["key"][:-1]) | (device[1:] != device[:-1])),
    )
    table = np.zeros(len(first), WINDOW)
    table["key"], table["device"] = parts["key"][first], device[first]
    table["first"] = parts["offset"][first]
    table["last"] = parts["offset"][np.append(first[1:], len(parts)) - 1]
    table["sum"] = np.add.reduceat(parts["value"], first)
    table["min"] = np.minimum.reduceat(parts["value"], first)
    table["max"] = np.maximum.reduceat(parts["value"], first)
    table["count"] = _distinct(parts["sample"], first)
    return table


def _at_windows(pieces: Array, step: int, daily: bool) -> Array:
    """`pieces` cut at the borders of windows, each with its window's `key`."""
    shift = _shift(pieces["offset"]) if daily else np.zeros(len(pieces), "i8")
    start, end = pieces["start"] + shift, pieces["end"] + shift
    key = start // step
    windows = np.maximum((end - 1) // step, key) - key + 1
    place = np.repeat(np.arange(len(pieces)), windows)
    parts = np.empty(len(place), [*PIECE.descr, ("key", "<i8")])
    for name in PIECE.names or ():
        parts[name] = pieces[name][place]
    parts["key"] = key[place] + np.arange(len(place)) - np.repeat(np.cumsum(windows) - windows, windows)
    cut = np.flatnonzero(np.repeat(windows > 1, windows))
    if len(cut):
        begin = parts["key"][cut] * step - shift[place[cut]]
        length = (parts["end"] - parts["start"])[cut]
        parts["start"][cut] = np.maximum(parts["start"][cut], begin)
        parts["end"][cut] = np.minimum(parts["end"][cut], begin + step)
        parts["value"][cut] *= (parts["end"] - parts["start"])[cut] / length
    return parts


def _distinct(sample: Array, first: Array) -> Array:
    """How many different samples each group has: one whose middle another device covers comes as two pieces."""
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(sample))))
    order = np.lexsort((sample, group))
    sample, group = sample[order], group[order]
    new = np.append(True, (sample[1:] != sample[:-1]) | (group[1:] != group[:-1]))
    return np.bincount(group[new], minlength=len(first))


_NONE = np.empty(0, f"V{ROW.itemsize}")
_NUMBERED = np.dtype([*NO_ROWS.dtype.descr, ("sample", "<i8")])


def _numbered(rows: Array, numbers: Array) -> Array:
    found = np.empty(len(rows), _NUMBERED)
    for name in NO_ROWS.dtype.names or ():
        found[name] = rows[name]
    found["sample"] = numbers
    return found


def _uncovered(layer: Array, covered: Cover, device: int) -> Array:
    """The parts of a layer's samples that nothing before covers, with their share of the value."""
    start, end, of = covered.pieces(layer["start"], layer["end"])
    pieces = np.empty(len(of), PIECE)
    pieces["start"], pieces["end"], pieces["device"] = start, end, device
    pieces["offset"], pieces["sample"] = layer["offset"][of], layer["sample"][of]
    length = layer["end"][of] - layer["start"][of]
    pieces["value"] = np.where(end - start == length, layer["value"][of], layer["value"][of] * ((end - start) / length))
    return pieces


def _instants(rows: Array, place: Array) -> Array:
    """Readings as pieces without a length, sorted by start."""
    pieces = np.empty(len(rows), PIECE)
    for name in ("start", "value", "offset"):
        pieces[name] = rows[name]
    pieces["end"], pieces["device"], pieces["sample"] = rows["start"], place, np.arange(len(rows))
    return pieces[np.argsort(pieces["start"], kind="stable")]


def _shift(offset: Array) -> Array:
    return offset.astype("i8") * MINUTE_US
