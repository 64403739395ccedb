"""Replays: partners have messages sent once more, watch that, pause it, end it."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.webhooks.asking import Id, Key, PartnerId
from services.webhooks.endpoint_models import Types, UserId
from services.webhooks.endpoints import Endpoints
from services.webhooks.records import LONGEST, Replay
from services.webhooks.replays import Replays
from shared.clock import Clock, Moment
from shared.errors import Problem
from shared.ids import derived_id

MAX_RATE_PER_S = 1000


class NewReplay(BaseModel):
    """What to send again: one message, all that failed since a time, or all that was stored in a time."""

    model_config = ConfigDict(extra="forbid")

    message_id: Annotated[str | None, Field(min_length=1, max_length=64, description="This message alone")] = None
    failed_since: Annotated[Moment | None, Field(description="Deliveries made since then that failed")] = None
    since: Annotated[Moment | None, Field(description="Messages stored since then")] = None
    until: Annotated[Moment | None, Field(description="Up to then, exclusive; now by default")] = None
    types: Types = []
    user: Annotated[UserId | None, Field(description="Of this user alone")] = None
    rate_per_s: Annotated[int, Field(ge=1, le=MAX_RATE_PER_S, description="Messages a second")] = 10

    @model_validator(mode="after")
    def _one_kind(self) -> "NewReplay":
        if sum(one is not None for one in (self.message_id, self.failed_since, self.since)) != 1:
            raise PydanticCustomError("replay", "Send exactly one of message_id, failed_since and since")
        if self.message_id is not None and (self.until or self.types or self.user):
            raise PydanticCustomError("replay", "Leave out until, types and user beside message_id")
        return self

    def fingerprint(self) -> str:
        """Equal for equal requests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class ChangedReplay(BaseModel):
    """What the replay is to do."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["running", "paused", "cancelled"]


class ReplayView(BaseModel):
    """A replay. `made` messages were sent again, as far as `reached`; `progress` counts time, from 0 to 1.

    What was sent again carries the header `webhook-replay` with this id.
    """

    replay_id: str
    endpoint_id: str
    kind: Literal["message", "range", "failed"]
    state: Literal["running", "paused", "cancelled", "done", "failed"]
    reason: str | None
    made: int
    progress: float
    reached: datetime | None
    since: datetime
    until: datetime
    types: tuple[str, ...]
    user: str | None
    rate_per_s: int
    created_at: datetime


class ReplayList(BaseModel):
    """The endpoint's last 100 replays, newest first."""

    replays: list[ReplayView]


def create_router(replays: Replays, endpoints: Endpoints, clock: Clock, nudge: Callable[[], None]) -> APIRouter:
    """The routes, bound to what they need. `nudge` wakes the workers of replays."""
    router = APIRouter(tags=["webhooks"], prefix="/v1/webhook-endpoints/{endpoint_id}/replays")

    @router.post("", status_code=202)
    async def create_replay(endpoint_id: Id, request: NewReplay, partner: PartnerId, key: Key) -> ReplayView:
        """Send messages once more, with their webhook-ids, each at most once a replay."""
        endpoint = await endpoints.own_enabled(partner, endpoint_id)
        made = await replays.create(_wanted(request, endpoint.id, endpoint.partner_id, key, clock()))
        nudge()
        return _view(made)

    @router.get("")
    async def list_replays(endpoint_id: Id, partner: PartnerId) -> ReplayList:
        """What was asked for, and how far it is."""
        endpoint = await endpoints.own(partner, endpoint_id)
        return ReplayList(replays=[_view(one) for one in await replays.of(endpoint.id)])

    @router.get("/{replay_id}")
    async def get_replay(endpoint_id: Id, replay_id: Id, partner: PartnerId) -> ReplayView:
        """One replay."""
        return _view(await _own(replays, partner, endpoint_id, replay_id))

    @router.patch("/{replay_id}")
    async def change_replay(endpoint_id: Id, replay_id: Id, request: ChangedReplay, partner: PartnerId) -> ReplayView:
        """Pause it, go on, or cancel it; what it has made a delivery of goes out all the same."""
        known = await _own(replays, partner, endpoint_id, replay_id)
        changed = await replays.change(known.partner_id, known.id, request.state)
        nudge()
        return _view(changed)

    return router


async def _own(replays: Replays, partner_id: str, endpoint_id: str, replay_id: str) -> Replay:
    found = await replays.own(partner_id, replay_id)
    if found.endpoint_id != endpoint_id:
        raise Problem(404, "not-found", "This endpoint has no replay of this id.")
    return found


def _wanted(request: NewReplay, endpoint_id: str, partner_id: str, key: str, now: datetime) -> Replay:
    since = request.failed_since or request.since or now
    if since > now:
        raise Problem(422, "since-in-the-future", f"Nothing is there yet; send a time before {now.isoformat()}.")
    if request.until is not None and request.until < since:
        raise Problem(422, "until-before-since", "Nothing lies between the two; send a later until, or none for now.")
    until = min(now, request.until) if request.until is not None else now
    return Replay(
        id=derived_id("webhook replay", endpoint_id, key),
        endpoint_id=endpoint_id,
        partner_id=partner_id,
        user_id=request.user or "",
        kind="message" if request.message_id else "failed" if request.failed_since else "range",
        message_id=request.message_id or "",
        since=since,
        until=max(since, until),
        types=tuple(request.types),
        rate_per_s=request.rate_per_s,
        request_hash=request.fingerprint(),
        created_at=now,
        ends_at=now + LONGEST,
        due_at=now,
    )


def _view(replay: Replay) -> ReplayView:
    whole = (replay.until - replay.since).total_seconds()
    reached = 0.0 if replay.reached is None else (replay.reached - replay.since).total_seconds()
    return ReplayView(
        replay_id=replay.id,
        endpoint_id=replay.endpoint_id,
        kind=replay.kind,
        state=replay.state,
        reason=replay.last_error,
        made=replay.made,
        progress=1.0 if replay.state == "done" else round(reached / whole, 3) if whole else 0.0,
        reached=replay.reached,
        since=replay.since,
        until=replay.until,
        types=replay.types,
        user=replay.user_id or None,
        rate_per_s=replay.rate_per_s,
        created_at=replay.created_at,
    )
