"""What these tests need of the broker they may kill."""

import pytest

from shared.settings import ServiceSettings
from shared.topics import Topic
from tests.real_topics import create, fresh_topic
from tests.running_stack import Stack


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
