"""Whether auth issues tokens under the name by which this gateway knows them: TOKEN_ISSUER is one at both."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.gateway.proxy import Answer, Unanswered

PATH = "/.well-known/oauth-authorization-server"
# An auth that hangs must not make the gateway look so.
ASK_S = 1.0
logger = logging.getLogger(__name__)


class Issuer:
    """The issuer as auth says it; `ask` is auth's answer to GET `PATH`."""

    def __init__(self, expected: str, ask: Callable[[], Awaitable[Answer]]) -> None:
        self._expected = expected
        self._ask = ask
        self._agreed = False
        self._said = False

    async def agrees(self) -> bool:
        """False once auth has named another issuer: every token would be refused. While it says nothing, True."""
        if self._agreed:
            return True
        try:
            async with asyncio.timeout(ASK_S):
                answer = await self._ask()
            named = answer.json().get("issuer") if answer.status == 200 else None
        except (Unanswered, ValueError, TimeoutError):
            named = None
        if named is None:
            return True
        self._agreed = named == self._expected
        if not self._agreed and not self._said:
            self._said = True
            text = "TOKEN_ISSUER is %s here and %s at auth: no token is good at this gateway"
            logger.error(text, self._expected, named)
        return self._agreed
