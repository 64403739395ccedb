"""Points as JSON texts, made column by column, and the cursors between pages of them."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, Array
from services.ingest.metrics import Stage
from services.ingest.moments import texts
from services.ingest.timeseries import Table, Wanted
from shared.events import UNKNOWN_OFFSET


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The last point given. `of` names the question, so that a cursor is of no use to another one."""

    of: bytes
    key: int
    device_id: str
    id_hi: int = 0
    id_lo: int = 0


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
    if wanted.windowed:
        return Mark(fingerprint, int(row["key"]), "" if wanted.merged else table.devices[int(row["device"])])
    device_id = table.devices[int(row["device"])]
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
        device_id = "" if wanted.windowed and wanted.merged else table.devices[int(row["device"])]
        own = not (wanted.windowed or wanted.resolved)
        identity = (int(row["id_hi"]), int(row["id_lo"])) if own else (0, 0)
        kept[place] = (device_id, *identity) > (mark.device_id, mark.id_hi, mark.id_lo)
    return Table(rows[kept], table.devices)


def lines(table: Table, wanted: Wanted) -> list[str]:
    """Each point as a JSON object."""
    if not len(table.rows):
        return []
    devices = [msgspec.json.encode(name).decode() for name in table.devices]
    return (
        _windows(table.rows, devices, wanted)
        if wanted.windowed
        else _samples(table.rows, devices, _values(table.rows, wanted))
    )


def _values(rows: Array, wanted: Wanted) -> list[str]:
    if wanted.metric == "sleep":
        return [f'"stage":"{Stage(int(one)).label}"' for one in rows["value"].tolist()]
    return [f'"value":{one!r}' for one in rows["value"].tolist()]


def _samples(rows: Array, devices: Sequence[str], value: Sequence[str]) -> list[str]:
    start = texts(rows["start"], rows["offset"])
    device = [devices[one] for one in rows["device"].tolist()]
    if bool((rows["end"] == rows["start"]).all()):
        return [
            f'{{"start":"{one}",{number},"device":{name}}}'
            for one, number, name in zip(start, value, device, strict=True)
        ]
    end = texts(rows["end"], rows["offset"])
    return [
        f'{{"start":"{one}","end":"{other}",{number},"device":{name}}}'
        for one, other, number, name in zip(start, end, value, device, strict=True)
    ]


def _windows(rows: Array, devices: Sequence[str], wanted: Wanted) -> list[str]:
    step = wanted.step_us or 1
    first, last = (rows[name] if wanted.daily else np.full(len(rows), UNKNOWN_OFFSET, "<i2") for name in _ENDS)
    start, end = (
        texts((rows["key"] + later) * step - _shift(offset), offset) for later, offset in ((0, first), (1, last))
    )
    count = rows["count"].tolist()
    heads = [
        f'{{"start":"{one}","end":"{other}","count":{number}'
        for one, other, number in zip(start, end, count, strict=True)
    ]
    if wanted.daily:
        heads = [f'{{"date":"{one[:10]}",{head[1:]}' for one, head in zip(start, heads, strict=True)]
    if not wanted.merged:
        heads = [f'{head},"device":{devices[one]}' for head, one in zip(heads, rows["device"].tolist(), strict=True)]
    total = rows["sum"].tolist()
    if wanted.interval:
        return [f'{head},"sum":{one!r}}}' for head, one in zip(heads, total, strict=True)]
    low, high = rows["min"].tolist(), rows["max"].tolist()
    mean = (rows["sum"] / rows["count"]).tolist()
    return [
        f'{head},"min":{one!r},"max":{other!r},"mean":{middle!r}}}'
        for head, one, other, middle in zip(heads, low, high, mean, strict=True)
    ]


_ENDS = ("first", "last")


def _shift(offset: Array) -> Array:
    return np.where(offset == UNKNOWN_OFFSET, 0, offset).astype("i8") * MINUTE_US
