"""Documents on disk, and a broker in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.documents import Documents, open_documents
from tests.service.outbox.scene import DAYS, LEDGERS, Broker


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[Documents]:
    opened = open_documents(f"sqlite:///{tmp_path}", "outbox")
    await opened.open([DAYS, LEDGERS])
    yield opened
    await opened.close()


@pytest.fixture
def broker() -> Broker:
    return Broker()
