"""Requests passed on to the services: caller as an internal token, answers copied, silence turned into 503."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import msgspec
from starlette.responses import Response
from yarl import URL

from services.gateway.entry import Call
from shared.errors import Problem
from shared.identity import Caller, InternalTokenSigner
from shared.telemetry import current_traceparent

logger = logging.getLogger(__name__)

CONNECT_S = 1.0
TOTAL_S = 10.0
RETRY_AFTER_S = "2"
CONNECTIONS = 256
PASSED_ON = ("content-type", "idempotency-key", "accept-language")
COPIED = frozenset({"content-type", "retry-after", "etag", "link", "location", "allow"})
"""Headers of answers that callers see; the rest is between us and the service."""


class Unanswered(Exception):
    """The service did not answer, or not in time."""

    def __init__(self, service: str) -> None:
        super().__init__(f"{service} does not answer")
        self.service = service


@dataclass(frozen=True)
class Answer:
    """What a service answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ValueError."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ValueError("not a JSON object") from error


class Upstreams(Protocol):
    """The services by name."""

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to `target` (path and query, as they came). Raises `Unanswered`."""
        ...


class AiohttpUpstreams:
    """The services over HTTP with kept connections. `open` needs a running loop."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = {service: url.rstrip("/") for service, url in urls.items()}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=TOTAL_S, connect=CONNECT_S, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """As in the protocol."""
        if self._session is None:
            raise Unanswered(service)
        url = URL(self._urls[service] + target, encoded=True)
        try:
            async with self._session.request(
                method, url, headers=headers, data=body or None, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(service) from error
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)


class Proxy:
    """Sends a call to the service that answers it."""

    def __init__(self, upstreams: Upstreams, signer: InternalTokenSigner) -> None:
        self._upstreams = upstreams
        self._signer = signer

    async def ask(
        self,
        service: str,
        method: str,
        target: str,
        caller: Caller,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """What `service` answers `caller`. Raises `Unanswered`."""
        sent = {**(headers or {}), "Authorization": f"Bearer {self._signer.token(caller, service)}"}
        traceparent = current_traceparent()
        if traceparent is not None:
            sent["traceparent"] = traceparent
        return await self._upstreams.send(service, method, target, sent, body)

    async def forward(self, call: Call) -> Response:
        """The service's answer to the call as it came.

        Raises:
            Problem: 503, it does not answer.
        """
        headers = {name: value for name in PASSED_ON if (value := call.header(name)) is not None}
        route = call.route
        try:
            answer = await self.ask(
                route.service, route.method, call.target, call.caller, headers=headers, body=call.body
            )
        except Unanswered as error:
            raise service_unavailable(error.service) from error
        if answer.status == 401 and route.caller != "anyone":
            # The caller's own token was good: ours was refused, which is no business of the caller's.
            logger.error("%s refused the internal token", route.service)
            raise service_unavailable(route.service)
        return copied(answer)


def copied(answer: Answer) -> Response:
    """The answer for the caller."""
    headers = {name: value for name, value in answer.headers.items() if name in COPIED}
    return Response(answer.body, answer.status, headers)


def service_unavailable(service: str) -> Problem:
    """503 of a service that does not answer; nothing was lost."""
    return Problem(
        503,
        "service-unavailable",
        f"{service} does not answer right now. Repeat the request, under the same Idempotency-Key if it has one.",
        headers={"Retry-After": RETRY_AFTER_S},
        service=service,
    )
