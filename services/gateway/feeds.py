"""The messages of connected users as `webhooks.messages.v1` brings them, one small window each, and who reads them.

A window is all that is kept, however many read it and however slowly: what it no longer has is asked of webhooks.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from services.gateway.permissions import SCOPE_OF, Permissions, Reader
from services.gateway.proxy import Proxy, Unanswered
from shared.callers import Caller
from shared.errors import Problem
from shared.events.event import Event
from shared.events.webhooks import MessagePublished
from shared.metrics import METRICS
from shared.redaction import whereabouts

logger = logging.getLogger(__name__)

# Of each user that is connected. Who is further behind reads from webhooks.
WINDOW = 32
# A reader that is behind holds one page of stored messages at most.
PAGE = 50
MAX_READERS_PER_USER = 16
LOOK_EVERY_S = 1.0
# A key's end is told by no topic, and its streams are to end within 5 s of it.
LOOK_AT_KEYS_EVERY_S = 2.0
# Nobody looks meanwhile whether the reader may go on.
FETCH_S = 3.0
# A reader that takes nothing for so long is cut off, and one that has to go sooner: the last word would not reach it.
STALLED_S = 30.0
STALLED_AT_THE_END_S = 2.0

FetchAfter = Callable[[Caller, int, int], Awaitable[dict[str, Any]]]
GoodKeys = Callable[[str], Awaitable[frozenset[str]]]
End = Literal["server-closing", "token-expired", "session-ended", "not-granted"]


class Item:
    """One message of a user; its texts are made once for all who read it."""

    __slots__ = ("_event", "_frame", "body", "sequence", "type")

    def __init__(self, sequence: int, type: str, timestamp: str, data: dict[str, Any]) -> None:
        self.sequence = sequence
        self.type = type
        self.body = msgspec.json.encode({"type": type, "timestamp": timestamp, "data": data})
        self._event: bytes | None = None
        self._frame: str | None = None

    @property
    def event(self) -> bytes:
        """As a server-sent event."""
        if self._event is None:
            self._event = b"id: %d\nevent: %s\ndata: %s\n\n" % (self.sequence, self.type.encode(), self.body)
        return self._event

    @property
    def frame(self) -> str:
        """As the text of a WebSocket's frame: the same JSON with the sequence as its `id`."""
        if self._frame is None:
            self._frame = f'{{"id":{self.sequence},{self.body[1:].decode()}'
        return self._frame


class Window:
    """The latest messages of one user by sequence, and who waits for the next."""

    def __init__(self) -> None:
        self.items: OrderedDict[int, Item] = OrderedDict()
        self.highest = 0
        self.readers: set[Waiter] = set()

    def add(self, item: Item) -> None:
        """Take a message and wake the readers."""
        self.items[item.sequence] = item
        self.highest = max(self.highest, item.sequence)
        if len(self.items) > WINDOW:
            self.items.popitem(last=False)
        self.wake()

    def count(self, partner_id: str | None) -> int:
        """How many streams a partner has open for the user; None = the user's own apps."""
        return sum(1 for one in self.readers if one.reader.caller.partner_id == partner_id)

    def wake(self) -> None:
        """Let every reader look."""
        for waiter in self.readers:
            waiter.woken.set()


class Waiter:
    """A reader at its window: how it is woken, and since when (monotonic clock) it has not taken what is being sent.

    `cut` ends its connection at once, whatever has still to be sent.
    """

    __slots__ = ("cut", "reader", "sending_since", "woken")

    def __init__(self, reader: Reader, cut: Callable[[], None]) -> None:
        self.reader = reader
        self.cut = cut
        self.woken = asyncio.Event()
        self.sending_since: float | None = None


