"""What the gateway accepts: batches, which are MessagePack with packed columns, and pictures."""

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from shared.events.event import Event, ObjectRef, UtcTime

# `offset_minutes` of a time sent as UTC ("Z"): where the user's clock stood is not known.
UNKNOWN_OFFSET = -(2**15)


class SeriesColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of one metric and unit, both named as sent, in equal-length columns, each packed little-endian.

    `unit`: "" where none was sent, which means the metric's own; `start_us`, `end_us`: int64, microseconds since 1970
    UTC; `value`: float64 in `unit`; `offset_minutes`: int16, local minus UTC, or `UNKNOWN_OFFSET`; `index`: uint32,
    the record's place in the client's batch; `identity`: 16 bytes a sample, BLAKE2b of the source's own id, all zero
    where the source has none; `version`: int64, the source's version or update time in microseconds, 0 where it has
    none.
    """

    metric: str
    unit: str = ""
    start_us: bytes
    end_us: bytes
    value: bytes
    offset_minutes: bytes
    index: bytes
    identity: bytes
    version: bytes


class RefusedRecord(msgspec.Struct, frozen=True):
    """A record that was not stored as sent: its place in the batch and a stable reason code."""

    index: int
    code: str


class StageColumns(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep's stages: `start_us` and `end_us` packed int64, `stage` as sent, one name each."""

    start_us: bytes
    end_us: bytes
    stage: tuple[str, ...]


class StreamColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of a workout, packed little-endian: `at_us` int64 since 1970 UTC, `value` float64, equal lengths."""

    name: str
    at_us: bytes
    value: bytes


class SessionSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep or a workout; `type` and `sport` are named as sent, `totals` by our names (`energy_active_kcal`, …).

    `identity`, `version` and `offset_minutes` are those of `SeriesColumns`.
    """

    index: int
    type: str
    start_us: int
    end_us: int
    offset_minutes: int
    identity: bytes
    version: int = 0
    sport: str = ""
    totals: dict[str, float] = {}
    stages: StageColumns | None = None
    streams: tuple[StreamColumns, ...] = ()


class DeletionSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is gone at its source, named by its id, or by metric, start and end where it has none.

    `metric` is "" and the times are None where the source does not say. `version`: 0 = whatever version it has.
    """

    index: int
    identity: bytes
    metric: str = ""
    start_us: int | None = None
    end_us: int | None = None
    version: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """Where a large batch lies in the object store; `ingest/<user_id>/<sha256>`, deleted by ingest once stored."""

    key: str
    sha256: str


class BatchSubmitted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.submitted"):
    """One accepted phone batch. `refused` holds the records that did not decode.

    `index` counts all records of the batch: its samples first, then its sessions, then its deletions. `received` is
    how many there are. A batch too large for a message travels by reference: `object` names where the same struct
    lies as MessagePack, and `series`, `sessions` and `deletions` are empty.
    """

    event_id: str
    occurred_at: datetime
    user_id: str
    receipt_id: str
    device_id: str
    device_kind: str
    app: str
    zone: str
    received: int
    series: tuple[SeriesColumns, ...]
    refused: tuple[RefusedRecord, ...] = ()
    sessions: tuple[SessionSubmitted, ...] = ()
    deletions: tuple[DeletionSubmitted, ...] = ()
    object: BatchObject | None = None


class PhotoSubmitted(Event, frozen=True):
    """A picture of a nutrition label was accepted. With `grams` a diary entry arises, without it only a food."""

    type: Literal["photo.submitted"] = "photo.submitted"
    user_id: str
    photo_id: str
    object: ObjectRef
    grams: Decimal | None = None
    eaten_at: UtcTime | None = None
    local_date: date | None = None
