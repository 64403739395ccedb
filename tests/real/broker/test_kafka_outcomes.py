"""Outcomes on a real broker: places, commits and dead letters."""

import time
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.errors import Rejected, Unavailable
from shared.events.auth import UserUpdated
from shared.kafka import make_broker, publish, publish_bytes, subscribe, subscribe_batches
from shared.settings import ServiceSettings
from shared.topics import Topic
from tests.polling import eventually
from tests.real_topics import (
    SERVICE,
    fresh_topic,
    keys_of_partitions,
    lag,
    lag_is_zero,
    read_all,
    running,
    subscribed,
    user,
)


async def test_a_poison_record_becomes_a_dead_letter_and_the_next_is_handled(
    settings: ServiceSettings, topic: Topic
) -> None:
    seen: list[int] = []

    async def handle(event: UserUpdated) -> None:
        seen.append(event.revision)
        if event.revision == 2:
            raise Rejected("no-such-user")
        if event.revision == 3:
            raise ValueError("a defect")

    async with subscribed(settings, topic, handle) as broker:
        for revision in (1, 2, 3):
            await publish(broker, topic, user("u", revision))
        await publish_bytes(broker, topic.name, b"\x00poison", "u")
        await publish(broker, topic, user("u", 4))
        await eventually(lambda: seen == [1, 2, 3, 3, 3, 4])
        await eventually(lambda: lag_is_zero(settings, topic))
    letters = await read_all(settings, topic.dead_letters(SERVICE), 1)
    found = [{name: value.decode() for name, value in letter.headers} for letter in letters]
    assert [(one["reason"], one["attempts"]) for one in found] == [
        ("no-such-user", "1"),
        ("failed", "3"),
        ("undecodable", "1"),
    ]
    assert {one["origin-topic"] for one in found} == {topic.name}
    assert [int(one["origin-offset"]) for one in found] == [1, 2, 3]
    assert letters[2].value == b"\x00poison"
    assert {letter.key for letter in letters} == {b"u"}

    async with subscribed(settings, topic, handle) as broker:
        await publish(broker, topic, user("u", 5))
        await eventually(lambda: seen[-1] == 5)
    assert seen == [1, 2, 3, 3, 3, 4, 5]


async def test_later_keeps_the_place_and_the_membership_while_other_partitions_go_on(
    settings: ServiceSettings, topic: Topic
) -> None:
    waiting, *others = keys_of_partitions(topic)
    away = True
    seen: list[tuple[str, int]] = []
    tries = 0

    async def handle(event: UserUpdated) -> None:
        nonlocal tries
        if event.user_id == waiting and away:
            tries += 1
            raise Unavailable("database")
        seen.append((event.user_id, event.revision))

    async with subscribed(settings, topic, handle) as broker:
        consumer = broker.places[0].consumer
        assert consumer is not None
        member = consumer._coordinator.member_id
        for revision in range(20):
            for key in (waiting, *others):
                await publish(broker, topic, user(key, revision))
        await eventually(lambda: len(seen) == 40)
        # Longer than the session: only heartbeats keep the member in its group.
        started = time.monotonic()
        await eventually(lambda: time.monotonic() - started > 4, seconds=6)
        assert [key for key, _ in seen if key == waiting] == []
        assert 4 <= tries <= 9  # 0.1 + 0.2 + 0.4 + ... s, less the jitter
        away = False
        await eventually(lambda: len(seen) == 60, seconds=8)
        assert [revision for key, revision in seen if key == waiting] == list(range(20))
        assert consumer._coordinator.member_id == member
        await eventually(lambda: lag_is_zero(settings, topic))


async def test_a_record_that_waits_goes_to_a_new_member_with_its_partition(
    settings: ServiceSettings, topic: Topic
) -> None:
    away = True
    seen: set[str] = set()

    async def handle(event: UserUpdated) -> None:
        if away:
            raise Unavailable("database")
        seen.add(event.user_id)

    wanted = set(keys_of_partitions(topic))
    async with subscribed(settings, topic, handle) as first:
        for key in wanted:
            await publish(first, topic, user(key))
        await eventually(lambda: first.places[0].outcomes >= 6)
        async with subscribed(settings, topic, handle) as second:
            await eventually(lambda: second.places[0].outcomes >= 2)
            away = False
            await eventually(lambda: seen == wanted, seconds=15)
        await eventually(lambda: lag_is_zero(settings, topic))
    assert seen == wanted


async def test_a_batch_that_waits_comes_again_whole(settings: ServiceSettings, topic: Topic) -> None:
    away = True
    writes: list[list[tuple[str, int]]] = []

    def decide(event: UserUpdated) -> tuple[str, int]:
        if event.revision == 3:
            raise Rejected("three")
        return event.user_id, event.revision

    async def write(decisions: list[tuple[tuple[str, int], str | None]]) -> None:
        if away:
            raise Unavailable("database")
        writes.append([decision for decision, _ in decisions])

    keys = keys_of_partitions(topic)
    broker = make_broker(settings, SERVICE)
    subscribe_batches(broker, topic, SERVICE, decide, write)
    async with running(broker):
        for revision in range(10):
            for key in keys:
                await publish(broker, topic, user(key, revision))
        await eventually(lambda: broker.places[0].outcomes >= 12)
        away = False
        await eventually(lambda: lag_is_zero(settings, topic), seconds=10)
    for key in keys:
        got = [revision for batch in writes for user_id, revision in batch if user_id == key]
        assert got == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(await read_all(settings, topic.dead_letters(SERVICE), 1)) == 3


async def test_a_dead_letter_that_cannot_be_sent_means_later(settings: ServiceSettings) -> None:
    # Its dead-letter topic does not exist yet.
    topic = fresh_topic(partitions=1)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic.name, 1, 1)])
    told: list[bytes] = []

    async def handle(_: UserUpdated) -> None:
        raise Rejected("no")

    async def on_dead_letter(raw: bytes, _: Any) -> None:
        told.append(raw)

    broker = make_broker(settings, SERVICE)
    subscribe(broker, topic, SERVICE, handle, on_dead_letter=on_dead_letter)
    try:
        async with running(broker):
            await publish(broker, topic, user("u"))
            await eventually(lambda: len(told) >= 2, seconds=30)
            assert await lag(settings, topic) == 1
            await admin.create_topics([NewTopic(topic.dead_letters(SERVICE), 1, 1)])
            await eventually(lambda: lag_is_zero(settings, topic), seconds=40)
    finally:
        await admin.close()
    assert len(await read_all(settings, topic.dead_letters(SERVICE), 1)) == 1
