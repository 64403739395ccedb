"""What is held of a user's metric: buckets with their tails merged in, read in an order that misses nothing.

A tail is merged by writing the bucket first and then the tail, empty. So tails are read before buckets: rows that move
in between are seen twice. Where both know an identity the higher version is right, and the bucket's of two alike: it
may have been written by somebody who did not see the tail, or the tail by somebody who did not see the bucket.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np

from services.ingest.buckets import Array, joined, merge, unpack
from services.ingest.metrics import METRICS
from services.ingest.records import BUCKETS, TAILS, Bucket, Tail
from shared.documents import Documents

# So few are read without a thread (shared/documents/sqlite.py), and most reads find no tail at all.
SMALL_PAGE = 8
PAGE = 200


@dataclass(frozen=True)
class Held:
    """Rows (dtype ROW, sorted by start) of one bucket: one metric and device, `Metric.bucket_hours` from `hour` on."""

    metric: str
    device_id: str
    device_kind: str
    hour: int
    rows: Array


def with_tail(rows: Array, tail: Array) -> Array:
    """A bucket's rows and those of its tail as one, sorted by start."""
    if known(tail, rows).any():
        return merge(tail, np.zeros(len(tail), "i8"), rows, np.zeros(len(rows), "i8"), 1).rows
    both = joined((rows, tail))
    return both[np.argsort(both["start"], kind="stable")]


def outstanding(tail: Array, rows: Array) -> Array:
    """The rows of a tail that its bucket's `rows` say nothing as new of."""
    left = np.ones(len(tail), bool)
    for place in np.flatnonzero(known(tail, rows)):
        same = (rows["id_hi"] == tail["id_hi"][place]) & (rows["id_lo"] == tail["id_lo"][place])
        left[place] = bool((rows["version"][same] < tail["version"][place]).all())
    return tail[left]


def known(rows: Array, others: Array) -> Array:
    """Per row, whether `others` hold a row of the same identity. `rows` are few."""
    hi, lo = others["id_hi"], others["id_lo"]
    found = np.isin(rows["id_hi"], hi)
    for place in np.flatnonzero(found):
        found[place] = bool((lo[hi == rows["id_hi"][place]] == rows["id_lo"][place]).any())
    return found


def live(rows: Array) -> Array:
    """The rows that are no tombstones."""
    return rows[rows["deleted"] == 0] if rows["deleted"].any() else rows


async def read_held(
    documents: Documents,
    user_id: str,
    metric: str,
    from_hour: int,
    to_hour: int,
    *,
    device_id: str | None = None,
    with_deleted: bool = False,
) -> AsyncGenerator[Held]:
    """The buckets of the UTC hours [from_hour, to_hour) since 1970, in order of their hours, a page in memory.

    A row stands in the bucket of its start, so one that began before `from_hour` is not here, while a sparse metric's
    bucket holds its whole UTC day. Buckets without live rows are left out, tombstones too unless `with_deleted`.
    """
    hours = METRICS[metric].bucket_hours
    hour, cursor = from_hour - from_hour % hours, None
    limit = SMALL_PAGE
    while hour < to_hour:
        tails, end = await _tails(documents, user_id, metric, hour, to_hour)
        while True:
            page = await documents.find(
                BUCKETS,
                "user_metric_hour",
                (user_id, metric),
                at_least=hour,
                below=end,
                limit=limit,
                cursor=cursor,
            )
            limit = PAGE
            for bucket in page.documents:
                if device_id in (None, bucket.device_id):
                    found = _held(bucket, tails.get(bucket.id), with_deleted)
                    if len(found.rows):
                        yield found
            if (cursor := page.cursor) is None:
                break
        hour = end


async def all_held(
    documents: Documents, user_id: str, metric: str, from_hour: int, to_hour: int, *, device_id: str | None = None
) -> list[Held]:
    """Live rows of `read_held` in one list, for ranges known to be short."""
    return [one async for one in read_held(documents, user_id, metric, from_hour, to_hour, device_id=device_id)]


async def _tails(
    documents: Documents, user_id: str, metric: str, from_hour: int, to_hour: int
) -> tuple[dict[str, Tail], int]:
    """The tails from `from_hour` on by id, and up to which hour these are all: a page of them or a bit more."""
    found: dict[str, Tail] = {}
    cursor: str | None = None
    limit = SMALL_PAGE
    while True:
        page = await documents.find(
            TAILS,
            "user_metric_hour",
            (user_id, metric),
            at_least=from_hour,
            below=to_hour,
            limit=limit,
            cursor=cursor,
        )
        found.update((one.id, one) for one in page.documents)
        if (cursor := page.cursor) is None:
            return found, to_hour
        last = page.documents[-1].hour
        if limit == PAGE and last > from_hour:
            # More tails of the last hour may follow: it comes with the next page.
            return {id: one for id, one in found.items() if one.hour < last}, last
        limit = PAGE


def _held(bucket: Bucket, tail: Tail | None, with_deleted: bool) -> Held:
    rows = unpack(bucket.columns)
    all_live = not bucket.columns.deleted
    if tail is not None and tail.columns.count:
        rows, all_live = with_tail(rows, unpack(tail.columns)), all_live and not tail.columns.deleted
    told = rows if with_deleted or all_live else live(rows)
    return Held(bucket.metric, bucket.device_id, bucket.device_kind, bucket.hour, told)
