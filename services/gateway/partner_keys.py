"""Which of a partner's API keys are good, as auth lists them; for streams, which outlive the look at their key."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from services.gateway.proxy import Proxy, Unanswered
from shared.callers import Caller
from shared.clock import Clock

ANSWER_S = 2.0
LISTING = frozenset({"partner:read"})


def good_keys_from(proxy: Proxy, clock: Clock) -> Callable[[str], Awaitable[frozenset[str]]]:
    """Gives the ids of a partner's keys that are good now. Raises `Unanswered`."""

    async def good_keys(partner_id: str) -> frozenset[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await proxy.ask("auth", "GET", "/v1/partner/keys", Caller(None, partner_id, LISTING))
        except TimeoutError as error:
            raise Unanswered("auth") from error
        if answer.status != 200:
            raise Unanswered("auth")
        now, keys = clock(), answer.json()["keys"]
        ends = ((key["key_id"], key["expires_at"]) for key in keys)
        return frozenset(id for id, end in ends if end is None or datetime.fromisoformat(end) > now)

    return good_keys
