"""Every public message gets its place: a user's messages count from 1, without a gap or a repeat."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

from services.webhooks.public import PublicMessage
from services.webhooks.records import MESSAGES, Message
from shared.clock import Clock
from shared.documents import Conflict, Documents, Duplicate, Put
from shared.errors import Unavailable
from shared.telemetry import trace_id_of

# Processes meet at a user only where they read different topics: far fewer collisions in a row than this.
MAX_COLLISIONS = 200
# Users whose last number is remembered: some 10 MB.
REMEMBERED = 50_000
# Clocks that are kept in step lie no further apart. What is stored later says no earlier time, so that replays, which
# go by time, keep to the numbers; a clock that is wrong drags nobody along.
APART = timedelta(seconds=1)

Numbered = dict[str, Message]
# A message to be numbered, and the traceparent that its consequences continue.
Told = tuple[PublicMessage, str | None]
# A user's last number, and when its message was stored.
Place = tuple[int, datetime]
NOWHERE: Place = (0, datetime(1970, 1, 1, tzinfo=UTC))


class Numbering:
    """Numbers the messages of a turn in one write.

    Numbers are tried, not reserved: one that is taken is refused by the unique index on (user, sequence), a message
    that is known by its id. So a last number that is too low costs a second look, never a gap or a repeat, and the one
    that this process wrote last serves as well as the stored one: messages are not deleted one by one, hence it is
    never too high.
    """

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._last: OrderedDict[str, Place] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def number(self, turn: Sequence[Told]) -> list[Message]:
        """Each message once, in the turn's order: new ones behind their user's last, known ones as they are stored.

        Raises:
            Unavailable: the database does not answer, or others are always faster at a number.
        """
        wanted: dict[str, Told] = {}
        for public, traceparent in turn:
            wanted.setdefault(public.message_id, (public, traceparent))
        async with self._alone({public.user_id for public, _ in wanted.values()}):
            stored: Numbered = {}
            for _ in range(MAX_COLLISIONS):
                missing = [told for id, told in wanted.items() if id not in stored]
                try:
                    stored |= await self._write(missing)
                    return [stored[id] for id in wanted]
                except (Conflict, Duplicate):
                    # SQLite has written none of them, MongoDB those before the one that was refused.
                    stored |= await self._known(missing)
        # Later, not dead letters: the messages are good, a user's sequence is only crowded.
        raise Unavailable("database")

    async def last_sequence(self, user_id: str) -> int:
        """The user's newest stored sequence; 0 before the first message."""
        return (await self._place(user_id))[0]

    async def _place(self, user_id: str) -> Place:
        page = await self._documents.find(MESSAGES, "sequence", (user_id,), descending=True, limit=1)
        return (page.documents[0].sequence, page.documents[0].stored_at) if page.documents else NOWHERE

    async def _write(self, new: Sequence[Told]) -> Numbered:
        """Store all of them, each user's in their order. Raises Conflict for a known one, Duplicate for a taken number.

        A write that ends early has so written a user's first messages, and no number above one that is missing.
        """
        last = {user: self._last[user] for public, _ in new if (user := public.user_id) in self._last}
        unknown = list({public.user_id for public, _ in new} - set(last))
        found = await asyncio.gather(*(self._place(user_id) for user_id in unknown))
        last |= zip(unknown, found, strict=True)
        # The clock comes after the numbers: whoever has the next one looks at it later, as `Store.apply_grant` needs.
        now = self._clock()
        messages: list[Message] = []
        for public, traceparent in new:
            sequence, before = last[public.user_id]
            place = sequence + 1, before if now < before <= now + APART else now
            messages.append(_placed(public, traceparent, *place))
            last[public.user_id] = place
        stored = await self._documents.put_many([Put(MESSAGES, message) for message in messages])
        self._remember(last)
        return {message.id: message for message in stored if isinstance(message, Message)}

    async def _known(self, told: Sequence[Told]) -> Numbered:
        """Those of them that are stored; what was remembered of their users is forgotten."""
        for public, _ in told:
            self._last.pop(public.user_id, None)
        found = await self._documents.get_many(MESSAGES, [public.message_id for public, _ in told])
        return {message.id: message for message in found if message is not None}

    def _remember(self, last: dict[str, Place]) -> None:
        for user_id, place in last.items():
            self._last[user_id] = place
            self._last.move_to_end(user_id)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)

    @asynccontextmanager
    async def _alone(self, user_ids: Iterable[str]) -> AsyncGenerator[None]:
        """Keep this process's other turns from these users; taken in one order by all, so nobody waits in a circle."""
        held: list[asyncio.Lock] = []
        try:
            for user_id in sorted(user_ids):
                lock = self._locks.setdefault(user_id, asyncio.Lock())
                await lock.acquire()
                held.append(lock)
            yield
        finally:
            for lock in held:
                lock.release()


def _placed(public: PublicMessage, traceparent: str | None, sequence: int, stored_at: datetime) -> Message:
    trace_id = trace_id_of(traceparent) or ""
    return Message(
        id=public.message_id,
        user_id=public.user_id,
        sequence=sequence,
        type=public.type,
        time=public.time,
        stored_at=stored_at,
        trace_id=trace_id,
        traceparent=traceparent,
        data=public.numbered(sequence, trace_id),
    )
