"""Failed attempts to sign in: counted in memory, written to the audit log after the answers."""

import asyncio
import logging

from msgspec.structs import replace

from services.auth import audit
from services.auth.audit import LINES, Attempt, Line
from shared.clock import Clock
from shared.documents import Conflict, Documents, Duplicate
from shared.errors import Unavailable
from shared.ids import derived_id

FLUSH_EVERY_S = 1.0
MOST_WAITING = 10_000

log = logging.getLogger(__name__)


class Attempts:
    """Counts failed attempts in memory and writes them after the answers: one line an hour, account and kind."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._waiting: dict[str, Line] = {}
        self._some = asyncio.Event()
        self._dropped = 0

    def note(self, kind: Attempt, user_id: str) -> None:
        """One more, in microseconds; of a user who exists."""
        now = self._clock()
        hour = now.replace(minute=0, second=0, microsecond=0)
        id = "aud_" + derived_id("attempts", user_id, kind, hour.isoformat())
        known = self._waiting.get(id)
        if known is None and len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        if known is None:
            asked = audit.origin()
            first = audit.new_line(kind, now, asked, actor=audit.actor_of(asked.caller), user_id=user_id)
            known = replace(first, id=id, count=0)
        self._waiting[id] = replace(known, last_at=now, count=known.count + 1)
        self._some.set()

    def forget(self, user_id: str) -> None:
        """Drop what waits of a user who is being erased."""
        self._waiting = {id: attempts for id, attempts in self._waiting.items() if attempts.user_id != user_id}

    async def run(self) -> None:
        """Write what waits, each second at most, until cancelled; then write the rest."""
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                if not await self._written():
                    self._some.set()
                await asyncio.sleep(FLUSH_EVERY_S)
        finally:
            await self._written()

    async def _written(self) -> bool:
        """Whether nothing is left over; what is left waits for the next turn."""
        if self._dropped:
            log.warning("%d attempts are not in the audit log: too many accounts at once", self._dropped)
            self._dropped = 0
        for id in list(self._waiting):
            attempts = self._waiting.pop(id, None)
            if attempts is None:
                continue  # forgotten meanwhile
            try:
                await self._add(attempts)
            except BaseException as error:
                self._merge(attempts)  # perhaps it was written: then it counts twice
                if isinstance(error, (Unavailable, Conflict, Duplicate)):
                    return False
                raise
        return True

    async def _add(self, attempts: Line) -> None:
        known = await self._documents.get(LINES, attempts.id)
        if known is not None:
            attempts = replace(known, last_at=attempts.last_at, count=known.count + attempts.count)
        await self._documents.put(LINES, attempts)

    def _merge(self, earlier: Line) -> None:
        later = self._waiting.get(earlier.id)
        if later is not None:
            earlier = replace(earlier, last_at=later.last_at, count=earlier.count + later.count)
        self._waiting[earlier.id] = earlier
