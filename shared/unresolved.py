"""How many dead letters nobody has dealt with: what lies in their topics, less what operators replayed or dropped.

Kafka can't take single records out of a topic, so each resolution is a record of `operator.dead_letters.v1` and counts
here as one bit by the letter's offset.
"""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import cast

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.places import Record
from shared.topics import RESOLUTIONS

LOG = TopicPartition(RESOLUTIONS.name, 0)
POLL_MS = 500
MAX_RECORDS = 500
SILENCE_S = 10.0


class Marks:
    """The offsets of one partition that are resolved, a bit each."""

    def __init__(self) -> None:
        self._base = 0  # always a multiple of 8
        self._bits = bytearray()

    def keep(self, begin: int, end: int) -> None:
        """Cover the offsets [begin, end): older ones are forgotten, for their letters have expired."""
        base = begin // 8 * 8
        del self._bits[: max(0, (base - self._base) // 8)]
        if base < self._base:  # the topic was made anew
            self._bits = bytearray()
        self._base = base
        del self._bits[(end - base + 7) // 8 :]
        self._bits.extend(bytes((end - base + 7) // 8 - len(self._bits)))

    def add(self, offset: int) -> None:
        """Mark an offset; one that is not covered says nothing."""
        place = offset - self._base
        if 0 <= place < 8 * len(self._bits):
            self._bits[place // 8] |= 1 << place % 8

    def __contains__(self, offset: int) -> bool:
        place = offset - self._base
        return 0 <= place < 8 * len(self._bits) and bool(self._bits[place // 8] >> place % 8 & 1)

    def count(self, begin: int, end: int) -> int:
        """How many of the offsets [begin, end) are marked."""
        low, high = max(0, begin - self._base), max(0, end - self._base)
        bits = int.from_bytes(self._bits, "little")
        return (bits >> low & (1 << max(0, high - low)) - 1).bit_count()


class _Resolution(msgspec.Struct):
    position: str


_resolutions = msgspec.json.Decoder(_Resolution)
Offsets = Mapping[TopicPartition, int]


class Resolved:
    """What operators resolved, read as far as it was written when last looked at."""

    def __init__(self) -> None:
        self._marks: dict[TopicPartition, Marks] = {}
        self._next = 0

    def __contains__(self, place: tuple[str, int, int]) -> bool:
        topic, partition, offset = place
        return offset in self._marks.get(TopicPartition(topic, partition), ())

    @property
    def next(self) -> int:
        """Where in the log to read on."""
        return self._next

    def cover(self, first: Offsets, after: Offsets) -> None:
        """Say which partitions matter, and from where to where they go now; before `read`."""
        for partition, begin in first.items():
            self._marks.setdefault(partition, Marks()).keep(begin, after[partition])

    async def read(self, consumer: AIOKafkaConsumer, end: int) -> None:
        """Take the log of resolutions up to `end`; the consumer's own place is lost.

        Raises:
            KafkaError, TimeoutError: the broker does not answer.
        """
        begin = (await beginnings(consumer, [LOG]))[LOG]
        async for record in records(consumer, LOG, max(begin, self._next), end):
            self._take(record)
        self._next = end

    def unresolved(self, first: Offsets, after: Offsets) -> dict[str, int]:
        """How many letters each topic holds that are not resolved."""
        found: dict[str, int] = {}
        for partition, begin in first.items():
            marks, end = self._marks.get(partition), after[partition]
            resolved = marks.count(begin, end) if marks is not None else 0
            found[partition.topic] = found.get(partition.topic, 0) + end - begin - resolved
        return found

    def _take(self, record: Record) -> None:
        try:
            topic, partition, offset = _resolutions.decode(record.value or b"").position.rsplit("/", 2)
            marks = self._marks.get(TopicPartition(topic, int(partition)))
            if marks is not None:
                marks.add(int(offset))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return  # not one of ours


async def beginnings(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """The first offset of each, which need not be assigned.

    Raises:
        KafkaError, TimeoutError: no answer within 10 s; for a topic that is not there it never comes.
    """
    async with asyncio.timeout(SILENCE_S):
        return cast(dict[TopicPartition, int], await consumer.beginning_offsets(list(partitions)))


async def ends(consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset behind the last of each. Raises as `beginnings`."""
    async with asyncio.timeout(SILENCE_S):
        return cast(dict[TopicPartition, int], await consumer.end_offsets(list(partitions)))


async def records(
    consumer: AIOKafkaConsumer, partition: TopicPartition, begin: int, end: int
) -> AsyncGenerator[Record]:
    """Every record of one partition from offset `begin` until before `end`.

    Raises:
        KafkaError, TimeoutError: the broker does not answer for 10 s.
    """
    if begin >= end:
        return
    consumer.assign([partition])
    consumer.seek(partition, begin)
    heard = time.monotonic()
    while await _position(consumer, partition) < end:
        found = cast(
            dict[TopicPartition, list[Record]], await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_RECORDS)
        )
        for record in found.get(partition, ()):
            if record.offset >= end:
                return
            yield record
        if found:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            raise TimeoutError


async def _position(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    async with asyncio.timeout(SILENCE_S):
        return await consumer.position(partition)
