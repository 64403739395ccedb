"""A metric over time: samples as they were sent, pieces that count after merging, or windows with their aggregates.

Rows arrive in order of the buckets they stand in; what is known for good is given out at once and the rest is kept,
so a year takes no more memory than two days. A sample longer than 26 h is refused, hence what is kept stays small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, NO_ROWS, ROW, Array
from services.ingest.merging import Cover, Series, layers
from services.ingest.metrics import LONGEST_SAMPLE_US
from services.ingest.priorities import Ranking
from services.ingest.windows import PIECE, aggregated, at_windows, clipped, local_shift
from services.ingest.zones import ZoneHistory

Resolution = Literal["raw", "1m", "15m", "1h", "1d"]
STEPS: Mapping[str, int] = {"1m": MINUTE_US, "15m": 15 * MINUTE_US, "1h": HOUR_US, "1d": 24 * HOUR_US}
# Samples are never longer, so what reaches into a range began at most so long before it.
LOOK_BACK_US = LONGEST_SAMPLE_US
# A local day ends at the latest so long after the UTC day of the same date.
BEHIND_UTC_US = 14 * HOUR_US
END_OF_TIME_US = 2**62


@dataclass(frozen=True)
class Wanted:
    """What is asked for: [from_us, to_us), never more. `step_us` None = single samples.

    `merged`: interval samples of several devices as one truth, by the user's `ranking`; else each device for itself.
    `zones`: for the local days of samples without an offset.
    """

    metric: str
    interval: bool
    from_us: int
    to_us: int
    step_us: int | None
    merged: bool
    ranking: Ranking = field(default_factory=Ranking)
    zones: ZoneHistory = field(default_factory=ZoneHistory)

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
        until = max(int(goes_on[0]), self._given_until) if len(goes_on) else complete_us
        self._keep(rows, devices, rows["end"] > until)
        begin, self._given_until = max(self.wanted.from_us, self._given_until), until
        given = clipped(pieces, begin, min(self.wanted.to_us, until))
        return Table(given, given["device"], devices.names)

    def _windows(self, complete_us: int, step: int) -> Table:
        rows, devices = self._joined()
        wanted = self.wanted
        pieces = self._resolved(rows, devices) if wanted.interval else _instants(rows, devices.place)
        pieces = clipped(pieces, wanted.from_us, wanted.to_us)
        table = aggregated(*at_windows(pieces, step, wanted.daily), by_device=not wanted.merged)
        until = (complete_us - (BEHIND_UTC_US if wanted.daily else 0)) // step
        given = table[(table["key"] >= self._given_until) & (table["key"] < until)]
        last = np.maximum(rows["end"] - 1, rows["start"]) + (local_shift(rows["offset"]) if wanted.daily else 0)
        self._keep(rows, devices, last // step >= until)
        self._given_until = until
        return Table(given, given["device"], devices.names)

    @property
    def kept(self) -> int:
        """How many rows are kept for points not given yet."""
        return sum(len(rows) for of_device in self._rows.values() for rows in of_device)

    def _joined(self) -> tuple[Array, "_Devices"]:
        names = tuple(sorted(self._rows))
        place = np.repeat(np.arange(len(names)), [sum(map(len, self._rows[name])) for name in names])
        rows = joined([rows for name in names for rows in self._rows[name]])
        return self.wanted.zones.with_offsets(rows) if self.wanted.daily else rows, _Devices(names, place)

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
    pieces["end"], pieces["device"] = rows["start"], place
    if (pieces["start"][1:] < pieces["start"][:-1]).any():
        pieces = pieces[np.argsort(pieces["start"], kind="stable")]
    pieces["sample"] = np.arange(len(rows))
    return pieces
