"""Partners' endpoints, and a user's own messages in order."""

import hashlib
import logging
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.webhooks.destinations import AddressRefused
from services.webhooks.egress import Egress
from services.webhooks.keys import EndpointKey, EndpointKeys
from services.webhooks.public import TYPES, EventType, Timestamp
from services.webhooks.store import Endpoint, Message, Store
from shared.clock import Clock
from shared.documents import Duplicate
from shared.errors import Problem
from shared.events import derived_id
from shared.identity import Caller, require
from shared.secrets import CannotOpen

MAX_ENDPOINTS = 100
MAX_EVENTS = 1000
log = logging.getLogger(__name__)


class NewEndpoint(BaseModel):
    """Where a partner wants its messages."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2048, examples=["https://partner.example/hooks"])
    event_types: list[EventType] = Field(default=[], max_length=len(TYPES), description="Which types; none means all")

    @field_validator("event_types")
    @classmethod
    def _each_once(cls, types: list[EventType]) -> list[EventType]:
        return sorted(set(types))

    def fingerprint(self) -> str:
        """Equal for equal requests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class EndpointView(BaseModel):
    """An endpoint as its partner sees it."""

    endpoint_id: str
    url: str
    event_types: tuple[str, ...]
    state: str
    state_reason: str | None
    created_at: datetime


class CreatedEndpoint(EndpointView):
    """A new endpoint, with the secret that verifies its messages."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class EndpointList(BaseModel):
    """All endpoints of the partner, oldest first."""

    endpoints: list[EndpointView]


class EventView(BaseModel):
    """A stored message; `id` is the `webhook-id`, `sequence` the SSE id."""

    id: str
    sequence: int
    type: str
    timestamp: Timestamp
    data: dict[str, Any]


class EventList(BaseModel):
    """Messages in order. With `has_more`, ask again with `after` = `next_after`, also when this page is empty."""

    events: list[EventView]
    has_more: bool
    next_after: int = Field(description="How far this page reaches: the last sequence that was looked at")
    last_sequence: int = Field(description="The newest sequence of this user, 0 before the first message")


def create_router(store: Store, egress: Egress, keys: EndpointKeys, clock: Clock) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["webhooks"])

    @router.post("/v1/webhook-endpoints", status_code=201)
    async def create_endpoint(
        request: NewEndpoint,
        caller: Annotated[Caller, require("webhooks:write", kind="partner")],
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> CreatedEndpoint:
        """Register an address. The answer is the only place that shows the secret; a repeat shows it again."""
        partner_id = _partner(caller)
        if not idempotency_key:
            raise Problem(400, "idempotency-key-required", "Send an Idempotency-Key header, such as a fresh UUID.")
        endpoint_id = derived_id("webhook-endpoint", partner_id, idempotency_key)
        known = await store.endpoint(endpoint_id)
        if known is None:
            key = keys.new("hmac", endpoint_id, partner_id, clock())
            known = await _add(store, egress, _endpoint(request, endpoint_id, partner_id, key))
        if known.request_hash != request.fingerprint():
            raise Problem(
                422, "idempotency-key-reused", "This Idempotency-Key came with another request; use a fresh one."
            )
        return CreatedEndpoint(**_view(known).model_dump(), secret=_shown(keys, known))

    @router.get("/v1/webhook-endpoints")
    async def list_endpoints(caller: Annotated[Caller, require("webhooks:write", kind="partner")]) -> EndpointList:
        """The partner's own endpoints."""
        return EndpointList(endpoints=[_view(endpoint) for endpoint in await store.endpoints(_partner(caller))])

    @router.get("/v1/events")
    async def list_events(
        caller: Annotated[Caller, require("live:read")],
        after: Annotated[int, Query(ge=0, lt=2**53, description="The last sequence already known")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    ) -> EventList:
        """The user's messages above `after`, in order, as far as the caller's scopes reach.

        A user's own app has all scopes and so sees no gaps.
        """
        user_id = caller.user_id or ""
        last = await store.last_sequence(user_id)
        found = await store.messages_after(user_id, after, limit) if after < last else ()
        newest = found[-1].sequence if found else after
        return EventList(
            events=[_event(message) for message in found if TYPES[message.type].scope in caller.scopes],
            has_more=newest < last,
            next_after=newest,
            last_sequence=max([last, *(message.sequence for message in found)]),
        )

    return router


async def _add(store: Store, egress: Egress, endpoint: Endpoint) -> Endpoint:
    """The endpoint as stored, which is another's when one was made under this id meanwhile."""
    try:
        await egress.check_url(endpoint.url)
    except AddressRefused as error:
        raise Problem(422, "url-not-allowed", f"Deliveries cannot go to this URL: {error}.") from error
    if len(await store.endpoints(endpoint.partner_id)) >= MAX_ENDPOINTS:
        raise Problem(409, "too-many-endpoints", f"A partner has at most {MAX_ENDPOINTS} endpoints.")
    try:
        return await store.add_endpoint(endpoint)
    except Duplicate:
        return await store.endpoint(endpoint.id) or endpoint


def _endpoint(request: NewEndpoint, endpoint_id: str, partner_id: str, key: EndpointKey) -> Endpoint:
    return Endpoint(
        id=endpoint_id,
        partner_id=partner_id,
        url=request.url,
        event_types=tuple(request.event_types),
        keys=(key,),
        request_hash=request.fingerprint(),
        created_at=key.created_at,
        payload="full",
    )


def _shown(keys: EndpointKeys, endpoint: Endpoint) -> str:
    try:
        return keys.shown(endpoint.keys[0], endpoint.id, endpoint.partner_id)
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


def _view(endpoint: Endpoint) -> EndpointView:
    return EndpointView(
        endpoint_id=endpoint.id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        state=endpoint.state,
        state_reason=endpoint.state_reason,
        created_at=endpoint.created_at,
    )


def _event(message: Message) -> EventView:
    return EventView(
        id=message.id, sequence=message.sequence, type=message.type, timestamp=message.time, data=message.data
    )
