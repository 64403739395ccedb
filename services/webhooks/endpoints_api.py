"""Partners' endpoints: where messages go, which and how, with which keys they are signed."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from msgspec.structs import replace

from services.webhooks.asking import Id, Key, PartnerId
from services.webhooks.endpoint_models import (
    ChangedEndpoint,
    CreatedEndpoint,
    EndpointList,
    EndpointView,
    KeyView,
    NewEndpoint,
    NewSecret,
    Rotated,
    TestSent,
)
from services.webhooks.endpoints import Endpoints
from services.webhooks.keys import EndpointKey, EndpointKeys
from services.webhooks.records import Endpoint
from shared.clock import Clock
from shared.errors import Problem
from shared.ids import derived_id
from shared.secrets import CannotOpen

log = logging.getLogger(__name__)


def create_router(endpoints: Endpoints, keys: EndpointKeys, clock: Clock, nudge: Callable[[], None]) -> APIRouter:
    """The routes, bound to what they need. `nudge` wakes the delivery workers."""
    router = APIRouter(tags=["webhooks"], prefix="/v1/webhook-endpoints")

    @router.post("", status_code=201)
    async def create_endpoint(request: NewEndpoint, partner: PartnerId, key: Key) -> CreatedEndpoint:
        """Register an address. Only the answer shows the secret; a repeat does so again, until it is rotated away."""
        wanted = _wanted(request, partner, key, clock())
        return _created(keys, await endpoints.create(wanted, request.signature), clock())

    @router.get("")
    async def list_endpoints(partner: PartnerId) -> EndpointList:
        """The partner's own endpoints."""
        return EndpointList(endpoints=[_view(one, clock()) for one in await endpoints.of(partner)])

    @router.get("/{endpoint_id}")
    async def get_endpoint(endpoint_id: Id, partner: PartnerId) -> EndpointView:
        """One endpoint."""
        return _view(await endpoints.own(partner, endpoint_id), clock())

    @router.patch("/{endpoint_id}")
    async def change_endpoint(endpoint_id: Id, request: ChangedEndpoint, partner: PartnerId) -> EndpointView:
        """Change what is said, keep the rest. What waits goes to the new URL, with the payload it was made with."""
        said = {name: getattr(request, name) for name in request.model_fields_set}
        changed = await endpoints.change(partner, endpoint_id, lambda now: _changed(now, said))
        nudge()
        return _view(changed, clock())

    @router.delete("/{endpoint_id}", status_code=204)
    async def delete_endpoint(endpoint_id: Id, partner: PartnerId) -> None:
        """Forget an endpoint; nothing goes there any more."""
        await endpoints.end(partner, endpoint_id)

    @router.post("/{endpoint_id}/secrets", status_code=201)
    async def rotate_secret(endpoint_id: Id, request: NewSecret, partner: PartnerId, key: Key) -> Rotated:
        """Sign with a new key, and with earlier ones beside it for `overlap_s`. The answer alone shows its secret.

        A repeat rotates nothing; it shows the secret again while that signs, then null.
        """
        overlap = timedelta(seconds=request.overlap_s)
        return _rotated(keys, *await endpoints.rotate(partner, endpoint_id, key, request.signature, overlap), clock())

    @router.post("/{endpoint_id}/tests", status_code=202)
    async def test_endpoint(endpoint_id: Id, partner: PartnerId, key: Key) -> TestSent:
        """Send a message of type `endpoint.test` there, signed and tried like any other."""
        delivery = await endpoints.test(partner, endpoint_id, key)
        nudge()
        return TestSent(message_id=delivery.message_id, delivery_id=delivery.id)

    return router


def _wanted(request: NewEndpoint, partner_id: str, key: str, at: datetime) -> Endpoint:
    return Endpoint(
        id=derived_id("webhook-endpoint", partner_id, key),
        partner_id=partner_id,
        url=request.url,
        event_types=tuple(request.event_types),
        user_ids=tuple(request.user_ids),
        payload=request.payload,
        ordered=request.ordered,
        rate_per_s=request.rate_per_s,
        headers=tuple(request.headers.items()),
        keys=(),
        request_hash=request.fingerprint(),
        created_at=at,
    )


def _changed(endpoint: Endpoint, said: dict[str, Any]) -> Endpoint:
    """The endpoint with what was said; what failed counts no more at another URL, or once it is enabled again."""
    new = dict(said)
    for name in ("event_types", "user_ids"):
        if name in new:
            new[name] = tuple(new[name])
    if "headers" in new:
        new["headers"] = tuple(new["headers"].items())
    if "state" in new and endpoint.state == "disabled":
        new |= {"state_reason": None, "untold_since": None}
    if new.get("url", endpoint.url) != endpoint.url or "state_reason" in new:
        new |= {"failing_since": None, "failures": 0}
    return replace(endpoint, **new)


def _created(keys: EndpointKeys, endpoint: Endpoint, now: datetime) -> CreatedEndpoint:
    first = next((key for key in endpoint.keys if not key.request_id and key.signs(now)), None)
    secret = None if first is None else _secret(keys, endpoint, first)
    return CreatedEndpoint(**_view(endpoint, now).model_dump(), secret=secret)


def _rotated(keys: EndpointKeys, endpoint: Endpoint, fresh: EndpointKey, now: datetime) -> Rotated:
    # A repeat may come after later rotations.
    earlier = endpoint.keys[endpoint.keys.index(fresh) + 1 :] if fresh in endpoint.keys else ()
    return Rotated(
        endpoint_id=endpoint.id,
        signature=fresh.kind,
        created_at=fresh.created_at,
        secret=_secret(keys, endpoint, fresh) if fresh.sealed and fresh.signs(now) else None,
        public_key=fresh.public,
        earlier_until=max((key.expires_at for key in earlier if key.expires_at is not None), default=None),
    )


def _secret(keys: EndpointKeys, endpoint: Endpoint, key: EndpointKey) -> str | None:
    if key.public is not None:
        return None
    try:
        return keys.shown(key, endpoint.id, endpoint.partner_id)
    except CannotOpen as error:
        log.error("the secret of endpoint %s cannot be shown: %s", endpoint.id, error)
        raise Problem(
            503,
            "secret-unreadable",
            "This endpoint's secret cannot be read now. Try again, or make another with a fresh Idempotency-Key.",
            headers={"Retry-After": "60"},
        ) from None


def _view(endpoint: Endpoint, now: datetime) -> EndpointView:
    return EndpointView(
        endpoint_id=endpoint.id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        user_ids=endpoint.user_ids,
        payload=endpoint.payload,
        ordered=endpoint.ordered,
        rate_per_s=endpoint.rate_per_s,
        headers=dict(endpoint.headers),
        state=endpoint.state,
        state_reason=endpoint.state_reason,
        failing_since=endpoint.failing_since,
        keys=[_key_view(key) for key in endpoint.keys if key.signs(now)],
        created_at=endpoint.created_at,
    )


def _key_view(key: EndpointKey) -> KeyView:
    return KeyView(signature=key.kind, created_at=key.created_at, expires_at=key.expires_at, public_key=key.public)
