"""Nothing acknowledged is lost when a consumer or the broker is killed, and nobody has to help."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from infra.local.settings import ROOT
from shared.errors import Unavailable
from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.following import follow
from shared.kafka import Broker, make_broker, publish, subscribe
from shared.settings import ServiceSettings
from shared.start import start_broker
from shared.topics import Topic
from shared.watchdog import Watchdog
from tests.polling import eventually
from tests.real_topics import SERVICE, lag_is_zero, running, subscribed, user
from tests.running_stack import Stack

CONSUMER = Path(__file__).with_name("kafka_consumer.py")


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


async def test_a_broker_that_is_killed_under_load_loses_nothing_acknowledged(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    """Single records, batches, a follower and the producer all recover by themselves."""
    singles: set[str] = set()
    followed: set[str] = set()
    acked: set[str] = set()
    reasons: list[str] = []
    stop = asyncio.Event()

    async def handle(event: UserUpdated) -> None:
        singles.add(event.user_id)

    async def take(event: Event) -> None:
        followed.add(event.user_id)

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

    async def handle(event: UserUpdated) -> None:
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
