"""Webhooks with endpoints of a partner: made, told a message, looked at in the database."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from services.webhooks.app import create_app
from services.webhooks.settings import Settings
from services.webhooks.store import COLLECTIONS, ENDPOINTS, Delivery, Endpoint
from shared import topics
from shared.clock import utc_now
from shared.documents import Collection, Documents, open_documents
from shared.events.auth import GrantUpdated
from shared.events.insights import Fact, InsightCreated
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.receiver import LOCAL_DELIVERIES
from tests.service.running import Running, common_settings, running

USER, PARTNER = "user-1", "partner-1"
NOT_SENT = "not sent: the endpoint's secret cannot be opened here"


def webhooks(folder: Path, clock: Callable[[], datetime] = utc_now, **changed: Any):
    settings = Settings(**(common_settings(folder) | LOCAL_DELIVERIES | changed))
    broker = make_broker(settings, "webhooks")
    app = create_app(settings, broker=broker, clock=clock)
    return running(app, broker, "webhooks", folder)


@asynccontextmanager
async def database(folder: Path, collections: Sequence[Collection[Any]] = COLLECTIONS) -> AsyncGenerator[Documents]:
    """The service's database, open."""
    documents = open_documents(f"sqlite:///{folder}", "webhooks")
    await documents.open(collections)
    try:
        yield documents
    finally:
        await documents.close()


async def created(
    service: Running, url: str, *, key: str = "k", partner: str = PARTNER, **fields: Any
) -> dict[str, Any]:
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    answer = await service.http.post(
        "/v1/webhook-endpoints", json={"url": url, "payload": "full", **fields}, headers=headers
    )
    return answer.json() | {"status": answer.status_code}


async def tell(service: Running, number: int = 1, text: str = "11,143 steps") -> None:
    """A grant, and a message that it covers."""
    await service.send(
        topics.GRANTS,
        GrantUpdated(
            event_id="grant-1",
            occurred_at=utc_now() - timedelta(seconds=5),
            grant_id="grant",
            user_id=USER,
            partner_id=PARTNER,
            revision=1,
            scopes=("insights:read",),
            revoked_at=None,
        ),
    )
    await service.send(
        topics.INSIGHTS,
        InsightCreated(
            event_id=f"insight-{number}",
            occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
            user_id=USER,
            insight_id=f"i{number}",
            date=date(2026, 3, 1),
            title="Steps",
            text=text,
            facts=(Fact(id="steps", value=Decimal("11143"), unit="{steps}", window="1 d", n=2),),
            mode="deterministic",
        ),
    )


async def endpoint(documents: Documents, endpoint_id: str) -> Endpoint:
    found = await documents.get(ENDPOINTS, endpoint_id)
    assert found is not None
    return found


def sealed(one: Endpoint) -> bytes:
    """What is stored of the endpoint's only key."""
    (key,) = one.keys
    return key.sealed


def resealed(one: Endpoint, stored: bytes) -> Endpoint:
    """The endpoint with `stored` in the place of its only key."""
    (key,) = one.keys
    return msgspec.structs.replace(one, keys=(msgspec.structs.replace(key, sealed=stored),))


async def tried(service: Running, endpoint_id: str) -> Delivery:
    """The endpoint's only delivery, once it was tried."""

    async def found() -> list[Delivery]:
        return [one for one in await service.app.state.store.deliveries(endpoint_id) if one.history]

    (delivery,) = await eventually(found)
    return delivery
