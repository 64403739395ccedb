"""Each story has a whole system of its own."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.flows.whole import Whole, whole


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[Whole]:
    async with whole(tmp_path) as running:
        yield running
