"""A user's messages as they come, over SSE, without a gap or a repeat.

`webhooks.messages.v1` feeds the latest messages of connected users into one small window each. A reader holds only
its cursor: it sends cursor + 1, drops what is lower, and asks webhooks for what its window no longer has.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from services.gateway.entry import Call
from services.gateway.permissions import SCOPE_OF, Permissions, Reader
from services.gateway.proxy import Proxy, Unanswered
from shared.errors import Problem
from shared.events import Event, MessagePublished
from shared.identity import ACCESS_LIFETIME_S, Caller
from shared.metrics import METRICS

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
AGAIN_S = 1.0
WINDOW = 256
PAGE = 200
MAX_READERS_PER_USER = 16
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

NOT_GRANTED = b"""event: stream.ended
data: {"type":"stream.ended","data":{"reason":"not-granted","detail":"You may not read this any more."}}

"""

FetchAfter = Callable[[Caller, int, int], Awaitable[dict[str, Any]]]


class Window:
    """The latest messages of one user by sequence, as type and SSE text, and who waits for the next."""

    def __init__(self) -> None:
        self.chunks: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self.highest = 0
        # Each with the partner that it is, None for the user's own apps.
        self.readers: dict[asyncio.Event, str | None] = {}

    def add(self, sequence: int, message_type: str, chunk: bytes) -> None:
        """Take a message and wake the readers."""
        self.chunks[sequence] = message_type, chunk
        self.highest = max(self.highest, sequence)
        if len(self.chunks) > WINDOW:
            self.chunks.popitem(last=False)
        self.wake()

    def count(self, partner_id: str | None) -> int:
        """How many streams a partner has open for the user; None = the user's own apps."""
        return sum(1 for one in self.readers.values() if one == partner_id)

    def wake(self) -> None:
        """Let every reader look."""
        for reader in self.readers:
            reader.set()


