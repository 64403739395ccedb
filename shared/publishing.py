"""Publishing to Kafka: one record, sent in the current trace, and the wait for its ack."""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import logging
from functools import lru_cache

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner, murmur2
from faststream.exceptions import IncorrectState
from faststream.kafka import KafkaBroker
from faststream.kafka.publisher.producer import AioKafkaFastProducerImpl

from shared import telemetry
from shared.errors import Rejected, Unavailable
from shared.events.event import Event
from shared.metrics import METRICS
from shared.topics import Topic

REQUEST_TIMEOUT_MS = 10_000
# aiokafka lets a batch expire only after its request timed out, so a send can take twice the request's time.
SEND_SECONDS = 2 * REQUEST_TIMEOUT_MS / 1000 + 1
# Below the broker's 1 MiB a record, with room for key and headers.
MAX_VALUE_BYTES = 1_000_000
# Ids of users and the like; the key of a dead letter can be anything.
MAX_REMEMBERED_KEY_BYTES = 64
log = logging.getLogger(__name__)

# Each takes a lookup of its own, 1.5 µs; there are as many as topics.
_published = lru_cache(METRICS.published.labels)
_publish_seconds = lru_cache(METRICS.publish_seconds.labels)
_aiokafkas_own = DefaultPartitioner()


@lru_cache(maxsize=20_000)
def _hash(key: bytes) -> int:
    return murmur2(key)


def partition_of_key(key: bytes | None, partitions: list[int], available: list[int]) -> int:
    """The partition that every Kafka client puts `key` into.

    aiokafka hashes in Python, 7 µs a key, and a user's records all have the same.
    """
    if key is None or len(key) > MAX_REMEMBERED_KEY_BYTES:
        return _aiokafkas_own(key, partitions, available)
    return partitions[(_hash(key) & 0x7FFFFFFF) % len(partitions)]


class Producer(AioKafkaFastProducerImpl):
    """FastStream's producer, which also sends bytes as they are, without its commands, codecs and correlation ids."""

    async def send(self, topic_name: str, value: bytes | None, key: bytes | None, headers: dict[str, str]) -> None:
        """Send and wait for the ack. Raises KafkaError, and IncorrectState when not connected."""
        encoded = [(name, text.encode()) for name, text in headers.items()]
        await (await self._producer.producer.send(topic_name, value, key, headers=encoded))


async def publish(broker: KafkaBroker, topic: Topic, event: Event, *, traceparent: str | None = None) -> None:
    """Publish `event` as JSON under its topic's key and wait for the ack.

    Raises:
        Unavailable: no ack within 21 s; the event may or may not be stored.
        Rejected: the event is larger than 1,000,000 bytes.
    """
    key = str(getattr(event, topic.key))
    await publish_bytes(broker, topic.name, event.model_dump_json().encode(), key, traceparent=traceparent)


async def publish_bytes(
    broker: KafkaBroker,
    topic_name: str,
    value: bytes | None,
    key: str | bytes | None,
    *,
    headers: dict[str, str] | None = None,
    traceparent: str | None = None,
    max_bytes: int = MAX_VALUE_BYTES,
) -> None:
    """Publish `value` (None deletes the key on a state topic) and wait for the ack; `traceparent` is the cause.

    Raises:
        Unavailable: no ack within 21 s; the record may or may not be stored.
        Rejected: the value is larger than `max_bytes`.
    """
    if value is not None and len(value) > max_bytes:
        raise Rejected("event-too-large", f"{len(value)} bytes; send it by reference")
    with telemetry.span(f"{topic_name} publish", parent=traceparent, kind="producer"):
        carried = dict(headers or {})
        if (current := telemetry.current_traceparent()) is not None:
            carried["traceparent"] = current
        await _send(broker, topic_name, value, key.encode() if isinstance(key, str) else key, carried)


async def _send(
    broker: KafkaBroker, topic_name: str, value: bytes | None, key: bytes | None, headers: dict[str, str]
) -> None:
    try:
        with _publish_seconds(topic_name).time():
            async with asyncio.timeout(SEND_SECONDS):
                producer = broker.config.broker_config.producer
                if isinstance(producer, Producer):
                    await producer.send(topic_name, value, key, headers)
                else:  # TestKafkaBroker's
                    await broker.publish(value, topic=topic_name, key=key, headers=headers)
    except MessageSizeTooLargeError as error:
        _published(topic_name, "failed").inc()
        raise Rejected("event-too-large") from error
    except (KafkaError, TimeoutError, OSError, IncorrectState) as error:
        _published(topic_name, "failed").inc()
        log.warning("not published to %s: %s", topic_name, type(error).__name__)
        raise Unavailable("broker") from error
    _published(topic_name, "acked").inc()
