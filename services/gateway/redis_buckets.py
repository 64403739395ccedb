"""Token buckets that several gateways share, in Redis: one script, one trip, Redis's own clock.

A gateway waits 50 ms for Redis at most. When it says nothing in time, the gateway's own buckets hold, and Redis is
asked again a second later: limits are then per gateway, never gone, and no caller sees an error.
"""

# pyright: reportUnknownMemberType=false

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.gateway.rates import Charge, MemoryBuckets, Taken
from shared.redaction import whereabouts

logger = logging.getLogger(__name__)

WAIT_S = 0.05
AGAIN_S = 1.0
CONNECTIONS = 64
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
        self._silent_until = float("-inf")
        self._redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=WAIT_S,
                socket_timeout=WAIT_S,
                socket_connect_timeout=WAIT_S,
                retry=Retry(NoBackoff(), 0),
            )
        )
        self._take = self._redis.register_script(TAKE)

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """As in the protocol."""
        if self._clock() < self._silent_until:
            return self._own.take_now(charges)
        keys = [f"{PREFIX}{policy.name}:{subject}" for policy, subject in charges]
        steps = [round(s * 1e6) for policy, _ in charges for s in (policy.window_s, policy.every_s)]
        try:
            async with asyncio.timeout(WAIT_S):
                allowed, *full_in = cast(list[int], await self._take(keys, steps))
        except (RedisError, OSError, TimeoutError) as error:
            if self._silent_until == float("-inf"):
                logger.warning("Redis does not hold the rate limits, each gateway its own: %s", whereabouts(error))
            self._silent_until = self._clock() + AGAIN_S
            return self._own.take_now(charges)
        if self._silent_until != float("-inf"):
            self._silent_until = float("-inf")
            logger.info("Redis holds the rate limits again")
        return Taken(allowed == 1, [us / 1e6 for us in full_in])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
