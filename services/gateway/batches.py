"""A phone's batch: from JSON to packed columns. Only a broken envelope is refused; bad records travel as (index, code).

What a record means (ranges, units, duplicates, unknown metrics) is ingest's to say.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.gateway.times import parse_times
from shared.errors import Problem
from shared.events import BatchSubmitted, RefusedRecord, SeriesColumns

MAX_SAMPLES = 10_000
# There are about 50 canonical metrics; each costs a set of columns.
MAX_METRICS = 100
INVALID_RECORD = "invalid-record"
IDENTITY_BYTES = 16

Kind = Literal["watch", "phone", "ring", "workout", "scale", "other"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One record as phones send it; without `end` it is an instant."""

    metric: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    start: str
    value: float
    end: str | None = None
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    version: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class Device(msgspec.Struct, frozen=True):
    """What measured: `id` is the client's own name for it."""

    id: Name
    kind: Kind


class Envelope(msgspec.Struct, frozen=True):
    """The whole batch, every record well formed."""

    device: Device
    app: Name
    samples: list[Sample]
    zone: Name | None = None


class RawEnvelope(msgspec.Struct, frozen=True):
    """The batch around records that are yet to be decoded."""

    device: Device
    app: Name
    samples: list[msgspec.Raw]
    zone: Name | None = None


ENVELOPE = msgspec.json.Decoder(Envelope)
RAW_ENVELOPE = msgspec.json.Decoder(RawEnvelope)
SAMPLE = msgspec.json.Decoder(Sample)


def read_batch(body: bytes, *, user_id: str, receipt_id: str, event_id: str, occurred_at: datetime) -> BatchSubmitted:
    """The batch in `body` as columns.

    Raises:
        Problem: 400 not JSON, 413 too many samples, 422 a broken envelope.
    """
    envelope, samples, places, refused = _decoded(body)
    received = len(envelope.samples)
    _check(envelope, received, samples)
    series, misdated = _series(samples, places)
    refused = sorted(refused + misdated)
    return BatchSubmitted(
        event_id=event_id,
        occurred_at=occurred_at,
        user_id=user_id,
        receipt_id=receipt_id,
        device_id=envelope.device.id,
        device_kind=envelope.device.kind,
        app=envelope.app,
        zone=envelope.zone or "",
        received=received,
        series=series,
        refused=tuple(RefusedRecord(index, INVALID_RECORD) for index in refused),
    )


