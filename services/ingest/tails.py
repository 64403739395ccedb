"""Tails: a few rows beside a bucket, so that a device that streams single samples does not rewrite it each time."""

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from services.ingest.buckets import NO_ROWS, Array, Columns, unpack
from services.ingest.held import outstanding, with_tail
from services.ingest.metrics import METRICS
from services.ingest.packing import times_of
from services.ingest.records import Bucket, Tail
from services.ingest.turn import MAX_BUCKET_ROWS, BucketKey, Turn

# A smaller bucket is rewritten in less than a page of the database.
LEAST_ROWS = 32
FEW_ROWS = 4
# A tail is merged when it is full; its size differs by bucket, so that buckets filled in step do not all merge at once.
SMALLEST, LARGEST = 32, 64


@dataclass(frozen=True)
class HeldBucket:
    """A bucket and its tail as stored."""

    bucket: Bucket | None = None
    tail: Tail | None = None

    @property
    def rows(self) -> Array | None:
        """All rows, tombstones included; None without a bucket."""
        if self.bucket is None:
            return None
        rows = unpack(self.bucket.columns)
        return with_tail(rows, unpack(self.tail.columns)) if self.tail is not None and self.tail.columns.count else rows

    @property
    def tail_rows(self) -> Array:
        """The tail's rows that are not in the bucket yet."""
        if self.tail is None or self.bucket is None or not self.tail.columns.count:
            return NO_ROWS
        rows = unpack(self.tail.columns)
        if self.tail.bucket_version == self.bucket.version:
            return rows
        return outstanding(rows, unpack(self.bucket.columns))


def stored_rows(turn: Turn, held: Mapping[str, HeldBucket]) -> tuple[list[Array | None], frozenset[int]]:
    """What each of the turn's buckets holds, and the places of those where only the tail takes part.

    A tail takes part alone when the bucket is not small and few rows come, none of them known to it or a tombstone.
    """
    counts = np.bincount(turn.group, minlength=len(turn.keys)).tolist()
    rows: list[Array | None] = []
    alone: set[int] = set()
    for place, key in enumerate(turn.keys):
        one = held[key.id]
        if counts[place] and counts[place] <= FEW_ROWS and _has_room(key, one, counts[place]):
            coming = turn.rows[turn.group == place]
            if one.bucket is not None and not coming["deleted"].any() and not _knows(one.bucket.columns, coming):
                alone.add(place)
                rows.append(one.tail_rows)
                continue
        rows.append(one.rows)
    return rows, frozenset(alone)


def _has_room(key: BucketKey, held: HeldBucket, coming: int) -> bool:
    bucket = held.bucket
    if bucket is None or not METRICS[key.metric].dense:
        return False
    waiting = held.tail.columns.count if held.tail is not None else 0
    room = SMALLEST + crc32(bucket.id.encode()) % (LARGEST - SMALLEST + 1)
    return LEAST_ROWS <= bucket.columns.count < MAX_BUCKET_ROWS - LARGEST and waiting + coming <= room


def _knows(columns: Columns, rows: Array) -> bool:
    """Whether the bucket knows any of a few rows; without unpacking it, which costs twenty times as much."""
    if columns.identity:
        hi, lo = np.frombuffer(columns.identity, "<u8").reshape(-1, 2).T
    else:
        # Every identity is (start, end), and starts are sorted.
        hi = times_of(columns.start, columns.count).view("<u8")
        lo = None
    for one in rows:
        place = np.flatnonzero(hi == one["id_hi"])
        if len(place) and (lo is None or (lo[place] == one["id_lo"]).any()):
            # Without ends at hand an equal start is taken for known: then the bucket is merged, which is right too.
            return True
    return False
