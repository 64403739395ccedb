"""The gateway with a partner, as each test of partners at the gateway has it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.service.gateway_edges import Gateway
from tests.service.partner_calls import partners_gateway


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with partners_gateway(tmp_path) as one:
        yield one
