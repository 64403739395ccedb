"""One accepted batch as rows: decoding, and the checks that need the metric's meaning."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, NO_ROWS, ROW, Array
from services.ingest.deletions import CheckedDeletion
from services.ingest.metrics import METRICS
from services.ingest.sessions import CheckedSession
from services.ingest.zones import offsets_in, zone_of
from shared.errors import Rejected
from shared.events import BatchSubmitted, SeriesColumns

HOUR_US = 60 * MINUTE_US
# A phone's clock may be wrong by a zone, and daily totals are sent before the day is over.
LONGEST_AHEAD = timedelta(hours=24)
LONGEST_US = 24 * HOUR_US
# Local time is between 14 hours ahead of UTC and 12 hours behind it.
LARGEST_OFFSET_MINUTES = 14 * 60
# An interval sent without an end; it needs a length to be resolved against other devices.
DEFAULT_INTERVAL_US = MINUTE_US

_COLUMNS = (("start_us", "<i8"), ("end_us", "<i8"), ("value", "<f8"), ("offset_minutes", "<i2"), ("version", "<i8"))
_batches = msgspec.msgpack.Decoder(BatchSubmitted)


class BatchHead(msgspec.Struct, frozen=True):
    """What a dead letter is answered with, readable where the rest is not."""

    user_id: str
    receipt_id: str
    received: int = 0


_heads = msgspec.msgpack.Decoder(BatchHead)


@dataclass(frozen=True)
class CheckedSeries:
    """Rows (dtype ROW) of one metric that passed, each with its `index` in the client's batch."""

    metric: str
    rows: Array
    index: Array


@dataclass(frozen=True)
class CheckedBatch:
    """A batch's verdict: what to merge, and (index, code) of every record refused.

    `zone` is "" where the batch names none that exists; `occurred_at` is when the gateway took it. A metric has at
    most one series.
    """

    user_id: str
    receipt_id: str
    device_id: str
    device_kind: str
    zone: str
    received: int
    series: tuple[CheckedSeries, ...]
    refused: tuple[tuple[int, str], ...]
    app: str
    occurred_at: datetime
    sessions: tuple[CheckedSession, ...] = ()
    deletions: tuple[CheckedDeletion, ...] = ()


def decode(value: bytes) -> BatchSubmitted:
    """The batch in a message of `gateway.batches.v1`. Raises `Rejected`."""
    try:
        return _batches.decode(value)
    except msgspec.MsgspecError as error:
        raise Rejected("undecodable", str(error)) from error


def decode_head(value: bytes) -> BatchHead | None:
    """Who and which receipt, if that much can be read."""
    try:
        return _heads.decode(value)
    except msgspec.MsgspecError:
        return None


def check(batch: BatchSubmitted) -> CheckedBatch:
    """Decide about every record.

    Raises:
        Rejected: the columns of a series differ in length, so no record can be trusted.
    """
    refused = [(record.index, record.code) for record in batch.refused]
    series: list[CheckedSeries] = []
    for columns in batch.series:
        rows, index = _rows(columns)
        metric = METRICS.get(columns.metric)
        if metric is None:
            refused.extend((place, "unknown-metric") for place in index.tolist())
            continue
        if metric.kind == "interval":
            rows["end"] += np.where(rows["end"] == rows["start"], DEFAULT_INTERVAL_US, 0)
        wrong = _refusals(rows, columns.metric, batch.occurred_at)
        if wrong.any():
            refused.extend((int(index[place]), CODES[int(wrong[place])]) for place in np.flatnonzero(wrong))
            rows, index = rows[wrong == 0], index[wrong == 0]
        if len(rows):
            series.append(CheckedSeries(columns.metric, _with_zone(_with_identity(rows), batch.zone), index))
    return CheckedBatch(
        user_id=batch.user_id,
        receipt_id=batch.receipt_id,
        device_id=batch.device_id,
        device_kind=batch.device_kind,
        zone=batch.zone if zone_of(batch.zone) else "",
        received=batch.received,
        series=tuple(series),
        refused=tuple(sorted(refused)),
        app=batch.app,
        occurred_at=batch.occurred_at,
    )


def _rows(columns: SeriesColumns) -> tuple[Array, Array]:
    """The columns as rows, identity still as sent, and their places in the batch."""
    count = len(columns.start_us) // 8
    lengths = {len(getattr(columns, name)) - count * np.dtype(dtype).itemsize for name, dtype in _COLUMNS}
    if lengths != {0} or len(columns.identity) != 16 * count or len(columns.index) != 4 * count:
        raise Rejected("bad-columns", "the columns of a series differ in length")
    if not count:
        return NO_ROWS, np.empty(0, "<u4")
    rows = np.zeros(count, ROW)
    for name, dtype in _COLUMNS:
        rows[name.removesuffix("_us").removesuffix("_minutes")] = np.frombuffer(getattr(columns, name), dtype)
    identity = np.frombuffer(columns.identity, "<u8").reshape(count, 2)
    rows["id_hi"], rows["id_lo"] = identity[:, 0], identity[:, 1]
    return rows, np.frombuffer(columns.index, "<u4")


Test = Callable[[Array, str, int], Array]

_TESTS: dict[str, Test] = {
    "before-1970": lambda rows, _metric, _latest: rows["start"] < 0,
    "end-before-start": lambda rows, _metric, _latest: rows["end"] < rows["start"],
    "in-future": lambda rows, _metric, latest: rows["start"] > latest,
    "too-long": lambda rows, _metric, _latest: rows["end"] - rows["start"] > LONGEST_US,
    "bad-offset": lambda rows, _metric, _latest: np.abs(rows["offset"].astype("i8")) > LARGEST_OFFSET_MINUTES,
    # Written so that a value that is no number is out of range too.
    "out-of-range": lambda rows, metric, _latest: (
        ~((rows["value"] >= METRICS[metric].lowest) & (rows["value"] <= METRICS[metric].highest))
    ),
}
CODES: tuple[str, ...] = ("", *_TESTS)


def _refusals(rows: Array, metric: str, received_at: datetime) -> Array:
    """Per row the place of its refusal in `CODES`, 0 for none; the first reason that applies."""
    latest = int((received_at + LONGEST_AHEAD).timestamp() * 1_000_000)
    wrong = np.zeros(len(rows), "u1")
    for number, test in enumerate(_TESTS.values(), start=1):
        wrong[(wrong == 0) & test(rows, metric, latest)] = number
    return wrong


def _with_identity(rows: Array) -> Array:
    """Rows whose source gave no id get (start, end) as identity."""
    nameless = (rows["id_hi"] == 0) & (rows["id_lo"] == 0)
    rows["id_hi"] = np.where(nameless, rows["start"].view("<u8"), rows["id_hi"])
    rows["id_lo"] = np.where(nameless, rows["end"].view("<u8"), rows["id_lo"])
    return rows


def _with_zone(rows: Array, zone_name: str) -> Array:
    """Times sent in UTC get the offset of the batch's zone, which is what their day is meant in."""
    zone = zone_of(zone_name)
    in_utc = rows["offset"] == 0
    if zone is not None and bool(in_utc.any()):
        rows["offset"][in_utc] = offsets_in(zone, rows["start"][in_utc])
    return rows
