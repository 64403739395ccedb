"""A user's messages as they come, over a WebSocket: the same feed as the event stream, one JSON message a frame."""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.entry import Call
from services.gateway.feeds import Feeds, Item
from services.gateway.origins import Origins
from services.gateway.reading import Asked, Ending, Reading, asked, ended, lost
from shared.errors import Problem
from shared.http import abort_of
from shared.problems import problem_response

# A client has nothing to say here; a library that sends a keep-alive of its own now and then may.
MOST_MESSAGES = 100
# RFC 6455 §7.4: 1001 going away, 1008 policy; from 4000 on they are ours.
CODES: Mapping[Ending, int] = {
    "server-closing": 1001,
    "too-many-messages": 1008,
    "token-expired": 4001,
    "session-ended": 4002,
    "not-granted": 4003,
}


class Sockets:
    """Opens WebSockets."""

    def __init__(self, feeds: Feeds, origins: Origins) -> None:
        self._feeds = feeds
        self._origins = origins

    async def open(self, call: Call) -> "Socket":
        """A WebSocket for the caller.

        Raises:
            Problem: 403 a page of an origin that may not, 422 a bad query, 429 too many streams.
        """
        self._origins.checked(call.header("origin"))
        return Socket(self._feeds, asked(call, self._feeds))

    async def plain(self, call: Call) -> Response:
        """The same address without an upgrade. Raises Problem(426)."""
        raise Problem(
            426,
            "upgrade-required",
            "Open this address as a WebSocket, or read /v1/live.",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )


class Socket:
    """One reader's WebSocket."""

    def __init__(self, feeds: Feeds, what: Asked) -> None:
        self._feeds = feeds
        self._what = what

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send messages until the client goes, its token, session or grant is over or the process ends."""
        reading = Reading(self._feeds, self._what, _Frames(send), abort_of(scope))

        async def watch() -> None:
            for _ in range(MOST_MESSAGES):
                if (await receive())["type"] == "websocket.disconnect":
                    reading.leave()
                    return
            reading.leave("too-many-messages")

        if (await receive())["type"] == "websocket.connect":
            with reading:
                await send({"type": "websocket.accept"})
                await reading.run(watch())


class _Frames:
    """Messages as frames of text. The protocol's own pings are the heartbeat."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def message(self, item: Item) -> None:
        """As in the protocol."""
        await self._send({"type": "websocket.send", "text": item.frame})

    async def beat(self, passed: int | None, *, waiting: bool = False) -> None:
        """As in the protocol, where there is something to tell."""
        if passed is not None:
            text = f'{{"id":{passed},"type":"stream.passed","data":{{}}}}'
            await self._send({"type": "websocket.send", "text": text})

    async def gap(self, first: int, last: int) -> None:
        """As in the protocol."""
        text = f'{{"id":{last},{lost(first, last)[1:].decode()}'
        await self._send({"type": "websocket.send", "text": text})

    async def end(self, reason: Ending) -> None:
        """As in the protocol."""
        await self._send({"type": "websocket.send", "text": ended(reason).decode()})
        await self._send({"type": "websocket.close", "code": CODES[reason], "reason": reason})


class Denying:
    """A WebSocket's application whose refusals the client gets as problem documents, before any handshake."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            answer = problem_response(problem, scope["path"])

            async def denied(message: Message) -> None:
                await send({**message, "type": f"websocket.{message['type']}"})

            # Starlette's responses say of themselves what they are by the scope.
            answer.headers["cache-control"] = "no-store"
            await answer({**scope, "type": "http"}, receive, denied)
