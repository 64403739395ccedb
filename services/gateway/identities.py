"""Who is behind an `Authorization` header, as the routes' doors see it."""

from dataclasses import dataclass
from typing import Protocol

from shared.callers import Caller

NEVER = float("inf")


@dataclass(frozen=True)
class Identity:
    """A caller, and until when (seconds since 1970) its token or key is good.

    `grant_revision` is that of the user's grant when a partner was given its token for the user; `narrowed` are the
    scopes that the token has and the grant has no more. `api_key_id` is what a partner calls its key, None for tokens.
    """

    caller: Caller
    expires_at: float
    grant_revision: int | None = None
    narrowed: frozenset[str] = frozenset()
    api_key_id: str | None = None


class Identities(Protocol):
    """Who is behind an `Authorization` header."""

    async def identity(self, header: bytes | None) -> Identity:
        """Raises Problem 401, 404 or 503."""
        ...

    def acting(self, caller: Caller, user_id: str | None, scope: str) -> Caller:
        """For whom the caller calls. Raises Problem 404, 422 or 503."""
        ...
