"""Webhooks with endpoints of a partner: made, told a message, looked at in the database."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.webhooks.app import create_app
from services.webhooks.settings import Settings
from services.webhooks.store import COLLECTIONS, ENDPOINTS, Delivery, Endpoint
from shared import topics
from shared.clock import utc_now
from shared.documents import Collection, Documents, open_documents
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import LOCAL_DELIVERIES
from tests.service.running import Running, common_settings, running
from tests.service.webhook_events import LISTEN, PARTNER, grant, insight

NOT_SENT = "not sent: the endpoint's secret cannot be opened here"


def webhooks(folder: Path, clock: Callable[[], datetime] = utc_now, *, listen: Sequence[str] = (), **changed: Any):
    """The service; records of the topics in `listen` are kept, `changed` are settings."""
    settings = Settings(**(common_settings(folder) | LOCAL_DELIVERIES | changed))
    broker = make_broker(settings, "webhooks")
    app = create_app(settings, broker=broker, clock=clock)
    return running(app, broker, "webhooks", folder, listen=listen)


@pytest.fixture
async def heard(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    """The service on a clock that tests move; what it publishes is kept."""
    async with webhooks(tmp_path, clock, listen=LISTEN) as one:
        yield one


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
    await service.send(topics.GRANTS, grant(scopes=("insights:read",)))
    await service.send(topics.INSIGHTS, insight(number, text=text))


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
