"""The Redis that several gateways share: few connections, short waits, and no second try behind anyone's back."""

# redis-py's types leave some of what is used here open.
# pyright: reportUnknownMemberType=false

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError


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


def said_of(error: BaseException | None) -> str:
    """What Redis does, to whoever runs this; never what it was asked, or with which password."""
    if isinstance(error, NoPermissionError):
        return "does not allow the user in GATEWAY_RATES_URL all that gateways ask for"
    if isinstance(error, AuthenticationError):
        return "refuses the user or the password in GATEWAY_RATES_URL"
    return f"does not answer ({type(error).__name__})"
