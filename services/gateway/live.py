"""A user's messages as they come, as server-sent events."""

from starlette.types import Receive, Scope, Send

from services.gateway.entry import Call
from services.gateway.feeds import Feeds, Item
from services.gateway.origins import Origins
from services.gateway.reading import Asked, Ending, Reading, asked, ended, lost
from shared.http import abort_of

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
RETRY_MS = 1000


class Live:
    """Opens event streams."""

    def __init__(self, feeds: Feeds, origins: Origins) -> None:
        self._feeds = feeds
        self._origins = origins

    async def open(self, call: Call) -> "Stream":
        """A stream for the caller, to be served as an ASGI application.

        Raises:
            Problem: 403 a page of an origin that may not, 422 a bad Last-Event-ID or query, 429 too many streams.
        """
        origin = self._origins.checked(call.header("origin"))
        return Stream(self._feeds, asked(call, self._feeds), self._origins.headers(origin))


class Stream:
    """One reader's event stream."""

    def __init__(self, feeds: Feeds, what: Asked, headers: list[tuple[bytes, bytes]]) -> None:
        self._feeds = feeds
        self._what = what
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send messages until the client goes, its token, session or grant is over or the process ends."""
        outlet = _Events(send)
        reading = Reading(self._feeds, self._what, outlet, abort_of(scope))

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            reading.leave()

        with reading:
            await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *self._headers]})
            await outlet.text(b"retry: %d\n\n" % RETRY_MS)
            await reading.run(watch())


class _Events:
    """Messages as the text of an event stream."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def text(self, text: bytes) -> None:
        """Send a part of the stream."""
        await self._send({"type": "http.response.body", "body": text, "more_body": True})

    async def message(self, item: Item) -> None:
        """As in the protocol."""
        await self.text(item.event)

    async def beat(self, passed: int | None, *, waiting: bool = False) -> None:
        """As in the protocol. An event without data is none, but its id counts: it moves on where to resume."""
        id = b"" if passed is None else b"id: %d\n" % passed
        await self.text(b": %s\n%s\n" % (b"waiting" if waiting else b"still here", id))

    async def gap(self, first: int, last: int) -> None:
        """As in the protocol."""
        await self.text(b"id: %d\nevent: stream.gap\ndata: %s\n\n" % (last, lost(first, last)))

    async def end(self, reason: Ending) -> None:
        """As in the protocol."""
        last = b"event: stream.ended\ndata: %s\n\n: end\n\n" % ended(reason)
        await self._send({"type": "http.response.body", "body": last})
