"""Which of a service's processes to ask: each in turn; those that are away, about to go or hang only when all are."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count

# A process that starts anew takes two to four seconds; asking one that is away costs a refused connection.
AVOIDED_S = 2.0
# One that was asked so long ago and has answered nobody since hangs; some answers are waited for on purpose.
HANGS_S = 2.0


class Turns:
    """The addresses of one service. `clock` in seconds since any moment."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = tuple(urls)
        self._clock = clock
        self._next = 0
        self._avoided_until: dict[str, float] = {}
        # Of each address: since when those wait who were not answered yet, the oldest first; and its last answer.
        self._waiting: dict[str, dict[int, float]] = {url: {} for url in self._urls}
        self._heard: dict[str, float] = {}
        self._numbers = count()

    def order(self) -> list[str]:
        """All addresses in the order in which to try them."""
        if len(self._urls) == 1:
            return [*self._urls]
        at = self._next = (self._next + 1) % len(self._urls)
        turned = self._urls[at:] + self._urls[:at]
        now = self._clock()
        # Stable: among those to be avoided too, each has its turn.
        return sorted(turned, key=lambda url: self._avoided_until.get(url, now) > now or self._hangs(url, now))

    def avoid(self, url: str) -> None:
        """Ask this one last for 2 s."""
        self._avoided_until[url] = self._clock() + AVOIDED_S

    @contextmanager
    def asking(self, url: str) -> Generator[None]:
        """Around the wait for an answer to begin."""
        number = next(self._numbers)
        self._waiting[url][number] = self._clock()
        try:
            yield
            self._heard[url] = self._clock()
        finally:
            del self._waiting[url][number]

    def _hangs(self, url: str, now: float) -> bool:
        since = next(iter(self._waiting[url].values()), now)
        return now - since > HANGS_S and self._heard.get(url, since) <= since
