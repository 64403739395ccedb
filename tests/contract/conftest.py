"""The engines that the contract of the document port runs on."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from shared.documents import Documents, open_documents

# A MongoDB of one's own to run the contract on as well; it gets databases named contract_…, and loses them again.
MONGO_URL = os.environ.get("MONGO_URL", "")
ENGINES = ("sqlite", "fake-mongo", *(["mongo"] if MONGO_URL else []))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, which other processes can open too."""
    if engine == "sqlite":
        return f"sqlite:///{tmp_path}"
    name = f"contract_{uuid4().hex}"
    return f"{request.getfixturevalue('fake_mongo')}/{name}"


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Callable[[], Documents]]:
    """Makes another client of the same database; all are closed at the end."""
    clients: list[Documents] = []

    def another() -> Documents:
        clients.append(open_documents(database_url, "contract"))
        return clients[-1]

    yield another
    for client in clients:
        await client.close()
