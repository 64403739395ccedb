"""One subscriber's place in each of its partitions: commit, and "later" without losing place or membership."""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError

from shared.metrics import METRICS

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 20.0
# Offsets of so long go to the broker together, so that no record waits for the commit of the one before it. The price
# is that a crash repeats up to so much work.
COMMIT_EVERY_S = 0.1
# A commit retries inside aiokafka for as long as the broker is away. Past this time the next commit stands for it.
COMMIT_SECONDS = 20.0

Record = ConsumerRecord[bytes | None, bytes | None]
log = logging.getLogger(__name__)


def partition_of(record: Record) -> TopicPartition:
    """The partition a record came from."""
    return TopicPartition(record.topic, record.partition)


class Places(ConsumerRebalanceListener):
    """Offsets, pauses and counts of attempts of one subscriber.

    `outcomes` grows with everything that ended, "later" included; `in_hand` is the number of turns under way. The
    watchdog reads both.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.outcomes = 0
        self.in_hand = 0
        self.find_consumer: Callable[[], object] = lambda: None
        self._delays: dict[TopicPartition, int] = {}
        self._attempts: dict[TopicPartition, tuple[int, int]] = {}
        self._timers: dict[TopicPartition, asyncio.TimerHandle] = {}
        self._done: dict[TopicPartition, int] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._committing = asyncio.Lock()
        self._stopping = False

    @property
    def consumer(self) -> AIOKafkaConsumer | None:
        """The live consumer; None before the start, after the stop and on TestKafkaBroker."""
        consumer = self.find_consumer()
        return consumer if isinstance(consumer, AIOKafkaConsumer) else None

    @contextmanager
    def turn(self) -> Generator[None]:
        """One handler's turn, which the watchdog sees."""
        self.in_hand += 1
        try:
            with METRICS.handler_seconds.labels(self.topic).time():
                yield
        finally:
            self.in_hand -= 1

    def ended(self, outcome: str, count: int = 1) -> None:
        """Count what became of `count` records."""
        self.outcomes += 1
        METRICS.messages.labels(self.topic, outcome).inc(count)

    def failed(self, record: Record) -> int:
        """Note one more failure of this record; the number of its failures so far."""
        partition = partition_of(record)
        offset, failures = self._attempts.get(partition, (record.offset, 0))
        failures = failures + 1 if offset == record.offset else 1
        self._attempts[partition] = (record.offset, failures)
        return failures

    def later(self, firsts: Mapping[TopicPartition, int]) -> bool:
        """Put the partitions back to these offsets and pause them; a timer resumes each.

        A pause set on an assignment ends with it, so a rebalance needs no cleaning up: resuming twice is harmless.
        False where no consumer can deliver again (TestKafkaBroker).
        """
        consumer = self.consumer
        if consumer is None:
            return False
        for partition, offset in firsts.items():
            try:
                consumer.seek(partition, offset)
                consumer.pause(partition)
            except IllegalStateError:
                continue  # lost in a rebalance: whoever has it now reads from the commit
            repeats = self._delays.get(partition, 0)
            self._delays[partition] = repeats + 1
            delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(repeats, 16)) * random.uniform(0.75, 1)  # noqa: S311 - spreads load, guards nothing
            if (timer := self._timers.pop(partition, None)) is not None:
                timer.cancel()
            resume = partial(self._resume, consumer, partition)
            self._timers[partition] = asyncio.get_running_loop().call_later(delay, resume)
        return True

    def _resume(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        self._timers.pop(partition, None)
        try:
            consumer.resume(partition)
        except IllegalStateError:
            log.debug("%s-%d is no longer ours", partition.topic, partition.partition)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Take the offsets to read next; they are committed within 0.1 s, at once while stopping."""
        for partition in offsets:
            self._delays.pop(partition, None)
            self._attempts.pop(partition, None)
        if self.consumer is None:
            return
        self._done.update(offsets)
        if self._stopping:
            await self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_soon())

    def starting(self) -> None:
        """Commits are gathered again, also after a start that failed and was stopped."""
        self._stopping = False

    async def stopping(self) -> None:
        """Commit what waits, and from now on at once: the consumer ends when its turn has."""
        self._stopping = True
        await self.flush()

    async def flush(self) -> None:
        """Commit what waits. A failure is logged alone: the records come again, and are known then."""
        # One at a time: an older commit that retries must not come after a newer one.
        async with self._committing:
            consumer = self.consumer
            offsets, self._done = self._done, {}
            if consumer is not None and offsets:
                await self._commit(consumer, offsets)

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        ours = consumer.assignment()
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await consumer.commit({partition: offset for partition, offset in offsets.items() if partition in ours})
        except (KafkaError, ConsumerStoppedError, TimeoutError) as error:
            METRICS.messages.labels(self.topic, "commit_failed").inc()
            log.warning("offsets of %s not committed, records may come again: %s", self.topic, type(error).__name__)

    async def _flush_soon(self) -> None:
        try:
            await asyncio.sleep(COMMIT_EVERY_S)
        finally:
            self._flushing = None
        await self.flush()

    # aiokafka awaits it when it is a coroutine; its base class declares the plain form alone.
    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: Collection[TopicPartition]
    ) -> None:
        """Commit what is done, so that who has the partitions next need not repeat it."""
        await self.flush()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Forget the delays and counts of partitions that went to others."""
        for known in (self._delays, self._attempts):
            for partition in known.keys() - set(assigned):
                del known[partition]
