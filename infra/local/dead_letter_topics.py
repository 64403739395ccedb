"""Dead letters on a broker: reading them, sending them again, giving them up.

Reading ends where the topics ended when it began, and keeps one bit a letter. A replay sends the original bytes under
their key to the place they came from; every reader of that topic gets them, and since handlers are idempotent only
the one that failed does anything.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from infra.local.dead_letters import Filter, Letter, Place, is_dead_letters, letter_of
from infra.local.settings import wrong
from shared.clock import utc_now
from shared.events.operator import DeadLetterResolved
from shared.ids import derived_id
from shared.kafka_access import client_arguments
from shared.settings import ServiceSettings
from shared.start import refusal_of
from shared.topics import DEAD_LETTER_MAX_BYTES, RESOLUTIONS
from shared.unresolved import LOG, Resolved, beginnings, ends, records

REQUEST_TIMEOUT_MS = 10_000
# A consumer buffers so much of each partition it reads; one partition is read at a time.
FETCH_BYTES = 2 * DEAD_LETTER_MAX_BYTES
# Letters sent together, then written down as resolved together: at most so many are sent twice after a crash.
PORTION = 100
REPLAY_HEADER = "replayed-from"
Action = Literal["replayed", "dropped"]
Progress = Callable[[int, int], None]


class NoAnswer(Exception):
    """Kafka, or something of it that must be there, is not; the message is a sentence for people."""


def access() -> dict[str, Any]:
    """What a client of aiokafka's is told to get into Kafka.

    Raises:
        NoAnswer: a setting is wrong.
    """
    try:
        return client_arguments(ServiceSettings())
    except ValueError as error:
        raise NoAnswer(wrong(error)) from error


@dataclass(frozen=True)
class Held:
    """A dead-letter topic: how many letters it holds, and how many of them nobody has dealt with."""

    topic: str
    letters: int
    unresolved: int


@asynccontextmanager
async def opened(servers: str) -> AsyncGenerator["DeadLetterTopics"]:
    """The dead letters of the brokers `host:port,…`, as they are now.

    Raises:
        NoAnswer: they do not answer or do not let us in, or how to get in is set wrongly.
    """
    # It repeats what we say in one sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        **access(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    try:
        try:
            await consumer.start()
            yield await DeadLetterTopics.seen(servers, consumer)
        finally:
            await consumer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        refusal = await refusal_of(servers.split(","), access())
        raise NoAnswer(refusal or f"Kafka at {servers} does not answer ({type(error).__name__}).") from error


class DeadLetterTopics:
    """The dead-letter topics of a cluster as they were when this was made; make one by `opened`."""

    def __init__(
        self,
        servers: str,
        consumer: AIOKafkaConsumer,
        names: set[str],
        first: dict[TopicPartition, int],
        after: dict[TopicPartition, int],
        resolved: Resolved,
    ) -> None:
        self._servers = servers
        self._consumer = consumer
        self._names = names
        self._begins = first
        self._ends = after
        self._resolved = resolved

    @classmethod
    async def seen(cls, servers: str, consumer: AIOKafkaConsumer) -> "DeadLetterTopics":
        """Look at what there is."""
        cluster = await _cluster(servers)
        names = cast(set[str], cluster.topics())
        if RESOLUTIONS.name not in names:
            raise NoAnswer(f"There is no topic {RESOLUTIONS.name}; python -m infra.topics creates what is missing.")
        # Also those where nobody reads the source any more.
        partitions = [
            TopicPartition(name, number)
            for name in sorted(filter(is_dead_letters, names))
            for number in sorted(cast(set[int], cluster.partitions_for_topic(name)))
        ]
        # A consumer takes 100 ms for each topic that it is asked of and does not know.
        consumer.assign([LOG, *partitions])
        consumer.pause(LOG, *partitions)
        # The log's end first: every letter it speaks of by then is below the ends asked for next.
        end = (await ends(consumer, [LOG]))[LOG]
        first = await beginnings(consumer, partitions) if partitions else {}
        after = await ends(consumer, partitions) if partitions else {}
        resolved = Resolved()
        resolved.cover(first, after)
        await resolved.read(consumer, end)
        return cls(servers, consumer, names, first, after, resolved)

    def held(self) -> list[Held]:
        """Each topic that holds any, by name."""
        unresolved = self._resolved.unresolved(self._begins, self._ends)
        letters: dict[str, int] = {}
        for partition, begin in self._begins.items():
            letters[partition.topic] = letters.get(partition.topic, 0) + self._ends[partition] - begin
        return [Held(topic, count, unresolved[topic]) for topic, count in sorted(letters.items()) if count]

    async def letters(self, wanted: Filter, progress: Progress = lambda _done, _all: None) -> AsyncGenerator[Letter]:
        """The unresolved letters that are meant, topic by topic, oldest first.

        `progress` gets how many records were read, and how many there are to read.

        Raises:
            KafkaError, TimeoutError: the broker does not answer.
        """
        places = [partition for partition in self._begins if wanted.may_hold(partition.topic)]
        total = sum(self._ends[place] - self._begins[place] for place in places)
        read = 0
        for place in places:
            async for record in records(self._consumer, place, self._begins[place], self._ends[place]):
                read += 1
                progress(read, total)
                if (record.topic, record.partition, record.offset) in self._resolved:
                    continue
                letter = _letter(record)
                if wanted.takes(letter):
                    yield letter

    async def resolutions(self) -> AsyncGenerator[DeadLetterResolved]:
        """What operators did, oldest first, for as long as the log is kept."""
        begin = (await beginnings(self._consumer, [LOG]))[LOG]
        async for record in records(self._consumer, LOG, begin, self._resolved.next):
            try:
                yield DeadLetterResolved.model_validate_json(record.value or b"")
            except ValueError:
                continue  # not one of ours

    @asynccontextmanager
    async def resolver(self, by: str, note: str, rate: float | None = None) -> AsyncGenerator["Resolver"]:
        """Somebody who resolves letters, `rate` a second at most."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            **access(),
            acks="all",
            enable_idempotence=False,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=DEAD_LETTER_MAX_BYTES,
        )
        await producer.start()
        try:
            yield Resolver(producer, self._names, by, note, rate)
        finally:
            await producer.stop()


