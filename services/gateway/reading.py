"""One reader's way through a user's messages, without a gap or a repeat: a cursor, and nothing that grows.

It sends what comes right after its cursor, passes over what is lower, and asks webhooks for what its window lacks.
How the messages go out, as server-sent events or as WebSocket frames, is the outlet's business.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self
from urllib.parse import parse_qsl

import msgspec

from services.gateway.entry import Call
from services.gateway.feeds import End, Feeds, Item, Waiter, Window
from services.gateway.permissions import SCOPE_OF, Reader
from services.gateway.proxy import Unanswered
from shared.access_tokens import ACCESS_LIFETIME_S
from shared.errors import Problem

HEARTBEAT_S = 15.0
AGAIN_S = 1.0
LONGEST_QUERY_FIELDS = 16
Ending = End | Literal["too-many-messages"]
DETAILS: dict[Ending, str] = {
    "server-closing": "Connect again and go on after the last message.",
    "token-expired": "Get a new token or ticket, connect again and go on after the last message.",
    "session-ended": "This session was ended. Sign in again.",
    "not-granted": "You may not read this any more.",
    "too-many-messages": "Send nothing but answers to pings, and go on after the last message.",
}


def ended(reason: Ending) -> bytes:
    """The last message of a stream, as JSON."""
    return msgspec.json.encode({"type": "stream.ended", "data": {"reason": reason, "detail": DETAILS[reason]}})


def lost(first: int, last: int) -> bytes:
    """The message that says which numbers are not kept any more, as JSON."""
    detail = "These messages are not kept any more. Read what they were about anew."
    return msgspec.json.encode({"type": "stream.gap", "data": {"first": first, "last": last, "detail": detail}})


class Outlet(Protocol):
    """How messages go out. Every method waits until the connection can take more."""

    async def message(self, item: Item) -> None:
        """Send a message."""
        ...

    async def beat(self, passed: int | None, *, waiting: bool = False) -> None:
        """Show that the stream lives; `passed`: everything up to this number is done with."""
        ...

    async def gap(self, first: int, last: int) -> None:
        """Say that the messages of these numbers are not kept any more."""
        ...

    async def end(self, reason: Ending) -> None:
        """Say why it ends, and end it."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a reader asks for: messages after `after`, None for what comes from now on, of `types`, None for all."""

    reader: Reader
    after: int | None
    types: frozenset[str] | None


def asked(call: Call, feeds: Feeds) -> Asked:
    """What the call asks for.

    Raises:
        Problem: 422 a bad Last-Event-ID or query, 429 too many streams.
    """
    values = _values(call.query)
    after = call.header("last-event-id") or ""
    number = _number(after, "Last-Event-ID") if after.strip() else _number(values.get("after", ""), "after")
    types = _types(values["types"]) if "types" in values else None
    feeds.check_room(call.caller)
    # A key may have no end: its reader has to come again as one with a token has to.
    expires_at = min(call.expires_at, feeds.clock() + ACCESS_LIFETIME_S)
    return Asked(Reader(call.caller, expires_at, call.grant_revision, call.api_key_id), number, types)


def _values(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=LONGEST_QUERY_FIELDS)
    except ValueError as error:
        raise Problem(422, "invalid-request", "The query cannot be read. Use ?types=…&after=….") from error
    values = dict(pairs)
    if len(values) != len(pairs) or not values.keys() <= {"types", "after"}:
        raise Problem(422, "invalid-request", "The query takes `types` and `after`, once each, and nothing else.")
    return values


def _number(text: str, name: str) -> int | None:
    if not text:
        return None
    if not text.strip().isdecimal() or not text.isascii() or len(text) > 15:
        raise Problem(422, "invalid-request", f"`{name}` must be the id of a message of this stream.")
    return int(text)


def _types(text: str) -> frozenset[str]:
    types = frozenset(text.split(","))
    if not types <= SCOPE_OF.keys():
        known = ", ".join(SCOPE_OF)
        raise Problem(422, "invalid-request", f"`types` takes names with commas between them, of: {known}.")
    return types


