"""What must hold where several write at once, once more with the documents in MongoDB."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

# These tests alone, run here with this module's `service`.
from tests.service.running import Running
from tests.service.test_webhook_endpoints import (  # noqa: F401 - tests, run here
    test_an_endpoint_is_what_its_partner_made_it,
    test_changes_at_once_are_all_kept,
    test_many_made_at_once_are_a_hundred_at_most,
)
from tests.service.test_webhook_keys import (  # noqa: F401 - tests, run here
    test_a_repeated_rotation_gives_the_same_secret,
    test_an_endpoint_changes_over_to_the_other_kind,
    test_of_equal_rotations_at_once_there_is_one_key,
)
from tests.service.webhook_endpoints import webhooks


@pytest.fixture
async def service(tmp_path: Path, fake_mongo: str) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, database_url=f"{fake_mongo}/{tmp_path.name}") as one:
        yield one
