"""Which of a service's processes to ask: each in turn, and those that are away or about to go only when all are."""

import time
from collections.abc import Callable, Sequence

# A process that starts anew takes two to four seconds; asking one that is away costs a refused connection.
AVOIDED_S = 2.0


class Turns:
    """The addresses of one service. `clock` in seconds since any moment."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = tuple(urls)
        self._clock = clock
        self._next = 0
        self._avoided_until: dict[str, float] = {}

    def order(self) -> list[str]:
        """All addresses in the order in which to try them."""
        if len(self._urls) == 1:
            return [*self._urls]
        at = self._next = (self._next + 1) % len(self._urls)
        turned = self._urls[at:] + self._urls[:at]
        if not self._avoided_until:
            return [*turned]
        now = self._clock()
        self._avoided_until = {url: until for url, until in self._avoided_until.items() if until > now}
        # Stable: among those avoided too, each has its turn.
        return sorted(turned, key=self._avoided_until.__contains__)

    def avoid(self, url: str) -> None:
        """Ask this one last for 2 s."""
        self._avoided_until[url] = self._clock() + AVOIDED_S
