"""Kafka for services: a broker with safe settings, and subscribing with outcomes; `shared.publishing` publishes.

FastStream's own acknowledgements lose or repeat records, so subscribers run under `AckPolicy.MANUAL` and
`shared.outcomes` decides. Records reach us as raw bytes: decoding is part of a handler's turn, and a record that
does not decode becomes a dead letter like any other.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import msgspec
from aiokafka.errors import KafkaError
from faststream import AckPolicy, StreamMessage
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from pydantic import ValidationError

from shared.dead_letters import DeadLetterCause, DeadLetters, OnDeadLetter, Undecodable
from shared.events.event import Event
from shared.kafka_access import security
from shared.outcomes import Batches, Decode, SingleRecords, UnknownType, Write
from shared.places import Places, Record
from shared.publishing import REQUEST_TIMEOUT_MS, Producer, partition_of_key, publish, publish_bytes
from shared.settings import ServiceSettings
from shared.topics import DEAD_LETTER_MAX_BYTES, Topic

__all__ = [
    "REQUEST_TIMEOUT_MS",
    "Broker",
    "DeadLetterCause",
    "event_decoder",
    "make_broker",
    "publish",
    "publish_bytes",
    "subscribe",
    "subscribe_batches",
]

# A handler's turn is 60 s at most; a member that does not come back within this time leaves its group.
MAX_POLL_INTERVAL_MS = 90_000
# A poll ends at once when there are records; this bounds how late a resumed partition is seen.
POLL_MS = 200
# Under load more records are on their way, and a turn's commits, writes and events cost the same for one as for fifty:
# at 500 batches of 100 samples a second this halves the CPU of ingest and webhooks. Where many small ones wait, longer.
GATHER_SECONDS = 0.02
MANY_WAIT, GATHER_MANY_SECONDS = 8, 0.05
# Shorter than uvicorn's 8 s, so that consumers are done before the rest stops.
GRACEFUL_SECONDS = 6.0


class Broker(KafkaBroker):
    """FastStream's broker, with what our subscribers share. `places` is what the watchdog looks at."""

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        super().__init__(
            settings.bootstrap_servers,
            client_id=f"mymacro-{settings.named(service)}",
            security=security(settings),
            acks="all",
            enable_idempotence=False,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            partitioner=partition_of_key,
            # Of dead letters, which hold any record and say more; `publish_bytes` bounds the others.
            max_request_size=DEAD_LETTER_MAX_BYTES,
            allow_auto_create_topics=False,
            ack_policy=AckPolicy.MANUAL,
            graceful_timeout=GRACEFUL_SECONDS,
            apply_types=False,
            logger=_faststream_logger(),
            log_level=logging.DEBUG,
        )
        self.config.broker_config.producer = Producer(parser=None, decoder=None)
        self.settings = settings
        self.service = service
        self.places: list[Places] = []
        # Whether records of a user are dropped, for the user was erased; see shared.erasure.
        self.refuses: Callable[[str], bool] = lambda _: False

    async def stop(self, *args: Any, **arguments: Any) -> None:
        """Let all subscribers finish their turn and leave their groups side by side, then close the producer."""
        await asyncio.gather(*(places.stopping() for places in self.places))
        await asyncio.gather(*(subscriber.stop() for subscriber in self.subscribers))
        await super().stop(*args, **arguments)


def make_broker(settings: ServiceSettings, service: str) -> Broker:
    """A broker that is not connected yet; `shared.start.start_broker` connects it."""
    return Broker(settings, service)


def subscribe(
    broker: Broker,
    topic: Topic,
    service: str,
    handler: Callable[[Any], Awaitable[None]],
    *,
    on_dead_letter: OnDeadLetter | None = None,
) -> None:
    """Give each event of `topic` to `handler`, one after the other per process.

    The handler returns, raises `Rejected` (a dead letter at once), `Unavailable` (later, at the same place) or
    anything else (3 attempts, then a dead letter). Events of unknown type and null records are skipped.
    """
    places, dead_letters, arguments = _subscription(broker, topic, service, on_dead_letter)
    subscriber: Any = broker.subscriber(topic.name, **arguments)  # pyright: ignore[reportUnknownVariableType]
    subscriber(
        _as_handler(SingleRecords(places, dead_letters, event_decoder(topic), handler, _refusal(broker, topic)), topic)
    )
    _connect(broker, places, subscriber)


