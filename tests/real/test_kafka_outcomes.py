"""Outcomes on a real broker: places, commits, dead letters, and that nothing acknowledged is lost in a crash."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local.settings import ROOT
from shared import events
from shared.clock import utc_now
from shared.errors import Rejected, Unavailable
from shared.following import follow, read_state
from shared.kafka import Broker, make_broker, publish, publish_bytes, subscribe, subscribe_batches
from shared.settings import ServiceSettings
from shared.start import start_broker, wait_for_kafka
from shared.topics import Topic
from shared.watchdog import Watchdog
from tests.polling import eventually
from tests.real.conftest import Stack, running_stack

SERVICE = "nutrition"
CONSUMER = Path(__file__).with_name("kafka_consumer.py")


@pytest.fixture(scope="module")
def kafka() -> Iterator[Stack]:
    """A broker of our own: these tests kill it."""
    with running_stack(only="kafka") as found:
        yield found


@pytest.fixture
def settings(kafka: Stack) -> ServiceSettings:
    return ServiceSettings(
        kafka_bootstrap_servers=kafka.bootstrap_servers, kafka_session_timeout_ms=3000, kafka_heartbeat_ms=300
    )


@pytest.fixture
async def topic(settings: ServiceSettings) -> Topic:
    """A fresh topic with three partitions, and its dead letters."""
    made = Topic(f"t{secrets.token_hex(4)}.users.v1", "log", "user_id", (events.UserUpdated,), (SERVICE,))
    await create(settings, made)
    return made


async def create(settings: ServiceSettings, topic: Topic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    letters = NewTopic(topic.dead_letters(SERVICE), 1, 1)
    await admin.create_topics([NewTopic(topic.name, topic.partitions, 1), letters])
    await admin.close()
    await wait_for_kafka(settings.bootstrap_servers, [topic.name, topic.dead_letters(SERVICE)])


def user(user_id: str, revision: int = 1) -> events.UserUpdated:
    return events.UserUpdated(
        event_id=f"{user_id}-{revision}",
        occurred_at=utc_now(),
        user_id=user_id,
        revision=revision,
        profile=events.Profile(),
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
    from aiokafka.partitioner import DefaultPartitioner

    chosen: dict[int, str] = {}
    numbers = list(range(topic.partitions))
    for attempt in range(1000):
        chosen.setdefault(DefaultPartitioner()(f"u{attempt}".encode(), numbers, numbers), f"u{attempt}")
    return [chosen[number] for number in numbers]


async def test_a_poison_record_becomes_a_dead_letter_and_the_next_is_handled(
    settings: ServiceSettings, topic: Topic
) -> None:
    seen: list[int] = []

    async def handle(event: events.UserUpdated) -> None:
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


async def lag_is_zero(settings: ServiceSettings, topic: Topic) -> bool:
    return await lag(settings, topic) == 0


async def test_later_keeps_the_place_and_the_membership_while_other_partitions_go_on(
    settings: ServiceSettings, topic: Topic
) -> None:
    waiting, *others = keys_of_partitions(topic)
    away = True
    seen: list[tuple[str, int]] = []
    tries = 0

    async def handle(event: events.UserUpdated) -> None:
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

    async def handle(event: events.UserUpdated) -> None:
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


async def test_a_batch_that_waits_comes_again_whole(settings: ServiceSettings, topic: Topic) -> None:
    away = True
    writes: list[list[tuple[str, int]]] = []

    def decide(event: events.UserUpdated) -> tuple[str, int]:
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
    topic = Topic(f"t{secrets.token_hex(4)}.users.v1", "log", "user_id", (events.UserUpdated,), (SERVICE,), 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic.name, 1, 1)])
    told: list[bytes] = []

    async def handle(_: events.UserUpdated) -> None:
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


@pytest.mark.parametrize(("mode", "records", "step"), [("batch", 3000, 700), ("single", 300, 70)])
async def test_a_killed_consumer_loses_nothing_in_hand(
    settings: ServiceSettings, topic: Topic, tmp_path: Path, mode: str, records: int, step: int
) -> None:
    """Kills the process between read, write and commit, again and again, while the records drain."""
    store = tmp_path / "stored"
    wanted = {f"u{number}" for number in range(records)}
    async with running(make_broker(settings, "writer")) as broker:
        await asyncio.gather(*(publish(broker, topic, user(key)) for key in wanted))
    kills = 0
    while len(stored(store)) < len(wanted):
        before = len(stored(store))
        process = await consumer_process(settings, topic, store, mode)
        try:
            await eventually(lambda at=before: len(stored(store)) >= min(at + step, len(wanted)), seconds=20)
        except AssertionError:
            pytest.fail(f"{len(wanted - stored(store))} records lost after {kills} kills")
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        kills += 1
    assert kills >= 3


def restarted(kafka: Stack, killed: int) -> bool:
    process = kafka.state.processes["kafka"]
    return process["state"] == "ready" and process["pid"] != killed


def stored(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


async def consumer_process(
    settings: ServiceSettings, topic: Topic, store: Path, mode: str
) -> asyncio.subprocess.Process:
    description = json.dumps({"mode": mode, "topic": topic.name, "partitions": topic.partitions, "store": str(store)})
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_SESSION_TIMEOUT_MS": "1500",
        "KAFKA_HEARTBEAT_MS": "300",
    }
    return await asyncio.create_subprocess_exec(sys.executable, str(CONSUMER), description, env=environment, cwd=ROOT)


async def test_a_state_topic_is_read_whole_before_the_reader_is_there(settings: ServiceSettings) -> None:
    topic = Topic(f"t{secrets.token_hex(4)}.users.v1", "state", "user_id", (events.UserUpdated,), (SERVICE,))
    await create(settings, topic)
    state: dict[str, int] = {}

    async def apply(key: str, event: events.Event | None) -> None:
        if event is None:
            state.pop(key, None)
        else:
            state[key] = event.revision  # type: ignore[attr-defined]

    empty = await read_state(settings, topic, apply)
    await empty.stop()
    assert state == {}
    async with running(make_broker(settings, "writer")) as broker:
        await asyncio.gather(*(publish(broker, topic, user(f"u{number}", number)) for number in range(500)))
        await publish_bytes(broker, topic.name, None, "u7")
        reader = await read_state(settings, topic, apply)
        assert state == {f"u{number}": number for number in range(500) if number != 7}
        await publish(broker, topic, user("u7", 8))
        await eventually(lambda: state["u7"] == 8 if "u7" in state else False)
        await reader.stop()


async def test_a_follower_sees_what_comes_after_it_is_there(settings: ServiceSettings, topic: Topic) -> None:
    async with running(make_broker(settings, "writer")) as broker:
        await publish(broker, topic, user("before"))
        for turn in range(5):
            seen: list[str] = []

            async def take(event: events.Event, seen: list[str] = seen) -> None:
                seen.append(event.user_id)  # type: ignore[attr-defined]

            follower = await follow(settings, topic, take)
            await publish(broker, topic, user(f"after{turn}"))
            await eventually(lambda seen=seen, turn=turn: seen == [f"after{turn}"])
            await follower.stop()


async def test_the_watchdog_sees_a_handler_that_never_ends(settings: ServiceSettings, topic: Topic) -> None:
    release = asyncio.Event()
    reasons: list[str] = []

    async def handle(_: events.UserUpdated) -> None:
        await release.wait()

    async with (
        subscribed(settings, topic, handle) as broker,
        Watchdog(broker, stall_seconds=1, look_every_s=0.2, end=reasons.append) as watchdog,
    ):
        started = time.monotonic()
        await eventually(lambda: time.monotonic() - started > 2, seconds=5)
        assert (reasons, watchdog.live(), await watchdog.ready()) == ([], True, True)
        await publish(broker, topic, user("u"))
        await eventually(lambda: reasons)
        assert not watchdog.live()
        release.set()
        await eventually(watchdog.live)


async def test_a_broker_that_is_killed_under_load_loses_nothing_acknowledged(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    """Single records, batches, a follower and the producer all recover by themselves."""
    singles: set[str] = set()
    followed: set[str] = set()
    acked: set[str] = set()
    reasons: list[str] = []
    stop = asyncio.Event()

    async def handle(event: events.UserUpdated) -> None:
        singles.add(event.user_id)

    async def take(event: events.Event) -> None:
        followed.add(event.user_id)  # type: ignore[attr-defined]

    async def produce(broker: Broker, worker: int) -> None:
        number = 0
        while not stop.is_set():
            event = user(f"w{worker}-{number}")
            try:
                await publish(broker, topic, event)
            except Unavailable:
                await asyncio.sleep(0.1)
                continue  # unknown: the same event again
            acked.add(event.user_id)
            number += 1
            await asyncio.sleep(0.005)

    async with (
        subscribed(settings, topic, handle) as broker,
        Watchdog(broker, stall_seconds=20, end=reasons.append) as watchdog,
    ):
        follower = await follow(settings, topic, take)
        producers = asyncio.gather(*(produce(broker, worker) for worker in range(4)))
        try:
            await eventually(lambda: len(acked) > 300)
            pid = kafka.kill("kafka")
            at_kill = len(acked)
            await eventually(lambda: restarted(kafka, pid), seconds=30)
            await eventually(lambda: len(acked) > at_kill + 300, seconds=40)
        finally:
            stop.set()
            await producers
        await eventually(lambda: singles >= acked, seconds=30)
        await eventually(lambda: followed >= acked, seconds=40)
        await eventually(lambda: lag_is_zero(settings, topic), seconds=20)
        assert await watchdog.ready()
        await follower.stop()
    assert reasons == []


async def test_a_service_may_start_before_kafka(settings: ServiceSettings, topic: Topic, kafka: Stack) -> None:
    seen: list[str] = []

    async def handle(event: events.UserUpdated) -> None:
        seen.append(event.user_id)

    pid = kafka.kill("kafka")
    broker = make_broker(settings, SERVICE)
    subscribe(broker, topic, SERVICE, handle)
    starting = asyncio.create_task(start_broker(broker))
    with pytest.raises(Unavailable):
        await publish(broker, topic, user("too-early"))
    await eventually(lambda: restarted(kafka, pid) and starting.done(), seconds=40)
    try:
        await starting
        await publish(broker, topic, user("u"))
        await eventually(lambda: seen == ["u"], seconds=20)
    finally:
        await broker.stop()
