"""The engines that the contract of the document port runs on."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.documents import Documents, open_documents

# A second engine adds its name here and its address below.
ENGINES = ("sqlite",)


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, which other processes can open too."""
    addresses = {"sqlite": f"sqlite:///{tmp_path}"}
    return addresses[request.param]


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
