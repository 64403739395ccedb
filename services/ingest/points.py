"""Points as JSON texts, made column by column, and the cursors between pages of them."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, Array
from services.ingest.metrics import Stage
from services.ingest.moments import stamps
from services.ingest.timeseries import Table, Wanted
from shared.events.gateway import UNKNOWN_OFFSET


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The last point given. `of` names the question, so that a cursor is of no use to another one."""

    of: bytes
    key: int
    device_id: str
    id_hi: int = 0
    id_lo: int = 0


# So many points' bytes fit into 128 KiB; beyond, the allocator maps every buffer anew, at twice the time.
AT_ONCE = 1_024
_marks = msgspec.msgpack.Decoder(Mark)


@dataclass(frozen=True)
class Question:
    """What was asked, as far as cursors must know."""

    parts: tuple[str, ...]

    @property
    def fingerprint(self) -> bytes:
        """Eight bytes that differ for different questions."""
        return hashlib.blake2b(msgspec.msgpack.encode(self.parts), digest_size=8).digest()

    def cursor(self, mark: Mark) -> str:
        """An opaque cursor behind that point."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(mark)).decode().rstrip("=")

    def mark(self, cursor: str) -> Mark:
        """The point in a cursor. Raises ValueError for one that is not of this question."""
        try:
            packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            mark = _marks.decode(packed)
        except (binascii.Error, msgspec.MsgspecError) as error:
            raise ValueError("this cursor is not one of ours") from error
        if mark.of != self.fingerprint:
            raise ValueError("this cursor belongs to another question")
        return mark


def mark_of(table: Table, place: int, wanted: Wanted, fingerprint: bytes) -> Mark:
    """The cursor's content for one point of the table."""
    row = table.rows[place]
    device_id = table.device_of(place)
    if wanted.windowed:
        return Mark(fingerprint, int(row["key"]), "" if wanted.merged else device_id)
    if wanted.resolved:
        return Mark(fingerprint, int(row["start"]), device_id)
    return Mark(fingerprint, int(row["start"]), device_id, int(row["id_hi"]), int(row["id_lo"]))


def behind(table: Table, mark: Mark, wanted: Wanted) -> Table:
    """The points after the one in `mark`, in the table's order."""
    rows = table.rows
    key = rows["key"] if wanted.windowed else rows["start"]
    kept = key > mark.key
    for place in np.flatnonzero(key == mark.key).tolist():
        row = rows[place]
        device_id = "" if wanted.windowed and wanted.merged else table.device_of(place)
        own = not (wanted.windowed or wanted.resolved)
        identity = (int(row["id_hi"]), int(row["id_lo"])) if own else (0, 0)
        kept[place] = (device_id, *identity) > (mark.device_id, mark.id_hi, mark.id_lo)
    return table.only(kept)


def encoded(table: Table, wanted: Wanted, end: bytes) -> bytes:
    """Each point as a JSON object with `end` behind it."""
    if not len(table.rows):
        return b""
    names = np.array([msgspec.json.encode(name) for name in table.devices], "S")
    device = names[table.device] if len(names) > 1 else names[0]
    parts = _window(table.rows, device, wanted) if wanted.windowed else _sample(table.rows, device, wanted)
    return _glued([*parts, b"}" + end], len(table.rows))


Part = Any  # bytes, or an array of them (dtype S) with one for each point


def _glued(parts: Sequence[Part], count: int) -> bytes:
    """All parts of the first point, then those of the second …: matrices of bytes, without what pads them."""
    columns = [
        np.frombuffer(one, "u1")[None] if isinstance(one, bytes) else one.view("u1").reshape(count, -1) for one in parts
    ]
    ends = np.cumsum([column.shape[1] for column in columns]).tolist()
    given: list[bytes] = []
    for begin in range(0, count, AT_ONCE):
        lines = np.empty((min(AT_ONCE, count - begin), ends[-1]), "u1")
        for column, end in zip(columns, ends, strict=True):
            part = column if len(column) == 1 else column[begin : begin + AT_ONCE]
            lines[:, end - column.shape[1] : end] = part
        given.append(lines.tobytes().replace(b"\0", b""))
    return b"".join(given)


def _numbers(values: Array) -> Array:
    """Numbers as JSON writes them. Most columns hold few different ones."""
    found, which = np.unique(values, return_inverse=True)
    if 2 * len(found) > len(values):
        return np.array([repr(one).encode() for one in values.tolist()], "S")
    return np.array([repr(one).encode() for one in found.tolist()], "S")[which]


def _sample(rows: Array, device: Part, wanted: Wanted) -> list[Part]:
    parts: list[Part] = [b'{"start":"', stamps(rows["start"], rows["offset"])]
    if (rows["end"] != rows["start"]).any():
        parts += [b'","end":"', stamps(rows["end"], rows["offset"])]
    if wanted.metric == "sleep":
        parts += [b'","stage":"', _STAGES[rows["value"].astype("u1")], b'","device":']
    else:
        parts += [b'","value":', _numbers(rows["value"]), b',"device":']
    return [*parts, bytes(device) if device.ndim == 0 else device]


def _window(rows: Array, device: Part, wanted: Wanted) -> list[Part]:
    step = wanted.step_us or 1
    unknown = np.full(len(rows), UNKNOWN_OFFSET, "<i2")
    first, last = (rows["first"], rows["last"]) if wanted.daily else (unknown, unknown)
    start, end = (stamps((rows["key"] + later) * step - _shift(one), one) for later, one in ((0, first), (1, last)))
    parts: list[Part] = [b'{"start":"', start]
    if wanted.daily:
        days = start.view("u1").reshape(len(rows), -1)[:, :10]
        parts = [b'{"date":"', np.ascontiguousarray(days).view("S10").reshape(-1), b'","start":"', start]
    parts += [b'","end":"', end, b'","count":', _numbers(rows["count"])]
    if not wanted.merged:
        parts += [b',"device":', bytes(device) if device.ndim == 0 else device]
    if wanted.interval:
        return [*parts, b',"sum":', _numbers(rows["sum"])]
    mean = _numbers(rows["sum"] / rows["count"])
    return [*parts, b',"min":', _numbers(rows["min"]), b',"max":', _numbers(rows["max"]), b',"mean":', mean]


_STAGES = np.array([stage.label.encode() for stage in Stage])


def _shift(offset: Array) -> Array:
    return np.where(offset == UNKNOWN_OFFSET, 0, offset).astype("i8") * MINUTE_US
