"""Auth with Ada and two partners, as each test of OAuth has it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.service.account_holder import Ada, auth_of
from tests.service.gateway_edges import MovableClock
from tests.service.oauth_edges import RYE, Client, with_partner


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, MovableClock()) as one:
        await with_partner(one)
        await with_partner(one, RYE, name="Rye")
        yield one


@pytest.fixture
def client(ada: Ada) -> Client:
    return Client(ada)


@pytest.fixture
def rye(ada: Ada) -> Client:
    return Client(ada, RYE)
