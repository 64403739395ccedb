"""Names to addresses, in threads of their own: a name server that hangs holds up nobody else's look-ups."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# The system's resolver goes on for up to half a minute after we gave up, and cannot be stopped.
THREADS = 64

Resolve = Callable[[str], list[str]]


def system_addresses(host: str) -> list[str]:
    """Every address of `host`, as the system's resolver knows them. Blocks. Raises OSError and UnicodeError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Lookups:
    """`resolve` in threads, once per name however many ask at a time."""

    def __init__(self, resolve: Resolve = system_addresses) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup")
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, within_s: float) -> list[str]:
        """What `resolve` gives. Raises TimeoutError after `within_s` seconds, and what `resolve` raises."""
        asked = self._under_way.get(host)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host)
            self._under_way[host] = asked
            asked.add_done_callback(lambda done: self._done(host, done))
        async with asyncio.timeout(within_s):
            return await asyncio.shield(asked)

    def close(self) -> None:
        """Start no further look-up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, host: str, done: asyncio.Future[list[str]]) -> None:
        del self._under_way[host]
        # Nobody may be waiting any more; an error that nobody fetches would be logged with the host's name.
        if not done.cancelled():
            done.exception()
