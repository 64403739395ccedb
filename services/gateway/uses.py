"""What may be used once, and was: in the memory of this process, or in the Redis that several gateways share."""

# redis-py's types leave some of what is used here open.
# pyright: reportUnknownMemberType=false

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, cast

from redis.exceptions import RedisError

from services.gateway.redis_client import redis_at, said_of
from shared.errors import Problem

logger = logging.getLogger(__name__)

ANSWER_S = 1.0
CONNECTIONS = 4
PREFIX = "mymacro:used:"
# Each is about 0.2 KB, and takes a ticket that was issued in the last half minute.
MOST = 100_000


class Uses(Protocol):
    """What was used."""

    @property
    def shared(self) -> bool:
        """Whether all gateways know of all uses."""
        ...

    async def first(self, id: str, age_s: float, lasts_s: float) -> bool:
        """Whether this is the first use of `id`, made `age_s` ago, which nobody can use again after `lasts_s`.

        Raises:
            Problem: 503, that cannot be known.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryUses:
    """The uses in this process."""

    shared = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    async def first(self, id: str, age_s: float, lasts_s: float) -> bool:
        """As in the protocol."""
        now = self._clock()
        # All last equally long, so the oldest come first.
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        if id in self._until:
            return False
        if len(self._until) >= MOST:
            raise unavailable()
        self._until[id] = now + lasts_s
        return True

    async def close(self) -> None:
        """As in the protocol."""


class RedisUses:
    """The uses in the Redis at `url`. While it is silent nothing is used: once is not what memory could promise.

    What is older than the Redis process is not used either: a Redis that began anew has forgotten.
    """

    shared = True

    def __init__(self, url: str) -> None:
        self._redis = redis_at(url, connections=CONNECTIONS, answer_s=ANSWER_S)

    async def first(self, id: str, age_s: float, lasts_s: float) -> bool:
        """As in the protocol."""
        try:
            async with asyncio.timeout(ANSWER_S), self._redis.pipeline() as both:
                both.info("server")
                both.set(PREFIX + id, b"", nx=True, px=max(1, round(lasts_s * 1000)))
                server, was_first = cast(tuple[dict[str, int], bool | None], await both.execute())
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("Redis %s: no ticket can be used", said_of(error))
            raise unavailable() from error
        # In whole seconds, up to one too many.
        if age_s >= server["uptime_in_seconds"] - 1:
            raise unavailable()
        return bool(was_first)

    async def close(self) -> None:
        """As in the protocol."""
        await self._redis.aclose()


def unavailable() -> Problem:
    """503: whether it was used cannot be known."""
    return Problem(
        503,
        "tickets-unavailable",
        "Whether this ticket was used cannot be known. Ask for another one, or read with a token.",
        headers={"Retry-After": "2"},
    )
