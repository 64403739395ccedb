"""What tries say of an endpoint that changed, or failed, since they were claimed."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.webhooks.health import Health
from services.webhooks.records import ENDPOINTS, Endpoint
from services.webhooks.store import Store
from shared.clock import utc_now
from shared.documents import Documents
from tests.service.webhook_endpoints import PARTNER, database


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncGenerator[Documents]:
    async with database(tmp_path) as one:
        yield one


@pytest.fixture
def health(documents: Documents) -> Health:
    return Health(documents, Store(documents, utc_now), utc_now)


async def stored(documents: Documents) -> Endpoint:
    return await documents.insert(
        ENDPOINTS,
        Endpoint(
            id="endpoint",
            partner_id=PARTNER,
            url="https://old.example.org/",
            event_types=(),
            keys=(),
            request_hash="",
            created_at=utc_now(),
        ),
    )


async def now(documents: Documents) -> Endpoint:
    found = await documents.get(ENDPOINTS, "endpoint")
    assert found is not None
    return found


async def test_a_410_of_a_url_that_was_changed_meanwhile_disables_nothing(documents: Documents, health: Health):
    before = await stored(documents)
    moved = await documents.put(ENDPOINTS, replace(before, url="https://new.example.org/"))
    await health.failed(before, gone=True)
    assert (await now(documents)).state == "enabled"
    await health.failed(moved, gone=True)
    assert (await now(documents)).state == "disabled"


async def test_a_success_ends_a_count_that_began_after_it_was_claimed(documents: Documents, health: Health):
    claimed = await stored(documents)
    await health.failed(claimed, gone=False)
    assert (await now(documents)).failing_since is not None
    await health.succeeded(claimed)
    assert ((await now(documents)).failing_since, (await now(documents)).failures) == (None, 0)
