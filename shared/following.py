"""Readers without a group: every process sees every record, from the end or from the beginning of a topic.

They commit nothing. Their places live in memory, and they outlive restarts of the broker: a consumer that fails or
gets no answer for 20 s is replaced by a new one at the same places.
"""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared import telemetry
from shared.cancelling import cancelled
from shared.dead_letters import Undecodable, header_of
from shared.errors import Unavailable
from shared.events.event import Event
from shared.kafka import REQUEST_TIMEOUT_MS, event_decoder
from shared.kafka_access import client_arguments
from shared.metrics import METRICS
from shared.outcomes import UnknownType
from shared.places import Record
from shared.redaction import whereabouts
from shared.settings import ServiceSettings
from shared.start import quiet_clients, wait_for_kafka
from shared.topics import Topic

SILENCE_S = 20.0
POLL_MS = 500
AGAIN_S = 1.0
log = logging.getLogger(__name__)

Apply = Callable[[str, Event | None], Awaitable[None]]
OnEvent = Callable[[Event], Awaitable[None]]
Wanted = Callable[[str], bool]


def _everything(_: str) -> bool:
    return True


async def follow(
    settings: ServiceSettings,
    topic: Topic,
    on_event: OnEvent,
    start: Literal["end", "beginning"] = "end",
    wanted: Wanted = _everything,
) -> "Follower":
    """Give every event from now on to `on_event`; whatever is published after this returns is seen.

    Records whose key is not `wanted` at the moment they come are passed over unread: no decoding, no span.
    `on_event` may see an event again after a failure of the broker, and should not raise: what it raises is logged
    and passed over, `Unavailable` is tried again. Waits for Kafka and the topic. `stop` the result.
    """

    async def apply(_: str, event: Event | None) -> None:
        if event is not None:
            await on_event(event)

    follower = Follower(settings, topic, apply, start, wanted)
    await follower.begin()
    return follower


async def read_state(settings: ServiceSettings, topic: Topic, apply: Apply) -> "Follower":
    """Give a state topic to `apply(key, event)`, event None for a deletion: first all there is, then what comes.

    Returns when everything that was there at the start is applied, also for an empty topic. `stop` the result.
    """
    follower = Follower(settings, topic, apply, "beginning")
    await follower.begin()
    try:
        await follower.caught_up.wait()
    except BaseException:
        await follower.stop()
        raise
    return follower


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer whose broker went away: aiokafka then lets the CancelledError of its own fetch task escape."""
    try:
        await consumer.stop()
    except (KafkaError, OSError) as error:
        log.warning("a consumer did not stop cleanly: %s", type(error).__name__)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise


class Follower:
    """A reader at work; `caught_up` is set once it has passed the end that the topic had at the start."""

    def __init__(
        self,
        settings: ServiceSettings,
        topic: Topic,
        apply: Apply,
        start: Literal["end", "beginning"],
        wanted: Wanted = _everything,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._servers = settings.bootstrap_servers
        self._access = client_arguments(settings)
        self._topic = topic
        self._apply = apply
        self._start = start
        self._wanted = wanted
        self._decode = event_decoder(topic)
        self._partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        self._next: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Take the places, then read in a task of its own."""
        quiet_clients()
        self._consumer = await self._open()
        self._note_progress()
        self._task = asyncio.create_task(self._run(self._consumer), name=f"follow {self._topic.name}")

    async def stop(self) -> None:
        """End reading."""
        if self._task is not None:
            await cancelled(self._task)
        if self._consumer is not None:
            await self._consumer.stop()

    def alive(self) -> bool:
        """Whether the reading task runs."""
        return self._task is not None and not self._task.done()

    async def _open(self) -> AIOKafkaConsumer:
        """A consumer at our places, as soon as there is one to be had."""
        while True:
            await wait_for_kafka(self._servers, [self._topic.name], self._access)
            consumer = AIOKafkaConsumer(
                bootstrap_servers=",".join(self._servers),
                **self._access,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest" if self._start == "beginning" else "latest",
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
            try:
                await consumer.start()
                consumer.assign(self._partitions)
                await self._take_places(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("%s can't be read yet: %s", self._topic.name, type(error).__name__)
                await _stop(consumer)
                await asyncio.sleep(AGAIN_S)
            except BaseException:
                await consumer.stop()
                raise
            else:
                return consumer

    async def _take_places(self, consumer: AIOKafkaConsumer) -> None:
        if not self._next:
            self._ends = cast(dict[TopicPartition, int], await consumer.end_offsets(self._partitions))
            self._next = dict(self._ends)
            if self._start == "beginning":
                self._next = cast(dict[TopicPartition, int], await consumer.beginning_offsets(self._partitions))
        for partition, offset in self._next.items():
            consumer.seek(partition, offset)

    async def _run(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                await self._read(consumer)
            except Exception as error:
                # Whatever it is: a reader that ends is missed by nobody, and its process would look well.
                log.warning("%s is read anew: %s", self._topic.name, whereabouts(error))
            self._consumer = None
            await _stop(consumer)
            await asyncio.sleep(AGAIN_S)
            self._consumer = consumer = await self._open()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Read until the broker has not answered for `SILENCE_S`."""
        opened = time.time()
        while True:
            batches = cast(
                dict[TopicPartition, list[Record]], await consumer.getmany(timeout_ms=POLL_MS, max_records=500)
            )
            for partition, records in batches.items():
                for record in records:
                    await self._take(record)
                    self._next[partition] = record.offset + 1
            if not self.caught_up.is_set():
                # Compaction leaves gaps, so the consumer's own position counts, not the last record's offset.
                for partition in self._partitions:
                    self._next[partition] = max(self._next[partition], await consumer.position(partition))
                self._note_progress()
            answered: list[int] = [consumer.last_poll_timestamp(partition) or 0 for partition in self._partitions]
            if not batches and time.time() - max(opened, max(answered) / 1000) > SILENCE_S:
                return

    def _note_progress(self) -> None:
        if all(self._next[partition] >= end for partition, end in self._ends.items()):
            self.caught_up.set()

    async def _take(self, record: Record) -> None:
        key = (record.key or b"").decode(errors="replace")
        if not self._wanted(key):
            METRICS.messages.labels(record.topic, "done").inc()
            return
        outcome = "done"
        parent = header_of(record, "traceparent")
        with telemetry.span(f"{record.topic} process", parent=parent, kind="consumer") as span:
            try:
                event = None if record.value is None else self._decode(record.value)
                await self._applied(key, event)
            except UnknownType:
                outcome = "skipped"
            except Undecodable as error:
                outcome = "dead_letter"
                log.error("%s-%d@%d passed over: %s", record.topic, record.partition, record.offset, error)
            except Exception as error:
                outcome = "dead_letter"
                log.error("%s-%d@%d passed over: %s", record.topic, record.partition, record.offset, whereabouts(error))
            if outcome == "dead_letter":
                span.fail("passed_over")
        METRICS.messages.labels(record.topic, outcome).inc()

    async def _applied(self, key: str, event: Any) -> None:
        delay = 0.1
        while True:
            try:
                await self._apply(key, event)
            except Unavailable:
                await asyncio.sleep(delay)
                delay = min(2 * delay, AGAIN_S)
            else:
                return
