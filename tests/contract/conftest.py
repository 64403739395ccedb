"""The engines that the contract of the document port runs on."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from pymongo import AsyncMongoClient

from shared.documents import Documents, open_documents

# A MongoDB on this machine to run the contract on as well, such as mongodb://127.0.0.1:27017; it gets databases named
# contract_… and loses them again.
MONGO_URL = os.environ.get("MONGO_URL", "")
ENGINES = ("sqlite", "fake-mongo", *(["mongo"] if MONGO_URL else []))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fresh_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the address of another empty database, which other processes can open too."""
    if engine == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid4().hex}"
    server = MONGO_URL if engine == "mongo" else request.getfixturevalue("fake_mongo")
    address, _, options = server.partition("?")
    return lambda: f"{address.rstrip('/')}/contract_{uuid4().hex}?{options}"


@pytest.fixture
async def database_url(fresh_url: Callable[[], str]) -> AsyncIterator[str]:
    """The address of one empty database."""
    url = fresh_url()
    yield url
    await dropped(url)


async def dropped(url: str) -> None:
    """Leave nothing of the service "contract" in a MongoDB."""
    if not url.startswith("sqlite:"):
        async with AsyncMongoClient(url) as client:
            await client.drop_database(f"{client.get_default_database().name}_contract")


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