class Reading:
    """A reader at work, within its `with`; `leave` when its client is gone. `cut` ends the connection at once."""

    def __init__(self, feeds: Feeds, what: Asked, outlet: Outlet, cut: Callable[[], None]) -> None:
        self._feeds = feeds
        self._reader = what.reader
        self._types = what.types
        self._outlet = outlet
        self._waiter = Waiter(what.reader, cut)
        self._window = Window()
        self._cursor = what.after
        # The last number that the client knows of, which it would go on after.
        self._told = what.after
        self._resuming = what.after is not None
        self._begun = feeds.begun
        self._gone: Ending | Literal["left"] | None = None

    def __enter__(self) -> Self:
        """Take a place among the user's readers. Raises Problem(429) where there is none."""
        # Looked at once more: many may have been let in at the door at the same time.
        self._feeds.check_room(self._reader.caller)
        self._window = self._feeds.join(self._waiter)
        return self

    def __exit__(self, *_: object) -> None:
        self._feeds.leave(self._window, self._waiter)

    async def run(self, watching: Coroutine[None, None, None]) -> None:
        """Send until the client goes, the reader may not go on, or the process ends.

        `watching` runs beside it and calls `leave`.
        """
        watcher = asyncio.create_task(watching)
        try:
            reason = await self._serve(self._window)
            if reason is not None:
                await self._sent(self._outlet.end(reason))
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    def leave(self, reason: Ending | None = None) -> None:
        """The client is gone or, with a `reason`, has to go."""
        self._gone = reason or "left"
        self._waiter.woken.set()

    def _over(self) -> Ending | Literal["left"] | None:
        return self._gone or self._feeds.ended(self._reader)

    async def _serve(self, window: Window) -> Ending | None:
        """Send until it is over; why, None where nobody is there to be told."""
        while (over := self._over()) is None:
            self._waiter.woken.clear()
            try:
                await self._catch_up(window)
            except (Unanswered, ValueError):
                # webhooks is away; the stream stays open and goes on where it was.
                await self._sent(self._outlet.beat(None, waiting=True))
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._waiter.woken.wait()
            except TimeoutError:
                passed = self._cursor if self._cursor != self._told else None
                await self._sent(self._outlet.beat(passed))
                self._told = self._cursor
        return None if over == "left" else over

    def _wait_s(self) -> float:
        return max(0.0, min(HEARTBEAT_S, self._reader.expires_at - self._feeds.clock()))

    async def _catch_up(self, window: Window) -> None:
        """Send everything after the cursor, from the window while it has the next one, else from webhooks."""
        if self._cursor is None:
            self._cursor = self._told = await self._last_sequence()
        if self._begun != self._feeds.begun:
            self._begun, self._resuming = self._feeds.begun, True
        while self._over() is None:
            item = window.items.get(self._cursor + 1)
            if item is not None:
                await self._message(item)
            elif (not self._resuming and window.highest <= self._cursor) or not await self._fill():
                return

    async def _fill(self) -> bool:
        """Send what webhooks has stored after the cursor; False when that was nothing."""
        cursor = self._cursor or 0
        answer = await self._feeds.fetch(self._reader.caller, cursor)
        events: list[dict[str, Any]] = answer["events"]
        if "last_sequence" in answer and answer["last_sequence"] < cursor:
            # A made-up number; waiting for it would drop everything until then.
            self._cursor = self._told = int(answer["last_sequence"])
        if answer.get("first_sequence", 0) > cursor + 1:
            # What was in between is not kept any more: nobody can send it, and waiting for it would never end.
            self._cursor = self._told = int(answer["first_sequence"]) - 1
            await self._sent(self._outlet.gap(cursor + 1, self._cursor))
        for event in events:
            if self._over() is not None:
                return True
            if event["sequence"] != (self._cursor or 0) + 1:
                raise ValueError("the stored sequence has a gap")
            await self._message(Item(event["sequence"], event["type"], event["timestamp"], event["data"]))
        self._resuming = self._resuming and bool(answer["has_more"])
        return bool(events)

    async def _last_sequence(self) -> int:
        """Where the user's messages end now, for a reader that wants only what comes."""
        after = 0
        while True:
            answer = await self._feeds.fetch(self._reader.caller, after, 1000)
            if "last_sequence" in answer:
                return int(answer["last_sequence"])
            after = answer["events"][-1]["sequence"] if answer["events"] else after
            if not answer["has_more"]:
                return after

    async def _message(self, item: Item) -> None:
        wanted = self._types is None or item.type in self._types
        if wanted and self._feeds.permissions.show(self._reader, item.type):
            await self._sent(self._outlet.message(item))
            self._told = item.sequence
        self._cursor = item.sequence

    async def _sent(self, sending: Awaitable[None]) -> None:
        """Wait until it is sent; meanwhile it is known since when the client has taken nothing."""
        self._waiter.sending_since = time.monotonic()
        try:
            await sending
        finally:
            self._waiter.sending_since = None