class Live:
    """All open streams of this process."""

    def __init__(
        self,
        fetch_after: FetchAfter,
        permissions: Permissions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch_after = fetch_after
        self.permissions = permissions
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._ending = False
        self.feed = 0
        permissions.tell(self._look)

    def connected(self, user_id: str) -> bool:
        """Whether the user has a stream open here."""
        return user_id in self._windows

    async def take(self, event: Event) -> None:
        """A message from the topic; those of users who are not connected are passed over."""
        if isinstance(event, MessagePublished) and (window := self._windows.get(event.user_id)) is not None:
            at = event.message_time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            window.add(event.sequence, event.message_type, _chunk(event.sequence, event.message_type, at, event.data))

    def fed_from_here(self) -> None:
        """The topic is read from now on: let every reader look for what came before."""
        self.feed += 1
        self._look(None)

    def end(self) -> None:
        """Let every stream end, because the process does."""
        self._ending = True
        self._look(None)

    async def open(self, call: Call) -> "Stream":
        """A stream for the caller, to be served as an ASGI application.

        Raises:
            Problem: 422 a bad Last-Event-ID, 429 too many streams.
        """
        window = self._windows.get(call.caller.user_id or "")
        # Each partner for itself, or one could leave the user's own apps no stream.
        if window is not None and window.count(call.caller.partner_id) >= MAX_READERS_PER_USER:
            raise Problem(
                429,
                "too-many-streams",
                f"Close one of your {MAX_READERS_PER_USER} open streams first.",
                headers={"Retry-After": "15"},
            )
        cursor = _last_event_id(call.header("last-event-id"))
        # A key may have no end, and may be taken back: its reader has to come again as one with a token has to.
        expires_at = min(call.expires_at, self._clock() + ACCESS_LIFETIME_S)
        return Stream(self, Reader(call.caller, expires_at, call.grant_revision), cursor)

    def join(self, caller: Caller) -> tuple[Window, asyncio.Event]:
        """The user's window, from now on fed, and the reader's own wake-up."""
        window = self._windows.setdefault(caller.user_id or "", Window())
        reader = asyncio.Event()
        window.readers[reader] = caller.partner_id
        METRICS.live_streams.inc()
        return window, reader

    def leave(self, user_id: str, window: Window, reader: asyncio.Event) -> None:
        """Forget a reader, and the window with its last one."""
        window.readers.pop(reader, None)
        METRICS.live_streams.dec()
        if not window.readers and self._windows.get(user_id) is window:
            del self._windows[user_id]

    def over(self, reader: Reader) -> bool:
        """Whether a stream has to end: the process does, its token has expired, or what it reads by was ended."""
        return self._ending or self._clock() >= reader.expires_at or self.permissions.ended(reader)

    def left_s(self, expires_at: float) -> float:
        """How long a reader may wait for the next message."""
        return max(0.0, min(HEARTBEAT_S, expires_at - self._clock()))

    async def fetch(self, caller: Caller, after: int, limit: int = PAGE) -> dict[str, Any]:
        """Stored messages above `after`. Raises `Unanswered`."""
        return await self._fetch_after(caller, after, limit)

    def _look(self, user_id: str | None) -> None:
        """Let the user's readers look whether they may go on; None = everybody's."""
        for window in self._windows.values() if user_id is None else filter(None, [self._windows.get(user_id)]):
            window.wake()


class Stream:
    """One reader's stream."""

    def __init__(self, live: Live, reader: Reader, cursor: int | None) -> None:
        self._live = live
        self._reader = reader
        self._cursor = cursor
        self._resuming = cursor is not None
        self._gone = False
        self._feed = live.feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send messages until the client goes, its token, session or grant is over or the process ends."""
        user_id = self._reader.caller.user_id or ""
        window, reader = self._live.join(self._reader.caller)
        watching = asyncio.create_task(self._watch(receive, reader))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._text(send, b"retry: 1000\n\n")
            await self._serve(window, reader, send)
            if not self._gone:
                last = b": end\n\n" if self._live.permissions.granted(self._reader) else NOT_GRANTED + b": end\n\n"
                await send({"type": "http.response.body", "body": last})
        finally:
            self._live.leave(user_id, window, reader)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _serve(self, window: Window, reader: asyncio.Event, send: Send) -> None:
        while not self._gone and not self._over():
            reader.clear()
            try:
                await self._catch_up(window, send)
                wait_s = self._live.left_s(self._reader.expires_at)
            except (Unanswered, ValueError):
                # webhooks is away; the stream stays open and goes on where it was.
                await self._text(send, b": waiting\n\n")
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                async with asyncio.timeout(wait_s):
                    await reader.wait()
            except TimeoutError:
                await self._text(send, b": still here\n\n")

    def _over(self) -> bool:
        return self._live.over(self._reader)

    async def _catch_up(self, window: Window, send: Send) -> None:
        """Send everything after the cursor, from the window while it has the next one, else from webhooks."""
        if self._cursor is None:
            self._cursor = await self._last_sequence()
        if self._feed != self._live.feed:
            self._feed, self._resuming = self._live.feed, True
        while not self._over() and not self._gone:
            next_one = window.chunks.get(self._cursor + 1)
            if next_one is not None:
                await self._message(send, *next_one)
                self._cursor += 1
            elif self._resuming or window.highest > self._cursor:
                if not await self._fill(send):
                    return
            else:
                return

    async def _fill(self, send: Send) -> bool:
        """Send what webhooks has stored after the cursor; False when that was nothing."""
        answer = await self._live.fetch(self._reader.caller, self._cursor or 0)
        events: list[dict[str, Any]] = answer["events"]
        if "last_sequence" in answer and answer["last_sequence"] < (self._cursor or 0):
            # A made-up Last-Event-ID; waiting for it would drop everything until then.
            self._cursor = int(answer["last_sequence"])
        for event in events:
            if event["sequence"] != (self._cursor or 0) + 1:
                raise ValueError("the stored sequence has a gap")
            chunk = _chunk(event["sequence"], event["type"], event["timestamp"], event["data"])
            await self._message(send, event["type"], chunk)
            self._cursor = event["sequence"]
        self._resuming = self._resuming and bool(answer["has_more"])
        return bool(events)

    async def _last_sequence(self) -> int:
        """Where the user's messages end now, for a reader that wants only what comes."""
        after = 0
        while True:
            answer = await self._live.fetch(self._reader.caller, after, 1000)
            if "last_sequence" in answer:
                return int(answer["last_sequence"])
            after = answer["events"][-1]["sequence"] if answer["events"] else after
            if not answer["has_more"]:
                return after

    async def _message(self, send: Send, message_type: str, chunk: bytes) -> None:
        if self._live.permissions.show(self._reader, message_type):
            await self._text(send, chunk)

    async def _text(self, send: Send, text: bytes) -> None:
        await send({"type": "http.response.body", "body": text, "more_body": True})

    async def _watch(self, receive: Receive, reader: asyncio.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        reader.set()


def fetch_from(proxy: Proxy) -> FetchAfter:
    """Reads stored messages from webhooks: all that the user has, because the numbers must have no gap."""

    async def fetch(caller: Caller, after: int, limit: int) -> dict[str, Any]:
        user = Caller(caller.user_id, scopes=frozenset({"live:read", *SCOPE_OF.values()}))
        answer = await proxy.ask("webhooks", "GET", f"/v1/events?after={after}&limit={limit}", user)
        if answer.status != 200:
            raise Unanswered("webhooks")
        return answer.json()

    return fetch


def _last_event_id(header: str | None) -> int | None:
    if header is None or not header.strip():
        return None
    if not header.strip().isdecimal() or len(header) > 15:
        raise Problem(422, "invalid-request", "`Last-Event-ID` must be the id of an event of this stream.")
    return int(header)


def _chunk(sequence: int, type: str, timestamp: str, data: dict[str, Any]) -> bytes:
    body = msgspec.json.encode({"type": type, "timestamp": timestamp, "data": data})
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (sequence, type.encode(), body)
