"""What tries say of an endpoint that changed, or failed, since they were claimed, and of one that we broke."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.webhooks.egress import Answer, Egress
from services.webhooks.health import Health
from services.webhooks.records import ENDPOINTS, Endpoint
from services.webhooks.store import Store
from shared.clock import utc_now
from shared.documents import Documents
from tests.polling import eventually
from tests.service.receiver import receiving
from tests.service.test_webhook_deliveries import MovableClock, of, states
from tests.service.webhook_endpoints import PARTNER, created, database, tell, tried, webhooks


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


async def test_a_try_that_breaks_is_counted_and_the_message_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock, post, broken = MovableClock(), Egress.post, ["once"]

    async def breaks_once(egress: Egress, url: str, headers: dict[str, str], body: bytes) -> Answer:
        if broken:
            raise RuntimeError(broken.pop())
        return await post(egress, url, headers, body)

    monkeypatch.setattr(Egress, "post", breaks_once)
    async with receiving() as receiver, webhooks(tmp_path, clock) as service:
        made = await created(service, receiver.url)
        await tell(service)
        await tried(service, made["endpoint_id"])
        [delivery] = await of(service, made)
        assert (delivery.tries, delivery.history[0].status) == (1, None)
        endpoint = await service.app.state.store.endpoint(made["endpoint_id"])
        assert endpoint.failing_since is None
        clock.ahead += timedelta(seconds=30)
        await eventually(lambda: states(service, made, ["delivered"]))
        assert len(receiver.received) == 1
