"""What tries say of an endpoint that changed, or failed, since they were claimed, and of one that we broke."""

import json
from datetime import datetime, timedelta
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
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver, receiving
from tests.service.test_webhook_deliveries import ask, of, states
from tests.service.webhook_endpoints import created, database, tell, tried, webhooks
from tests.service.webhook_events import PARTNER


@pytest.fixture
def health(webhooks_documents: Documents) -> Health:
    return Health(webhooks_documents, Store(webhooks_documents, utc_now), utc_now)


async def stored(webhooks_documents: Documents) -> Endpoint:
    return await webhooks_documents.insert(
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


async def now(webhooks_documents: Documents) -> Endpoint:
    found = await webhooks_documents.get(ENDPOINTS, "endpoint")
    assert found is not None
    return found


async def test_a_410_of_a_url_that_was_changed_meanwhile_disables_nothing(
    webhooks_documents: Documents, health: Health
):
    before = await stored(webhooks_documents)
    moved = await webhooks_documents.put(ENDPOINTS, replace(before, url="https://new.example.org/"))
    await health.failed(before, gone=True)
    assert (await now(webhooks_documents)).state == "enabled"
    await health.failed(moved, gone=True)
    assert (await now(webhooks_documents)).state == "disabled"


@pytest.mark.parametrize("meanwhile", [{"url": "https://new.example.org/"}, {}])
async def test_a_failure_of_before_a_count_began_anew_disables_nothing(
    webhooks_documents: Documents, health: Health, meanwhile: dict[str, str]
):
    """Its partner changed the URL, or another process delivered, while the try of an old claim was under way."""
    fresh = await stored(webhooks_documents)
    failing = replace(fresh, failing_since=utc_now() - timedelta(days=5), failures=9)
    claimed = await webhooks_documents.put(ENDPOINTS, failing)
    await webhooks_documents.put(ENDPOINTS, replace(claimed, failing_since=None, failures=0, **meanwhile))
    await health.failed(claimed, gone=False)
    assert (await now(webhooks_documents)).state == "enabled"


async def test_a_success_ends_a_count_that_began_after_it_was_claimed(webhooks_documents: Documents, health: Health):
    claimed = await stored(webhooks_documents)
    await health.failed(claimed, gone=False)
    assert (await now(webhooks_documents)).failing_since is not None
    await health.succeeded(claimed)
    assert ((await now(webhooks_documents)).failing_since, (await now(webhooks_documents)).failures) == (None, 0)


async def test_endpoints_that_failed_are_not_remembered_for_ever(webhooks_documents: Documents, clock: MovableClock):
    health = Health(webhooks_documents, Store(webhooks_documents, clock), clock)
    first = await stored(webhooks_documents)
    for number in range(50):
        await health.failed(replace(first, id=f"gone-{number}", version=1), gone=False)
    clock.ahead += timedelta(minutes=6)
    await health.failed(first, gone=False)
    assert list(health._noted) == ["endpoint"]


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


async def test_what_a_process_did_not_live_to_tell_is_told_once_by_the_next(tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service:
        await created(service, receiver.url)
    async with database(tmp_path) as documents:
        await stored(documents)
        # As far as one came that was killed.
        await Store(documents, utc_now).disable("endpoint", "the receiver answered 410 Gone")

        async def told() -> bool:
            return (await now(documents)).untold_since is None

        async with webhooks(tmp_path):
            await eventually(lambda: receiver.received)
            await eventually(told)
        given_up = await now(documents)
        # And as far as one came that was killed a moment later.
        since = datetime.fromisoformat(json.loads(receiver.received[0].body)["timestamp"])
        await documents.put(ENDPOINTS, replace(given_up, untold_since=since))
        async with webhooks(tmp_path):
            await eventually(told)
    assert [json.loads(one.body)["data"] for one in receiver.received] == [
        {"endpoint_id": "endpoint", "reason": "the receiver answered 410 Gone"}
    ]


async def test_nobody_is_told_of_an_endpoint_that_was_enabled_again(tmp_path: Path, receiver: Receiver):
    async with webhooks(tmp_path) as service, database(tmp_path) as documents:
        made = [await created(service, f"{receiver.url}/{key}", key=key) for key in ("a", "b")]
        store = Store(documents, utc_now)
        await store.disable(made[0]["endpoint_id"], "it failed")
        path = f"/v1/webhook-endpoints/{made[0]['endpoint_id']}"
        assert (await ask(service, "PATCH", path, {"state": "enabled"})).status_code == 200
        await Health(documents, store, utc_now).tell_rest()
        assert await store.deliveries(made[1]["endpoint_id"]) == ()
        assert receiver.received == []