class Feeds:
    """All windows of this process, and their readers."""

    def __init__(
        self,
        fetch_after: FetchAfter,
        permissions: Permissions,
        good_keys: GoodKeys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`good_keys` gives the ids of the API keys of a partner that are good now, or raises Unanswered."""
        self._fetch_after = fetch_after
        self._good_keys = good_keys
        self._windows: dict[str, Window] = {}
        self._closing = False
        self._ended_keys: frozenset[str] = frozenset()
        self.permissions = permissions
        self.clock = clock
        # Counts how often the topic began to be read: what came before each time has to be looked up.
        self.begun = 0
        permissions.tell(self._look)

    def connected(self, user_id: str) -> bool:
        """Whether the user has a stream open here."""
        return user_id in self._windows

    async def take(self, event: Event) -> None:
        """A message from the topic; those of users who are not connected are passed over."""
        if isinstance(event, MessagePublished) and (window := self._windows.get(event.user_id)) is not None:
            at = event.message_time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            window.add(Item(event.sequence, event.message_type, at, event.data))

    def fed_from_here(self) -> None:
        """The topic is read from now on: let every reader look for what came before."""
        self.begun += 1
        self._look(None)

    def end(self) -> None:
        """Let every stream end, because the process does."""
        self._closing = True
        self._look(None)

    def check_room(self, caller: Caller) -> None:
        """Let one more stream be opened, or raise Problem(429). Each partner for itself, or one could use up all."""
        window = self._windows.get(caller.user_id or "")
        if window is not None and window.count(caller.partner_id) >= MAX_READERS_PER_USER:
            raise Problem(
                429,
                "too-many-streams",
                f"Close one of your {MAX_READERS_PER_USER} open streams first.",
                headers={"Retry-After": "15"},
            )

    def join(self, waiter: Waiter) -> Window:
        """The user's window, from now on fed."""
        window = self._windows.setdefault(waiter.reader.caller.user_id or "", Window())
        window.readers.add(waiter)
        METRICS.live_streams.inc()
        return window

    def leave(self, window: Window, waiter: Waiter) -> None:
        """Forget a reader, and the window with its last one."""
        window.readers.discard(waiter)
        METRICS.live_streams.dec()
        user_id = waiter.reader.caller.user_id or ""
        if not window.readers and self._windows.get(user_id) is window:
            del self._windows[user_id]

    def ended(self, reader: Reader) -> End | None:
        """Why a stream has to end now, None while it may go on."""
        if self._closing:
            return "server-closing"
        # A grant that is revoked ends its sessions too, and what is told must not depend on which is heard of first.
        if not self.permissions.granted(reader):
            return "not-granted"
        if self.permissions.ended(reader):
            return "session-ended"
        over = self.clock() >= reader.expires_at or reader.api_key_id in self._ended_keys
        return "token-expired" if over else None

    async def fetch(self, caller: Caller, after: int, limit: int = PAGE) -> dict[str, Any]:
        """Stored messages above `after`. Raises `Unanswered`."""
        try:
            async with asyncio.timeout(FETCH_S):
                return await self._fetch_after(caller, after, limit)
        except TimeoutError as error:
            raise Unanswered("webhooks") from error

    async def watch(self) -> None:
        """Cut off readers that do not take what is sent to them, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.cut_stalled(time.monotonic())

    def cut_stalled(self, now: float) -> None:
        """Cut off those that have stalled too long at `now`, on the monotonic clock."""
        for window in tuple(self._windows.values()):
            for waiter in tuple(window.readers):
                since = waiter.sending_since
                if since is None or now - since < STALLED_AT_THE_END_S:
                    continue
                if now - since >= STALLED_S or self.ended(waiter.reader):
                    METRICS.live_streams_cut.inc()
                    waiter.cut()

    async def watch_keys(self) -> None:
        """End the streams of API keys that have ended, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AT_KEYS_EVERY_S)
            try:
                await self.look_at_keys()
            except Exception as error:
                # A defect must not end the looking: keys would be taken back, and their streams go on.
                logger.error("a look at keys failed: %s", whereabouts(error))

    async def look_at_keys(self) -> None:
        """End the streams of API keys that have ended; while auth is silent, those known to have."""
        in_use: dict[str, set[str]] = {}
        for window in self._windows.values():
            for reader in (waiter.reader for waiter in window.readers):
                if reader.api_key_id is not None:
                    in_use.setdefault(reader.caller.partner_id or "", set()).add(reader.api_key_id)
        ended: set[str] = set()
        for partner_id, keys in in_use.items():
            try:
                ended |= keys - await self._good_keys(partner_id)
            except Unanswered:
                ended |= keys & self._ended_keys
        self._ended_keys = frozenset(ended)
        if ended:
            self._look(None)

    def _look(self, user_id: str | None) -> None:
        """Let the user's readers look whether they may go on; None = everybody's."""
        for window in self._windows.values() if user_id is None else filter(None, [self._windows.get(user_id)]):
            window.wake()


def fetch_from(proxy: Proxy) -> FetchAfter:
    """Reads stored messages from webhooks: all that the user has, because the numbers must have no gap."""

    async def fetch(caller: Caller, after: int, limit: int) -> dict[str, Any]:
        user = Caller(caller.user_id, scopes=frozenset({"live:read", *SCOPE_OF.values()}))
        answer = await proxy.ask("webhooks", "GET", f"/v1/events?after={after}&limit={limit}", user)
        if answer.status != 200:
            raise Unanswered("webhooks")
        return answer.json()

    return fetch
