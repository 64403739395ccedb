"""Batches as the gateway publishes them."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from shared.events.gateway import UNKNOWN_OFFSET, BatchSubmitted, RefusedRecord, SeriesColumns

# (start, end, value), then the source's own id and version where it has one
Sample = (
    tuple[datetime, datetime, float]
    | tuple[datetime, datetime, float, str]
    | tuple[datetime, datetime, float, str, int]
)


def series(metric: str, samples: Sequence[Sample], first_index: int = 0) -> SeriesColumns:
    """Columns of one metric; times in Python's own UTC are sent as "Z", which tells no offset."""
    full = [(*one, *("", 0)[len(one) - 3 :]) for one in samples]
    micros = [[round(one[side].timestamp() * 1_000_000) for one in full] for side in (0, 1)]
    offsets = [
        UNKNOWN_OFFSET if one[0].tzinfo is UTC else (one[0].utcoffset() or timedelta()) // timedelta(minutes=1)
        for one in full
    ]
    return SeriesColumns(
        metric=metric,
        start_us=np.array(micros[0], "<i8").tobytes(),
        end_us=np.array(micros[1], "<i8").tobytes(),
        value=np.array([one[2] for one in full], "<f8").tobytes(),
        offset_minutes=np.array(offsets, "<i2").tobytes(),
        index=np.arange(first_index, first_index + len(full), dtype="<u4").tobytes(),
        identity=b"".join(
            hashlib.blake2b(one[3].encode(), digest_size=16).digest() if one[3] else bytes(16) for one in full
        ),
        version=np.array([one[4] for one in full], "<i8").tobytes(),
    )


def batch(
    receipt_id: str, *columns: SeriesColumns, refused: Sequence[tuple[int, str]] = (), **changed: Any
) -> BatchSubmitted:
    """A batch of one user's watch."""
    values: dict[str, Any] = {
        "event_id": f"event-{receipt_id}",
        "occurred_at": datetime(2026, 3, 1, 20, tzinfo=UTC),
        "user_id": "user-1",
        "receipt_id": receipt_id,
        "device_id": "watch-1",
        "device_kind": "watch",
        "app": "test/1",
        "zone": "",
        "received": sum(len(one.start_us) // 8 for one in columns) + len(refused),
        "series": columns,
        "refused": tuple(RefusedRecord(index, code) for index, code in refused),
    }
    return BatchSubmitted(**(values | changed))


def encoded(one: BatchSubmitted) -> bytes:
    """The message's bytes."""
    return msgspec.msgpack.encode(one)
