"""Token buckets that several gateways share, in Redis: one script, one trip, Redis's own clock.

A gateway waits 50 ms for Redis at most. When it says nothing in time, the gateway's own buckets hold, and Redis is
asked again a second later: limits are then per gateway, never gone, and no caller sees an error.
"""

# redis-py's types leave some of what is used here open.
# pyright: reportUnknownMemberType=false

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from redis.exceptions import RedisError

from services.gateway.rates import Charge, MemoryBuckets, Taken
from services.gateway.redis_client import redis_at, said_of
from shared.redaction import whereabouts

logger = logging.getLogger(__name__)

WAIT_S = 0.05
AGAIN_S = 1.0
# For what nobody waits for any more, such as a connection that takes its time.
ANSWER_S = 1.0
# A trip takes 0.2 ms of a process that answers some thousand calls a second.
CONNECTIONS = 8
NEVER = float("-inf")
PREFIX = "mymacro:rate:"

# Each bucket is the microsecond at which it is full again. ARGV: window and step of each key in microseconds.
# Answers whether all were taken, and in how many microseconds each bucket is full again.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_in, allowed = {}, 1
for i, key in ipairs(KEYS) do
  local full_at = tonumber(redis.call('GET', key) or now)
  full_in[i] = math.max(full_at - now, 0)
  if full_in[i] + ARGV[2 * i] > ARGV[2 * i - 1] + 1 then allowed = 0 end
end
if allowed == 1 then
  for i, key in ipairs(KEYS) do
    full_in[i] = full_in[i] + ARGV[2 * i]
    redis.call('SET', key, string.format('%.0f', now + full_in[i]), 'PX', math.ceil(full_in[i] / 1000))
  end
end
return {allowed, unpack(full_in)}
"""


class RedisBuckets:
    """The buckets in the Redis at `url` (redis://, rediss:// or unix://); `own` stand in while it is silent."""

    def __init__(self, url: str, own: MemoryBuckets, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._clock = clock
        self._silent_until = NEVER
        self._asking: set[asyncio.Task[Taken]] = set()
        self._redis = redis_at(url, connections=CONNECTIONS, answer_s=ANSWER_S)
        self._take = self._redis.register_script(TAKE)

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """As in the protocol."""
        if self._clock() < self._silent_until:
            return self._own.take_now(charges)
        # Never cancelled: a connection that is being opened is there for the next, and none is left half open.
        asking = asyncio.create_task(self._ask(charges))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        done, _ = await asyncio.wait((asking,), timeout=WAIT_S)
        if not done or asking.exception() is not None:
            self._silent(asking.exception() if done else TimeoutError())
            return self._own.take_now(charges)
        # An answer that was asked for before the silence says nothing of its end.
        if NEVER < self._silent_until <= self._clock():
            self._silent_until = NEVER
            logger.info("Redis holds the rate limits again")
        return asking.result()

    async def _ask(self, charges: Sequence[Charge]) -> Taken:
        keys = [f"{PREFIX}{policy.name}:{subject}" for policy, subject in charges]
        steps = [round(s * 1e6) for policy, _ in charges for s in (policy.window_s, policy.every_s)]
        allowed, *full_in = cast(list[int], await self._take(keys, steps))
        return Taken(allowed == 1, [us / 1e6 for us in full_in])

    def _asked(self, asking: "asyncio.Task[Taken]") -> None:
        self._asking.discard(asking)
        error = None if asking.cancelled() else asking.exception()
        if error is not None and not isinstance(error, (RedisError, OSError, TimeoutError)):
            logger.error("asking Redis failed: %s", whereabouts(error))

    def _silent(self, error: BaseException | None) -> None:
        if self._silent_until == NEVER:
            logger.warning("Redis %s: each gateway holds its own rate limits", said_of(error))
        self._silent_until = self._clock() + AGAIN_S

    async def answers(self) -> None:
        """Ask Redis whether it is there and takes our user; what is wrong is in the log.

        Raises:
            RedisError, OSError, TimeoutError: it is not, or does not.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await cast(Awaitable[bool], self._redis.ping())
        except (RedisError, OSError, TimeoutError) as error:
            self._silent(error)
            raise

    async def close(self) -> None:
        """Wait for what was asked, and close the connections."""
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._redis.aclose()