def subscribe_batches(
    broker: Broker,
    topic: Topic,
    service: str,
    decide: Callable[[Any], Any],
    write: Write,
    *,
    decode: Decode | None = None,
    on_dead_letter: OnDeadLetter | None = None,
    max_records: int = 500,
) -> None:
    """Decide record by record (pure), then `write` all decisions of a batch at once, each with its traceparent.

    `decide` gets what `decode` reads: by default the topic's event, or the bytes where the topic has no models.
    `Rejected` from `decide` is a dead letter at once. When `write` raises anything but `Unavailable`, the batch is
    halved, without waiting, until the guilty record stands alone; it gets 3 attempts.
    """
    if decode is None:
        decode = event_decoder(topic) if topic.events else bytes
    places, dead_letters, arguments = _subscription(broker, topic, service, on_dead_letter)
    subscriber: Any = broker.subscriber(topic.name, batch=True, max_records=max_records, **arguments)
    # FastStream's own poll is followed by a sleep of the same length when it was empty: a record that comes then waits.
    subscriber.get_msg = partial(_poll, max_records)
    subscriber(_as_handler(Batches(places, dead_letters, decode, decide, write, _refusal(broker, topic)), topic))
    _connect(broker, places, subscriber)


async def _poll(max_records: int, consumer: Any) -> tuple[Any, ...]:
    """The records of one turn: at once after a quiet time; behind others that waited already, a little later."""
    records = await _records(consumer, 0, max_records)
    if not records:
        return tuple(await _records(consumer, POLL_MS, max_records))
    if len(records) < max_records:
        await asyncio.sleep(GATHER_MANY_SECONDS if len(records) >= MANY_WAIT else GATHER_SECONDS)
        # aiokafka tells of a partition's error at the call after the one that had records of others. Those are past
        # its position, so they must be handled; the error comes again with the next poll.
        with suppress(KafkaError):
            records += await _records(consumer, 0, max_records - len(records))
    return tuple(records)


async def _records(consumer: Any, timeout_ms: int, most: int) -> list[Any]:
    found = await consumer.getmany(timeout_ms=timeout_ms, max_records=most)
    return list(chain.from_iterable(found.values()))


def event_decoder(topic: Topic) -> Callable[[bytes], Event]:
    """A reader of the topic's events; it raises Undecodable, or UnknownType for a type that is newer than we are."""
    models = {model.model_fields["type"].default: model for model in topic.events}

    def decode(value: bytes) -> Event:
        try:
            name = _type_reader.decode(value).type
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Undecodable("no JSON object with a type") from error
        model = models.get(name)
        if model is None:
            raise UnknownType(name)
        try:
            return model.model_validate_json(value)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, item['loc']))}: {item['type']}" for item in error.errors()[:5]]
            raise Undecodable("; ".join(wrong)) from error

    return decode


class _Typed(msgspec.Struct):
    type: str


_type_reader = msgspec.json.Decoder(_Typed)


def _subscription(
    broker: Broker, topic: Topic, service: str, on_dead_letter: OnDeadLetter | None
) -> tuple[Places, DeadLetters, dict[str, Any]]:
    if topic.name.endswith(".dlq"):
        raise ValueError("dead letters are replayed, not subscribed to: their own failures would go in circles")

    async def send(
        topic_name: str, value: bytes, key: bytes | None, headers: dict[str, str], traceparent: str | None
    ) -> None:
        await publish_bytes(
            broker,
            topic_name,
            value,
            key,
            headers=headers,
            traceparent=traceparent,
            max_bytes=DEAD_LETTER_MAX_BYTES,
        )

    places = Places(topic.name)
    arguments: dict[str, Any] = {
        "group_id": topic.group(service),
        "auto_offset_reset": "earliest",
        "session_timeout_ms": broker.settings.kafka_session_timeout_ms,
        "heartbeat_interval_ms": broker.settings.kafka_heartbeat_ms,
        "max_poll_interval_ms": MAX_POLL_INTERVAL_MS,
        "listener": places,
        "no_reply": True,
        "parser": _parse,
        "decoder": _whole,
    }
    return places, DeadLetters(topic, service, send, on_dead_letter), arguments


def _refusal(broker: Broker, topic: Topic) -> Callable[[Record], bool]:
    """Whether to drop a record unread, by its key. News of users themselves is what erasing begins with."""
    if topic.key != "user_id" or topic.writer == "auth":
        return lambda _: False
    return lambda record: record.key is not None and broker.refuses(record.key.decode(errors="replace"))


def _connect(broker: Broker, places: Places, subscriber: Any) -> None:
    places.find_consumer = lambda: subscriber.consumer
    broker.places.append(places)


async def _parse(record: Any) -> KafkaMessage:
    # FastStream's parser fails on a header that is null or not UTF-8, and then skips the record for good.
    return KafkaMessage(raw_message=record, body=b"", consumer=FAKE_CONSUMER, message_id="-", correlation_id="-")


async def _whole(message: StreamMessage[Any]) -> StreamMessage[Any]:
    return message


def _as_handler(call: Callable[[Any], Awaitable[None]], topic: Topic) -> Callable[[Any], Awaitable[None]]:
    async def handle(message: StreamMessage[Any]) -> None:
        await call(message)

    handle.__name__ = topic.name
    return handle


def _faststream_logger() -> logging.Logger:
    logger = logging.getLogger("faststream.kafka")
    logger.addFilter(_without_advice)
    return logger


def _without_advice(entry: logging.LogRecord) -> bool:
    return "Auto create topics is disabled" not in entry.getMessage()
