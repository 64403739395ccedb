"""A user's own messages in order, and what kinds of messages there are."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from services.webhooks.event_types import EventTypes, event_types
from services.webhooks.public import TYPES, EventType, Timestamp
from services.webhooks.store import Message, Store
from shared.callers import Caller
from shared.identity import require

MAX_EVENTS = 1000
# They change with releases alone.
CACHED_S = 3600


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
    first_sequence: int = Field(description="The oldest one that is still kept; last_sequence + 1: there is none")
    last_sequence: int = Field(description="The newest sequence of this user, 0 before the first message")


def create_router(store: Store) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["webhooks"])
    types = event_types()

    @router.get("/v1/event-types")
    async def list_event_types(response: Response) -> EventTypes:
        """Every type of message with the scope it needs, a JSON Schema and worked examples. Needs no token."""
        response.headers["Cache-Control"] = f"public, max-age={CACHED_S}"
        return types

    @router.get("/v1/events")
    async def list_events(
        caller: Annotated[Caller, require("live:read")],
        after: Annotated[int, Query(ge=0, lt=2**53, description="The last sequence already known")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS, description="How many are looked at")] = 100,
        type: Annotated[
            list[EventType] | None, Query(max_length=len(TYPES), description="Of these types alone; may be repeated")
        ] = None,
    ) -> EventList:
        """The user's messages above `after`, in order, as far as the caller's scopes reach.

        A user's own app has all scopes and so, without `type`, sees no gaps.
        """
        user_id = caller.user_id or ""
        last = await store.last_sequence(user_id)
        found = await store.messages_after(user_id, after, limit) if after < last else ()
        newest = found[-1].sequence if found else after
        oldest = await store.messages_after(user_id, 0, 1)
        return EventList(
            events=[event_view(message) for message in found if _seen(message, caller, type)],
            has_more=newest < last,
            next_after=newest,
            first_sequence=oldest[0].sequence if oldest else last + 1,
            last_sequence=max([last, *(message.sequence for message in found)]),
        )

    return router


def _seen(message: Message, caller: Caller, types: list[EventType] | None) -> bool:
    return TYPES[message.type].scope in caller.scopes and (types is None or message.type in types)


def event_view(message: Message) -> EventView:
    """The message as its user sees it."""
    return EventView(
        id=message.id, sequence=message.sequence, type=message.type, timestamp=message.time, data=message.data
    )
