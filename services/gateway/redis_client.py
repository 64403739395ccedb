"""The Redis that several gateways share: few connections, short waits, and no second try behind anyone's back."""

# redis-py's types leave some of what is used here open.
# pyright: reportUnknownMemberType=false

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def redis_at(url: str, *, connections: int, answer_s: float) -> Redis:
    """A client of the Redis at `url`; whoever waits `answer_s` for a connection or an answer gets an error."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=answer_s,
        socket_timeout=answer_s,
        socket_connect_timeout=answer_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    # It closes the pool with itself.
    return Redis.from_pool(pool)
