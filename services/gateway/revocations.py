"""The sessions that were ended, kept in memory while an access token of theirs may still be good."""

import time
from collections.abc import Callable

from shared.errors import Unavailable
from shared.events.auth import SessionRevoked
from shared.events.event import Event


class Revocations:
    """The sessions that were ended, each until its last access token is over; fed by `auth.revocations.v1`.

    An entry lasts 16 min and takes a sign-in, whose password costs auth 20 ms of a core: so many there are at most.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        # Erased users' sessions alone: which erasure.
        self._erasures: dict[str, str] = {}
        self._told: list[Callable[[SessionRevoked], None]] = []
        self._caught_up = False

    def tell(self, told: Callable[[SessionRevoked], None]) -> None:
        """Call `told` with every session that is ended from now on."""
        self._told.append(told)

    async def take(self, _: str, event: Event | None) -> None:
        """A record of the topic; one of a session whose tokens are over says nothing any more."""
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            over = next(iter(self._until))
            del self._until[over]
            self._erasures.pop(over, None)
        if isinstance(event, SessionRevoked) and (until := event.expires_at.timestamp()) > now:
            self._until[event.session_id] = until
            if event.erasure_id is not None:
                self._erasures[event.session_id] = event.erasure_id
            for told in self._told:
                told(event)

    def cover(self, session_id: str | None) -> bool:
        """Whether the session was ended."""
        return session_id in self._until

    def erasure(self, session_id: str | None) -> str | None:
        """The id of the erasure that ended the session; None where something else did, or nothing."""
        return self._erasures.get(session_id) if session_id is not None else None

    def caught_up(self) -> None:
        """Everything that was in the topic at the start has been taken."""
        self._caught_up = True

    async def ready(self) -> None:
        """Raise Unavailable until the sessions that ended before the start are known."""
        if not self._caught_up:
            raise Unavailable("broker")