def _decoded(body: bytes) -> tuple[Envelope | RawEnvelope, list[Sample], list[int], list[int]]:
    """The envelope, its good records, their places, and the places of the bad ones."""
    try:
        envelope = ENVELOPE.decode(body)
        return envelope, envelope.samples, list(range(len(envelope.samples))), []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raw = _raw_envelope(body)
    samples: list[Sample] = []
    places: list[int] = []
    refused: list[int] = []
    for place, record in enumerate(raw.samples[:MAX_SAMPLES]):
        try:
            samples.append(SAMPLE.decode(record))
            places.append(place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            refused.append(place)
    return raw, samples, places, refused


def _raw_envelope(body: bytes) -> RawEnvelope:
    try:
        return RAW_ENVELOPE.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid-batch", f"Correct the batch and send it again: {_in_words(error)}.") from error
    except UnicodeDecodeError as error:
        raise Problem(400, "not-json", "Send JSON in UTF-8.") from error
    except RecursionError as error:
        raise Problem(400, "not-json", "The JSON is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise Problem(400, "not-json", f"Send the batch as JSON. {error}.") from error


def _in_words(error: msgspec.ValidationError) -> str:
    """What is wrong and where; of msgspec's messages the one on enums alone quotes what was sent."""
    text = str(error)
    if text.startswith("Invalid enum value"):
        return f"Expected one of {', '.join(get_args(Kind))}{text[text.rindex(' - at `') :]}"
    return text


def _check(envelope: Envelope | RawEnvelope, received: int, samples: list[Sample]) -> None:
    if received > MAX_SAMPLES:
        raise Problem(413, "too-many-samples", f"Send at most {MAX_SAMPLES} samples in a batch; this has {received}.")
    if not received:
        raise Problem(422, "invalid-batch", "The batch holds no samples; there is nothing to send.")
    if envelope.zone is not None and not is_zone(envelope.zone):
        raise Problem(422, "unknown-zone", "`zone` must be an IANA time zone such as Europe/Berlin, or left out.")
    if len({sample.metric for sample in samples}) > MAX_METRICS:
        raise Problem(422, "too-many-metrics", f"Name at most {MAX_METRICS} different metrics in a batch.")


_zones: dict[str, bool] = {}


def is_zone(name: str) -> bool:
    """Whether `name` is an IANA time zone; remembers what it has seen, up to a bound."""
    known = _zones.get(name)
    if known is None:
        try:
            ZoneInfo(name)
            known = True
        except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
            known = False
        if len(_zones) < 2048:
            _zones[name] = known
    return known


def _series(samples: list[Sample], places: list[int]) -> tuple[tuple[SeriesColumns, ...], list[int]]:
    """The columns, one set a metric in order of appearance, and the places of records whose times are bad."""
    if not samples:
        return (), []
    count = len(samples)
    starts, offsets, valid = parse_times([sample.start for sample in samples])
    ends = starts
    has_end = [place for place, sample in enumerate(samples) if sample.end is not None]
    if has_end:
        given, _, given_valid = parse_times([samples[place].end or "" for place in has_end])
        ends = starts.copy()
        ends[has_end] = given
        valid[has_end] &= given_valid
        valid &= ends >= starts
    columns = _Columns(
        starts,
        ends,
        np.fromiter((sample.value for sample in samples), np.float64, count),
        offsets,
        np.array(places, np.uint32),
        _identities(samples),
        np.fromiter((sample.version for sample in samples), np.int64, count),
    )
    misdated = [] if valid.all() else [places[row] for row in np.flatnonzero(~valid)]
    groups = _groups(samples, valid, misdated)
    return tuple(columns.packed(metric, rows) for metric, rows in groups), misdated


def _groups(
    samples: list[Sample], valid: NDArray[np.bool_], misdated: list[int]
) -> list[tuple[str, NDArray[np.int64] | None]]:
    """Each metric with its rows; None stands for all rows."""
    first = samples[0].metric
    if not misdated and all(sample.metric == first for sample in samples):
        return [(first, None)]
    rows: dict[str, list[int]] = {}
    good = valid.tolist()
    for row, sample in enumerate(samples):
        if good[row]:
            rows.setdefault(sample.metric, []).append(row)
    return [(metric, np.array(each, np.int64)) for metric, each in rows.items()]


def _identities(samples: list[Sample]) -> NDArray[np.uint8]:
    blank = bytes(IDENTITY_BYTES)
    packed = b"".join(
        blank if sample.id is None else hashlib.blake2b(sample.id.encode(), digest_size=IDENTITY_BYTES).digest()
        for sample in samples
    )
    return np.frombuffer(packed, np.uint8).reshape(len(samples), IDENTITY_BYTES)


class _Columns:
    """All rows of a batch, whatever their metric."""

    def __init__(self, *columns: NDArray[Any]) -> None:
        types = ("<i8", "<i8", "<f8", "<i2", "<u4", "u1", "<i8")
        self._columns = [column.astype(kind, copy=False) for column, kind in zip(columns, types, strict=True)]

    def packed(self, metric: str, rows: NDArray[np.int64] | None) -> SeriesColumns:
        """The rows of one metric as bytes."""
        start, end, value, offset, index, identity, version = (
            (column if rows is None else column[rows]).tobytes() for column in self._columns
        )
        return SeriesColumns(
            metric=metric,
            start_us=start,
            end_us=end,
            value=value,
            offset_minutes=offset,
            index=index,
            identity=identity,
            version=version,
        )
