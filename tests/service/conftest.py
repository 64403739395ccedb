"""What tests of several services take: a clock to push forward, a partner's server, webhooks' documents."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shared.documents import Documents
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver, receiving
from tests.service.webhook_endpoints import database


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def webhooks_documents(tmp_path: Path) -> AsyncGenerator[Documents]:
    """The database of webhooks, beside the service."""
    async with database(tmp_path) as one:
        yield one
