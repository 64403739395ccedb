"""A real broker and topics of the tests' own."""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from shared.clock import utc_now
from shared.events.auth import Profile, UserUpdated
from shared.kafka import Broker, make_broker, subscribe
from shared.settings import ServiceSettings
from shared.start import start_broker, wait_for_kafka
from shared.topics import Topic

SERVICE = "nutrition"


def fresh_topic(partitions: int = 3) -> Topic:
    """A topic nobody has used; not created yet."""
    return Topic(f"t{secrets.token_hex(4)}.users.v1", "log", "user_id", (UserUpdated,), (SERVICE,), partitions)


async def create(settings: ServiceSettings, topic: Topic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    letters = NewTopic(topic.dead_letters(SERVICE), 1, 1)
    await admin.create_topics([NewTopic(topic.name, topic.partitions, 1), letters])
    await admin.close()
    await wait_for_kafka(settings.bootstrap_servers, [topic.name, topic.dead_letters(SERVICE)])


def user(user_id: str, revision: int = 1) -> UserUpdated:
    return UserUpdated(
        event_id=f"{user_id}-{revision}",
        occurred_at=utc_now(),
        user_id=user_id,
        revision=revision,
        profile=Profile(),
    )


@asynccontextmanager
async def running(broker: Broker) -> AsyncGenerator[Broker]:
    await start_broker(broker)
    try:
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def subscribed(
    settings: ServiceSettings, topic: Topic, handler: Callable[[Any], Awaitable[None]]
) -> AsyncGenerator[Broker]:
    broker = make_broker(settings, SERVICE)
    subscribe(broker, topic, SERVICE, handler)
    async with running(broker):
        yield broker


async def read_all(settings: ServiceSettings, name: str, partitions: int) -> list[ConsumerRecord[Any, Any]]:
    """What a topic holds now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(name, number) for number in range(partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found: list[ConsumerRecord[Any, Any]] = []
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found.extend(records)
        return found
    finally:
        await consumer.stop()


async def lag(settings: ServiceSettings, topic: Topic) -> int:
    """Records that the group has not committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await consumer.start()
    try:
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        ends = await consumer.end_offsets(places)
        committed = await admin.list_consumer_group_offsets(topic.group(SERVICE), partitions=places)
        return sum(end - max(0, committed[place].offset) for place, end in ends.items())
    finally:
        await consumer.stop()
        await admin.close()


def keys_of_partitions(topic: Topic) -> list[str]:
    """A key for each partition."""
    chosen: dict[int, str] = {}
    numbers = list(range(topic.partitions))
    for attempt in range(1000):
        chosen.setdefault(DefaultPartitioner()(f"u{attempt}".encode(), numbers, numbers), f"u{attempt}")
    return [chosen[number] for number in numbers]


async def lag_is_zero(settings: ServiceSettings, topic: Topic) -> bool:
    return await lag(settings, topic) == 0
