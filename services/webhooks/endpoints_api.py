"""Partners' endpoints: where messages go, which and how, with which keys they are signed."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Response
from msgspec.structs import replace

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
from shared.events import derived_id
from shared.identity import Caller, require
from shared.secrets import CannotOpen

log = logging.getLogger(__name__)
Partner = Annotated[Caller, require("webhooks:write", kind="partner")]
EndpointId = Annotated[str, Path(max_length=64)]


def _key(idempotency_key: Annotated[str | None, Header(max_length=255)] = None) -> str:
    if not idempotency_key:
        raise Problem(400, "idempotency-key-required", "Send an Idempotency-Key header, such as a fresh UUID.")
    return idempotency_key


Key = Annotated[str, Depends(_key)]


def create_router(endpoints: Endpoints, keys: EndpointKeys, clock: Clock, nudge: Callable[[], None]) -> APIRouter:
    """The routes, bound to what they need. `nudge` wakes the delivery workers."""
    router = APIRouter(tags=["webhooks"], prefix="/v1/webhook-endpoints")

    @router.post("", status_code=201)
    async def create_endpoint(request: NewEndpoint, caller: Partner, key: Key) -> CreatedEndpoint:
        """Register an address. Only the answer shows the secret; a repeat does so again, until it is rotated away."""
        made = await endpoints.create(_wanted(request, _partner(caller), key, clock()), request.signature)
        first = next((one for one in made.keys if not one.request_id), None)
        secret = None if first is None else _secret(keys, made, first)
        return CreatedEndpoint(**_view(made, clock()).model_dump(), secret=secret)

    @router.get("")
    async def list_endpoints(caller: Partner) -> EndpointList:
        """The partner's own endpoints."""
        return EndpointList(endpoints=[_view(one, clock()) for one in await endpoints.of(_partner(caller))])

    @router.get("/{endpoint_id}")
    async def get_endpoint(endpoint_id: EndpointId, caller: Partner) -> EndpointView:
        """One endpoint."""
        return _view(await endpoints.own(_partner(caller), endpoint_id), clock())

    @router.patch("/{endpoint_id}")
    async def change_endpoint(endpoint_id: EndpointId, request: ChangedEndpoint, caller: Partner) -> EndpointView:
        """Change what is said, keep the rest. What waits goes to the new URL, with the payload it was made with."""
        said = {name: getattr(request, name) for name in request.model_fields_set}
        changed = await endpoints.change(_partner(caller), endpoint_id, lambda now: _changed(now, said))
        nudge()
        return _view(changed, clock())

    @router.delete("/{endpoint_id}", status_code=204)
    async def delete_endpoint(endpoint_id: EndpointId, caller: Partner) -> Response:
        """Forget an endpoint; nothing goes there any more."""
        await endpoints.end(_partner(caller), endpoint_id)
        return Response(status_code=204)

    @router.post("/{endpoint_id}/secrets", status_code=201)
    async def rotate_secret(endpoint_id: EndpointId, request: NewSecret, caller: Partner, key: Key) -> Rotated:
        """Sign with a new key, and with earlier ones beside it for `overlap_s`. The answer alone shows its secret."""
        overlap = timedelta(seconds=request.overlap_s)
        endpoint, fresh = await endpoints.rotate(_partner(caller), endpoint_id, key, request.signature, overlap)
        return Rotated(
            endpoint_id=endpoint.id,
            signature=fresh.kind,
            created_at=fresh.created_at,
            secret=_secret(keys, endpoint, fresh),
            public_key=fresh.public,
            earlier_until=max((one.expires_at for one in endpoint.keys if one.expires_at is not None), default=None),
        )

    @router.post("/{endpoint_id}/tests", status_code=202)
    async def test_endpoint(endpoint_id: EndpointId, caller: Partner, key: Key) -> TestSent:
        """Send a message of type `endpoint.test` there, signed and tried like any other."""
        delivery = await endpoints.test(_partner(caller), endpoint_id, key)
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
        new |= {"state_reason": None}
    if new.get("url", endpoint.url) != endpoint.url or "state_reason" in new:
        new |= {"failing_since": None, "failures": 0}
    return replace(endpoint, **new)


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


def _partner(caller: Caller) -> str:
    if caller.partner_id is None:
        raise Problem(403, "insufficient-scope", "This needs a partner's key.")
    return caller.partner_id


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
