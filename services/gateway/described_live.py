"""Live streams and their tickets as OpenAPI sees them; nothing here runs."""

import re
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query
from pydantic import BaseModel, Field

from services.gateway import routes
from services.gateway.permissions import SCOPE_OF
from shared import problems


class TicketIssued(BaseModel):
    """Good for one live stream: `?ticket=` at its address instead of the header `Authorization`."""

    ticket: str
    expires_at: str = Field(
        json_schema_extra={"format": "date-time"},
        description="Until when it can be used; the stream lasts as with the token it is from",
    )


EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
UPGRADE: dict[int | str, dict[str, Any]] = {
    200: {"description": "Never: 101 switches to the WebSocket"},
    426: {
        "description": "Without an upgrade to a WebSocket",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    },
}
ONE_TYPE = f"({'|'.join(re.escape(name) for name in SCOPE_OF)})"
After = Annotated[
    int | None, Query(ge=0, lt=10**15, description="The same where no header can be sent: go on after this message")
]
Types = Annotated[
    str | None,
    Query(
        description="Only messages of these types, with commas between them",
        pattern=f"^{ONE_TYPE}(,{ONE_TYPE})*$",
        examples=["day.updated,receipts.completed"],
    ),
]
OneTicket = Annotated[
    str | None, Query(description="Of `POST /v1/live/tickets`, instead of the header `Authorization`", max_length=2048)
]


def add(app: FastAPI) -> None:
    """Add the routes to the document's application."""
    app.add_api_route(
        routes.LIVE.path, live, methods=["GET"], tags=["events"], responses=EVENT_STREAM, response_model=None
    )
    app.add_api_route(
        routes.LIVE_SOCKET.path, live_socket, methods=["GET"], tags=["events"], responses=UPGRADE, response_model=None
    )
    app.add_api_route(routes.TICKETS.path, ticket, methods=["POST"], status_code=201, tags=["events"])


async def live(
    last_event_id: Annotated[int | None, Header(description="Go on after this event, without gap or repeat")] = None,
    after: After = None,
    types: Types = None,
    ticket: OneTicket = None,
) -> None:
    """The user's messages as they come (SSE). `id` is the user's sequence, `data` the message.

    The last event is `stream.ended` with the reason; `stream.gap` says that messages are not kept any more.
    """
    raise NotImplementedError


async def live_socket(after: After = None, types: Types = None, ticket: OneTicket = None) -> None:
    """The same over a WebSocket: one JSON message a frame, with the user's sequence as its `id`.

    Close codes: 1001 the server goes, 1008 you sent too much, 4001 the token expired, 4002 the session was ended,
    4003 not granted any more.
    """
    raise NotImplementedError


async def ticket() -> TicketIssued:
    """A ticket for one live stream of a browser, which can send no headers with it; it has to be used within 30 s."""
    raise NotImplementedError
