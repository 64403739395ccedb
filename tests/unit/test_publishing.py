"""Which partition a key goes to: the one that every other Kafka client would choose."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from shared.publishing import MAX_REMEMBERED_KEY_BYTES, partition_of_key

PARTITIONS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


@given(st.binary(max_size=2 * MAX_REMEMBERED_KEY_BYTES), st.integers(1, 12))
def test_a_key_goes_where_aiokafka_puts_it(key: bytes, count: int) -> None:
    partitions = PARTITIONS[:count]
    for _ in range(2):
        assert partition_of_key(key, partitions, partitions) == DefaultPartitioner()(key, partitions, partitions)


# From the tests of Kafka's own Java client (org.apache.kafka.common.utils.UtilsTest.testMurmur2).
@pytest.mark.parametrize(
    ("key", "hashed"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_a_key_goes_where_javas_client_puts_it(key: bytes, hashed: int) -> None:
    assert partition_of_key(key, PARTITIONS, PARTITIONS) == (hashed & 0x7FFFFFFF) % 12


def test_a_record_without_a_key_goes_to_a_partition_that_can_be_reached() -> None:
    assert partition_of_key(None, PARTITIONS, [3]) == 3
