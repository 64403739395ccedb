"""How far a group is behind, on a real broker."""

import time
from collections.abc import AsyncGenerator

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from services.gateway.pressure import Backlog, KafkaOffsets, Limits, Pressure
from shared.kafka import make_broker, publish
from shared.settings import ServiceSettings
from shared.topics import Topic
from tests.polling import eventually
from tests.real_topics import SERVICE, running, user
from tests.running_stack import Stack

DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
async def offsets(settings: ServiceSettings) -> AsyncGenerator[KafkaOffsets]:
    one = KafkaOffsets(settings.bootstrap_servers)
    yield one
    await one.close()


async def known(offsets: KafkaOffsets, topic: Topic) -> bool:
    """Whether Kafka answers; a young broker has no coordinator yet."""
    try:
        return await offsets.backlog(topic, topic.group(SERVICE), DAY_MS) == Backlog(0, False)
    except (KafkaError, OSError, TimeoutError):
        await offsets.close()
        return False


async def commit(settings: ServiceSettings, topic: Topic, places: dict[int, int]) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, group_id=topic.group(SERVICE), enable_auto_commit=False
    )
    await consumer.start()
    partitions = {TopicPartition(topic.name, number): offset for number, offset in places.items()}
    consumer.assign(list(partitions))
    await consumer.commit(partitions)
    await consumer.stop()


async def ends(settings: ServiceSettings, topic: Topic) -> dict[int, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await consumer.start()
    places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    found = await consumer.end_offsets(places)
    await consumer.stop()
    return {place.partition: end for place, end in found.items()}


async def test_the_backlog_is_what_the_group_has_not_committed(
    settings: ServiceSettings, topic: Topic, offsets: KafkaOffsets
) -> None:
    group = topic.group(SERVICE)
    await eventually(lambda: known(offsets, topic), seconds=60)
    async with running(make_broker(settings, "writer")) as broker:
        for number in range(30):
            await publish(broker, topic, user(f"u{number}"))
    assert await offsets.backlog(topic, group, DAY_MS) == Backlog(30, False)
    found = await ends(settings, topic)
    assert sum(found.values()) == 30
    await commit(settings, topic, found | {0: found[0] - 3})
    assert await offsets.backlog(topic, group, DAY_MS) == Backlog(3, False)
    await commit(settings, topic, found)
    assert await offsets.backlog(topic, group, DAY_MS) == Backlog(0, False)


async def test_the_age_of_the_oldest_unread_record_is_seen(
    settings: ServiceSettings, topic: Topic, offsets: KafkaOffsets
) -> None:
    async with running(make_broker(settings, "writer")) as broker:
        for number in range(30):
            await publish(broker, topic, user(f"u{number}"))
    tomorrow = KafkaOffsets(settings.bootstrap_servers, lambda: time.time() * 1000 + 2 * DAY_MS)
    assert await tomorrow.backlog(topic, topic.group(SERVICE), DAY_MS) == Backlog(30, True)
    await commit(settings, topic, await ends(settings, topic))
    assert await tomorrow.backlog(topic, topic.group(SERVICE), DAY_MS) == Backlog(0, False)
    await tomorrow.close()


async def test_it_connects_again_after_the_broker_was_away(
    kafka: Stack, settings: ServiceSettings, topic: Topic, offsets: KafkaOffsets
) -> None:
    pressure = Pressure(Limits({topic: (topic.group(SERVICE), 10)}), offsets)
    await pressure.look_at_readers()
    kafka.kill("kafka")
    with pytest.raises((KafkaError, OSError, TimeoutError)):
        await offsets.backlog(topic, topic.group(SERVICE), DAY_MS)
    await pressure.look_at_readers()
    pressure.admit(topic)

    await eventually(lambda: known(offsets, topic), seconds=60)
