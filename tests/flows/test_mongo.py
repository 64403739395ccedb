"""The stories once more, with every service's documents in MongoDB."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

# All their tests, run here with this module's `system`.
from tests.flows.test_export import *  # noqa: F403 - the same tests on MongoDB
from tests.flows.test_partners import *  # noqa: F403 - the same tests on MongoDB
from tests.flows.test_privacy import *  # noqa: F403 - the same tests on MongoDB
from tests.flows.test_stories import *  # noqa: F403 - the same tests on MongoDB
from tests.flows.whole import Whole, whole


@pytest.fixture
async def system(tmp_path: Path, fake_mongo: str) -> AsyncGenerator[Whole]:
    async with whole(tmp_path, database_url=f"{fake_mongo}/{tmp_path.name}") as running:
        yield running
