"""Names to addresses, in threads of their own: a name server that hangs holds up nobody else's look-ups."""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# The system's resolver goes on for up to half a minute after we gave up, and cannot be stopped.
THREADS = 64
# Names that are known to be answered; some 2 MB.
REMEMBERED = 10_000

Resolve = Callable[[str], list[str]]


def system_addresses(host: str) -> list[str]:
    """Every address of `host`, as the system's resolver knows them. Blocks. Raises OSError and UnicodeError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Lookups:
    """`resolve` in threads, once per name however many ask at a time.

    Names that were answered last time have threads of their own: whoever makes up a hundred that are not answered
    holds up nobody's deliveries.
    """

    def __init__(self, resolve: Resolve = system_addresses) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup")
        self._unproven = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup-unproven")
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, within_s: float) -> list[str]:
        """What `resolve` gives. Raises TimeoutError after `within_s` seconds, and what `resolve` raises."""
        asked = self._under_way.get(host)
        if asked is None:
            threads = self._threads if host in self._proven else self._unproven
            asked = asyncio.get_running_loop().run_in_executor(threads, self._resolve, host)
            self._under_way[host] = asked
            asked.add_done_callback(lambda done: self._done(host, done))
        try:
            async with asyncio.timeout(within_s):
                found = await asyncio.shield(asked)
        except TimeoutError:
            self._proven.pop(host, None)
            raise
        self._proven[host] = None
        self._proven.move_to_end(host)
        if len(self._proven) > REMEMBERED:
            self._proven.popitem(last=False)
        return found

    def close(self) -> None:
        """Start no further look-up."""
        for threads in (self._threads, self._unproven):
            threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, host: str, done: asyncio.Future[list[str]]) -> None:
        del self._under_way[host]
        # Nobody may be waiting any more; an error that nobody fetches would be logged with the host's name.
        if not done.cancelled():
            done.exception()
