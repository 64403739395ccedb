"""The services over HTTP: several processes of each, asked in turn, and another one where the first was not there."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import aiohttp
from yarl import URL

from services.gateway.balance import Turns
from services.gateway.proxy import Answer, Unanswered

CONNECT_S = 1.0
# A little more than the longest wait for a receipt.
ANSWER_S = 12.0
CONNECTIONS = 512
SMALL_BYTES = 256 * 1024
IDLE_S = 30.0
# May be repeated whatever became of them; of others only those that no process got.
SAFE = frozenset({"GET", "HEAD"})


class AiohttpRest:
    """The body of an answer that has begun."""

    def __init__(self, service: str, response: aiohttp.ClientResponse) -> None:
        self.service = service
        self._response = response

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        """As in the protocol."""
        try:
            async for part in self._response.content.iter_any():
                yield part
                # Where parts are always there already, a cancellation would find no moment to come in.
                await asyncio.sleep(0)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(self.service) from error

    def close(self) -> None:
        """As in the protocol; an answer read to its end gives its connection back, another one closes it."""
        self._response.close()


class AiohttpUpstreams:
    """The services over HTTP with kept connections. `open` needs a running loop.

    `urls`: the addresses of each service's processes. `drain_s`: how long they answer once told to end; an idle
    connection is kept for less, so that none is used in the moment in which its process closes it. `answer_s`: until
    an answer begins, and between its parts.
    """

    def __init__(self, urls: Mapping[str, Sequence[str]], *, drain_s: float = 0.0, answer_s: float = ANSWER_S) -> None:
        self._turns = {service: Turns([url.rstrip("/") for url in several]) for service, several in urls.items()}
        self._idle_s = min(IDLE_S, drain_s / 2) if drain_s else IDLE_S
        self._answer_s = answer_s
        # One for what may be repeated and one for the rest, over the same connections.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def open(self) -> None:
        """Make the sessions."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=self._idle_s)
        self._sessions = {safe: self._session(connector) for safe in (True, False)}
        # It would send PUT and DELETE once more over a new connection when a kept one ends without an answer, though
        # they may have been done; there is no public way to say so.
        self._sessions[False]._retry_connection = False  # pyright: ignore[reportPrivateUsage]

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=self._answer_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """As in the protocol. A process that got nothing of the request is passed over, and so is one that broke off
        an answer to GET; anything else is not repeated, for it may have been done."""
        if (session := self._sessions.get(method in SAFE)) is None:
            raise Unanswered(service)
        turns = self._turns[service]
        last: Exception | None = None
        try:
            async with asyncio.timeout(self._answer_s):
                for url in turns.order():
                    address = URL(url + target, encoded=True)
                    try:
                        asked = session.request(
                            method, address, headers=headers, data=body or None, allow_redirects=False
                        )
                        with turns.asking(url):
                            response = await asked
                        answer = await _begun(service, response)
                    except (aiohttp.ClientError, OSError) as error:
                        last = error
                        turns.avoid(url)
                        if not _may_be_repeated(method, error):
                            break
                    else:
                        if answer.headers.get("connection", "").lower() == "close":
                            # What a process says that is about to end.
                            turns.avoid(url)
                        return answer
        except TimeoutError as error:
            last = error
        raise Unanswered(service) from last


async def _begun(service: str, response: aiohttp.ClientResponse) -> Answer:
    """The answer, whole when it is small."""
    found = {name.lower(): value for name, value in response.headers.items()}
    if response.content_length is None or response.content_length > SMALL_BYTES:
        return Answer(response.status, found, b"", AiohttpRest(service, response))
    return Answer(response.status, found, await response.read())


def _may_be_repeated(method: str, error: Exception) -> bool:
    """Whether no process got the request, or it changes nothing and no answer was to be waited for any longer."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return True
    return method in SAFE and not isinstance(error, TimeoutError)
