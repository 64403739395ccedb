"""A broker of our own, for these tests kill it."""

from collections.abc import Iterator

import pytest

from shared.settings import ServiceSettings
from shared.topics import Topic
from tests.real_topics import create, fresh_topic
from tests.running_stack import Stack, running_stack


@pytest.fixture(scope="session")
def kafka() -> Iterator[Stack]:
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
    made = fresh_topic()
    await create(settings, made)
    return made
