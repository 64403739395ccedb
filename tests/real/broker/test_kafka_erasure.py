"""What the broker keeps of an erased user goes from its very files once retention has passed: here a second."""

import secrets
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.topics import wanted
from shared import topics
from shared.kafka import make_broker, publish_bytes
from shared.settings import ServiceSettings
from shared.start import wait_for_kafka
from tests.polling import eventually
from tests.real_topics import running
from tests.running_stack import Stack

SHORT_MS = "1000"
# Two looks of the broker at its logs, and the cleaner's turns.
WITHIN_S = 170
# What ours say, but sooner; and nothing of a broker's own that waits longer.
SHORTENED = {
    "retention.ms": SHORT_MS,
    "segment.ms": SHORT_MS,
    "max.compaction.lag.ms": SHORT_MS,
    "delete.retention.ms": SHORT_MS,
}
AT_ONCE = {"file.delete.delay.ms": "0"}

pytestmark = pytest.mark.timeout(WITHIN_S + 60)


async def test_topics_and_dead_letters_hold_nothing_after_their_retention(
    kafka: Stack, settings: ServiceSettings
) -> None:
    mark = secrets.token_hex(4)
    canaries = await _topics(settings, mark)
    async with running(make_broker(settings, "test")) as broker:
        for name, canary in canaries.items():
            await publish_bytes(broker, name, canary, "ada")
        assert set(_holding(kafka, canaries)) == set(canaries)
        # The deletion, and others' records: the broker rolls a segment when the next record comes.
        await publish_bytes(broker, f"{mark}.{topics.USERS.name}", None, "ada")

        async def gone() -> bool:
            for name in canaries:
                await publish_bytes(broker, name, b"others", secrets.token_hex(4))
            return not _holding(kafka, canaries)

        await eventually(gone, seconds=WITHIN_S, every=1)


async def _topics(settings: ServiceSettings, mark: str) -> dict[str, bytes]:
    """A state topic, a log and dead letters, made as ours but for times; a canary for each."""
    names = (topics.USERS.name, topics.BATCHES.name, topics.BATCHES.dead_letters("ingest"))
    ours = {topic.name: topic.topic_configs for topic in wanted()}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    made: list[NewTopic] = []
    for name in names:
        config = {key: SHORTENED.get(key, value) for key, value in ours[name].items()} | AT_ONCE
        assert SHORT_MS in (config.get("retention.ms"), config.get("max.compaction.lag.ms"))
        made.append(NewTopic(f"{mark}.{name}", 1, 1, topic_configs=config))
    await admin.create_topics(made)
    await admin.close()
    await wait_for_kafka(settings.bootstrap_servers, [topic.name for topic in made])
    return {topic.name: f"canary {secrets.token_hex(16)}".encode() for topic in made}


def _holding(kafka: Stack, canaries: dict[str, bytes]) -> list[str]:
    """The topics whose files hold their canary."""
    folders = {name: [path for path in kafka.instance.data.rglob(f"{name}-0") if path.is_dir()] for name in canaries}
    return [name for name, found in folders.items() if any(_in(folder, canaries[name]) for folder in found)]


def _in(folder: Path, canary: bytes) -> bool:
    for path in folder.iterdir():
        try:
            if path.is_file() and canary in path.read_bytes():
                return True
        except FileNotFoundError:
            continue
    return False
