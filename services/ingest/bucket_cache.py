"""What is held of buckets: they are remembered, so that the hour of a device that streams is not read each time."""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from services.ingest.known import by_id
from services.ingest.metrics import METRICS
from services.ingest.records import BUCKETS, TAILS, Bucket
from services.ingest.tails import HeldBucket
from services.ingest.turn import BucketKey
from shared.documents import Documents

# An hour of a sample a second takes some 100 kB: 300 devices that stream at any time.
MAX_BYTES = 32 * 1024 * 1024
# A bucket of one row takes 890 bytes, of which its columns are 38.
BYTES_BESIDE_COLUMNS = 850


class BucketCache:
    """Reads what buckets hold. The database is asked for the versions of those remembered, so none is ever stale."""

    def __init__(self, documents: Documents, max_bytes: int = MAX_BYTES) -> None:
        self._documents = documents
        self._max_bytes = max_bytes
        self._bytes = 0
        self._remembered: OrderedDict[str, Bucket] = OrderedDict()

    async def held(self, keys: Sequence[BucketKey]) -> dict[str, HeldBucket]:
        """Buckets and tails by id, read in an order that misses nothing (see `held.py`). Raises `Unavailable`."""
        tails = await by_id(self._documents, TAILS, (key.id for key in keys if METRICS[key.metric].dense))
        buckets = await self._buckets([key.id for key in keys])
        return {key.id: HeldBucket(buckets.get(key.id), tails.get(key.id)) for key in keys}

    def forget(self, user_id: str) -> None:
        """Drop what is remembered of a user."""
        for id in [id for id, bucket in self._remembered.items() if bucket.user_id == user_id]:
            self._bytes -= size_of(self._remembered.pop(id))

    async def _buckets(self, ids: Sequence[str]) -> dict[str, Bucket]:
        remembered = {id: self._remembered[id] for id in ids if id in self._remembered}
        versions = await self._documents.versions(BUCKETS, list(remembered))
        found = {
            id: bucket
            for (id, bucket), version in zip(remembered.items(), versions, strict=True)
            if bucket.version == version
        }
        read = await by_id(self._documents, BUCKETS, (id for id in ids if id not in found))
        for bucket in (*found.values(), *read.values()):
            self._remember(bucket)
        return found | read

    def _remember(self, bucket: Bucket) -> None:
        """Keep it as the one used last, and forget those not used for longest."""
        known = self._remembered.pop(bucket.id, None)
        self._remembered[bucket.id] = bucket
        if known is bucket:
            return
        self._bytes += size_of(bucket) - (size_of(known) if known is not None else 0)
        while self._bytes > self._max_bytes:
            _, oldest = self._remembered.popitem(last=False)
            self._bytes -= size_of(oldest)


def size_of(bucket: Bucket) -> int:
    """Bytes of memory that a bucket takes, about."""
    columns = msgspec.structs.astuple(bucket.columns)
    return BYTES_BESIDE_COLUMNS + sum(len(one) for one in columns if isinstance(one, bytes))
