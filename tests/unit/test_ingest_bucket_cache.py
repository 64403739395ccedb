"""What remembered buckets are taken to weigh, which is what bounds them."""

import tracemalloc

import numpy as np
import pytest

from services.ingest.bucket_cache import size_of
from services.ingest.buckets import ROW, pack
from services.ingest.records import BUCKETS, Bucket
from shared.documents.codec import decode, encode

MANY = 500


def read(number: int, rows: int) -> Bucket:
    """A bucket as it comes from the database."""
    samples = np.zeros(rows, ROW)
    samples["start"] = samples["id_hi"] = 1_772_000_000_000_000 + np.arange(rows) * 1_000_000
    samples["end"] = samples["id_lo"] = samples["start"] + 1
    samples["value"] = 60 + np.arange(rows) % 7
    bucket = Bucket(
        id=f"{number:032d}",
        user_id=f"usr_{number:024d}",
        metric="heart_rate",
        device_id=f"watch-{number}",
        device_kind="watch",
        hour=490_000 + number,
        columns=pack(samples),
    )
    stored = encode(bucket, 1)
    return decode(BUCKETS, bucket.id, 1, BUCKETS.v, stored.body)


@pytest.mark.parametrize("rows", [1, 60, 3600])
def test_a_bucket_weighs_about_what_it_takes_in_memory(rows: int) -> None:
    tracemalloc.start()
    try:
        held = [read(number, rows) for number in range(MANY)]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / 2 < sum(map(size_of, held)) < 2 * taken