async def _cluster(servers: str) -> ClusterMetadata:
    client = AIOKafkaClient(bootstrap_servers=servers, request_timeout_ms=REQUEST_TIMEOUT_MS, **access())
    await client.bootstrap()
    try:
        return await client.fetch_all_metadata()
    finally:
        await client.close()


def _letter(record: Any) -> Letter:
    place = Place(record.topic, record.partition, record.offset)
    return letter_of(place, record.timestamp or 0, record.key, record.value, record.headers)


class Resolver:
    """Sends letters again or gives them up, and writes down each. Repeated after a crash it may send a few twice."""

    def __init__(self, producer: AIOKafkaProducer, names: set[str], by: str, note: str, rate: float | None) -> None:
        self._producer = producer
        self._names = names
        self._by = by
        self._note = note
        self._rate = rate
        self._began = time.monotonic()
        self._done = 0

    @property
    def portion(self) -> int:
        """How many letters to hand over at once."""
        return PORTION if self._rate is None else max(1, min(PORTION, int(self._rate)))

    async def replay(self, letters: Iterable[Letter]) -> list[tuple[Letter, str]]:
        """Send these again and write it down; returns those that could not be sent, each with the error's name."""
        asked = list(letters)
        await self._pace(len(asked))
        failed: list[tuple[Letter, str]] = []
        sent: list[Letter] = []
        # One after the other into the producer, which keeps the order of each partition; then wait for all.
        acks = [(letter, await self._send_again(letter)) for letter in asked]
        for letter, ack in acks:
            try:
                if isinstance(ack, KafkaError):
                    raise ack
                await ack
            except KafkaError as error:
                failed.append((letter, type(error).__name__))
            else:
                sent.append(letter)
        await self._write(sent, "replayed")
        return failed

    async def drop(self, letters: Iterable[Letter]) -> None:
        """Write down that nobody will handle these."""
        asked = list(letters)
        await self._pace(len(asked))
        await self._write(asked, "dropped")

    async def _pace(self, count: int) -> None:
        if self._rate is not None:
            due = self._began + self._done / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        self._done += count

    async def _send_again(self, letter: Letter) -> "asyncio.Future[Any] | KafkaError":
        if letter.source not in self._names:
            # The producer would wait 40 s for each.
            return UnknownTopicOrPartitionError()
        headers = [(REPLAY_HEADER, str(letter.place).encode())]
        if letter.traceparent is not None:
            headers.append(("traceparent", letter.traceparent.encode()))
        try:
            known = await self._producer.partitions_for(letter.source)
            # A record without a key goes back to its partition, as far as its headers tell it.
            kept = letter.origin.partition if letter.origin is not None else None
            place = kept if letter.key is None and kept in known else None
            return await self._producer.send(letter.source, letter.value, letter.key, place, headers=headers)
        except KafkaError as error:
            return error

    async def _write(self, letters: list[Letter], action: Action) -> None:
        events = (self._resolution(letter, action) for letter in letters)
        sends = (
            self._producer.send_and_wait(RESOLUTIONS.name, one.model_dump_json().encode(), key=one.position.encode())
            for one in events
        )
        await asyncio.gather(*sends)

    def _resolution(self, letter: Letter, action: Action) -> DeadLetterResolved:
        position, now = str(letter.place), utc_now()
        return DeadLetterResolved(
            event_id=derived_id(position, action, now.isoformat()),
            occurred_at=now,
            position=position,
            action=action,
            source=letter.source,
            service=letter.service,
            reason=letter.reason,
            by=self._by,
            note=self._note,
        )
