"""How fast one endpoint gets its deliveries: a window that grows with success, a token bucket, a circuit breaker.

Times are seconds of one clock. A clock that was set back closes nothing for longer than `PROBE_LONGEST_S`.
"""

from dataclasses import dataclass

FIRST_WINDOW = 2
LARGEST_WINDOW = 32
# So many failures in a row, and one delivery at a time is tried, after pauses of 1 s doubling to 60 s.
BREAKS_AFTER = 5
PROBE_FIRST_S = 1.0
PROBE_LONGEST_S = 60.0
# What is due is tried within `PROBE_LONGEST_S`: a lane that fails and is silent for so long has nothing left to do, for
# now or because its endpoint is gone.
SILENT_S = 600.0
# A rate is filled up to this part of it, so that deliveries which take unequally long to leave stay below it too.
FILLED = 0.95
# So many seconds' worth may go together: as long as a process may take to look again. In any second, these and what is
# filled meanwhile are no more than the rate.
TOGETHER_S = 0.02


@dataclass
class Lane:
    """What one process knows of one endpoint."""

    window: int = FIRST_WINDOW
    running: int = 0
    failures: int = 0
    open_until: float = 0.0
    tokens: float = 0.0
    filled_at: float | None = None
    tried_at: float | None = None

    def room(self, now: float, rate_per_s: int | None) -> int:
        """How many deliveries may start now."""
        if self._closed_for(now) > 0:
            return 0
        limit = 1 if self.failures >= BREAKS_AFTER else self.window
        # Half of it goes together: a claim costs about as much as a delivery.
        room = limit - self.running if 2 * self.running <= limit else 0
        if rate_per_s is not None:
            self._fill(now, rate_per_s)
            room = min(room, int(self.tokens))
        return max(0, room)

    def wait(self, now: float, rate_per_s: int | None) -> float | None:
        """Seconds until time alone may give room; None where something under way must end first."""
        if (closed := self._closed_for(now)) > 0:
            return closed
        if rate_per_s is not None and self.tokens < 1:
            return (1 - self.tokens) / (rate_per_s * FILLED)
        return None

    def started(self, count: int) -> None:
        """So many deliveries are under way now."""
        self.running += count
        self.tokens = max(0.0, self.tokens - count)

    def unused(self, count: int) -> None:
        """So many of those that were to start were not there."""
        self.running -= count
        self.tokens += count

    def begun(self, now: float) -> None:
        """The rest start only now: what was filled since they were counted would let the next follow too soon."""
        self.filled_at = now

    def ended(self, succeeded: bool | None, now: float) -> None:
        """One of them has ended; None: without a try."""
        self.running -= 1
        if succeeded is not None:
            self.tried_at = now
        if succeeded:
            self.failures, self.open_until = 0, 0.0
            self.window = min(LARGEST_WINDOW, self.window * 2)
        elif succeeded is False:
            self.failures += 1
            self.window = max(1, self.window // 2)
            if (beyond := self.failures - BREAKS_AFTER) >= 0:
                self.open_until = now + min(PROBE_FIRST_S * 2 ** min(beyond, 10), PROBE_LONGEST_S)

    def quiet(self, now: float) -> bool:
        """Whether nothing was tried for so long that it may be forgotten."""
        most = SILENT_S if self.failures else PROBE_LONGEST_S
        return self.running == 0 and (self.tried_at is None or abs(now - self.tried_at) > most)

    def _closed_for(self, now: float) -> float:
        left = self.open_until - now
        return left if 0 < left <= PROBE_LONGEST_S else 0.0

    def _fill(self, now: float, rate_per_s: int) -> None:
        """One lies ready at most, or `TOGETHER_S` worth."""
        if self.filled_at is None:
            self.tokens = 1.0
        else:
            self.tokens += max(0.0, now - self.filled_at) * rate_per_s * FILLED
        self.tokens, self.filled_at = min(self.tokens, max(1.0, rate_per_s * TOGETHER_S)), now
