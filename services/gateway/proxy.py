"""Requests passed on to the services: caller as an internal token, answers copied, silence turned into 503.

A small answer is read whole. A large one, or one of unknown length, flows through: of it the gateway holds what one
connection buffers, 128 KiB, however slowly the caller reads.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.gateway.entry import Call
from services.gateway.flows import Flows
from services.gateway.routes import Route
from shared.callers import Caller
from shared.client_address import CLIENT_ADDRESS, Network, origin
from shared.client_authorization import CLIENT_AUTHORIZATION
from shared.errors import Problem
from shared.internal_tokens import InternalTokenSigner
from shared.telemetry import current_traceparent

logger = logging.getLogger(__name__)

RETRY_AFTER_S = "2"
# Of an answer that the gateway reads itself: receipts, keys, documents.
MOST_READ_BYTES = 16 * 1024 * 1024
LONGEST_FLOW_S = 900.0
PASSED_ON = ("content-type", "idempotency-key", "accept", "accept-language")
COPIED = frozenset({"content-type", "retry-after", "etag", "link", "location", "allow", "content-disposition"})
"""Headers of answers that callers see; the rest is between us and the service."""
PAGE_COPIED = frozenset({"set-cookie", "content-security-policy", "referrer-policy", "x-frame-options"})
CLIENT_COPIED = frozenset({"www-authenticate"})
OPEN_COPIED = frozenset({"cache-control"})
"""The same of routes that are a page, look at the caller's `Authorization` themselves, or need none."""


class Unanswered(Exception):
    """The service did not answer, or not in time, or not to the end."""

    def __init__(self, service: str) -> None:
        super().__init__(f"{service} does not answer")
        self.service = service


@dataclass(frozen=True)
class Answer:
    """What a service answered; header names in lower case. With `rest` the body is not read yet."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    rest: "Rest | None" = None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ValueError."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ValueError("not a JSON object") from error

    async def whole(self) -> "Answer":
        """The answer with its body read. Raises `Unanswered`, also for one beyond 16 MiB."""
        if self.rest is None:
            return self
        found = bytearray()
        try:
            async for part in self.rest:
                found += part
                if len(found) > MOST_READ_BYTES:
                    raise Unanswered(self.rest.service)
        finally:
            self.rest.close()
        return Answer(self.status, self.headers, bytes(found))


class Rest(Protocol):
    """A body on its way. `close` it, read or not."""

    service: str

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts as they come. Raises `Unanswered`."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Upstreams(Protocol):
    """The services by name."""

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to `target` (path and query, as they came); a long one is not read. Raises `Unanswered`."""
        ...


class Proxy:
    """Sends a call to the service that answers it."""

    def __init__(
        self, upstreams: Upstreams, signer: InternalTokenSigner, *, trusted_proxies: Sequence[Network] = ()
    ) -> None:
        self._upstreams = upstreams
        self._signer = signer
        self._trusted_proxies = tuple(trusted_proxies)
        self._flows = Flows()

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
        """What `service` answers `caller`, read whole. Raises `Unanswered`."""
        return await (await self._sent(service, method, target, caller, headers, body)).whole()

    async def _sent(
        self, service: str, method: str, target: str, caller: Caller, headers: Mapping[str, str] | None, body: bytes
    ) -> Answer:
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
        # Closed, and a test holds it to that: never the caller's own header of a name that is between us.
        headers = {name: value for name in PASSED_ON if (value := call.header(name)) is not None}
        if call.route.page and (cookie := call.header("cookie")) is not None:
            headers["cookie"] = cookie
        if call.route.client and (presented := call.header("authorization")) is not None:
            headers[CLIENT_AUTHORIZATION] = presented
        headers[CLIENT_ADDRESS] = origin(call.peer, call.header("x-forwarded-for") or "", self._trusted_proxies)
        route = call.route
        try:
            answer = await self._sent(route.service, route.method, call.target, call.caller, headers, call.body)
        except Unanswered as error:
            raise service_unavailable(error.service) from error
        if answer.rest is not None:
            return self._flow(answer, answer.rest, call.caller)
        if answer.status == 401 and route.caller != "anyone":
            # The caller's own token was good: ours was refused, which is no business of the caller's.
            logger.error("%s refused the internal token", route.service)
            raise service_unavailable(route.service)
        return copied(answer, route)

    def _flow(self, answer: Answer, rest: Rest, caller: Caller) -> Response:
        try:
            account = self._flows.begin(caller)
        except Problem:
            rest.close()
            raise
        return Flowing(answer, rest, partial(self._flows.end, account))


class Flowing(StreamingResponse):
    """An answer passed on part by part. When the service breaks off, so does the connection: no end is made up."""

    def __init__(self, answer: Answer, rest: Rest, done: Callable[[], None]) -> None:
        headers = {name: value for name, value in answer.headers.items() if name in COPIED | {"content-length"}}
        super().__init__(rest, answer.status, headers)
        self._rest = rest
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on until its end, its caller's, or 15 min are over."""
        if scope["method"] == "HEAD":
            self.body_iterator = _nothing()
        try:
            async with asyncio.timeout(LONGEST_FLOW_S):
                await super().__call__(scope, receive, send)
        except (Unanswered, TimeoutError):
            logger.warning("an answer of %s broke off", self._rest.service)
        finally:
            self._rest.close()
            self._done()


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""


def copied(answer: Answer, route: Route | None = None) -> Response:
    """The answer for the caller, on `route` where that lets more of its headers through."""
    seen = COPIED
    if route is not None and route.page:
        seen |= PAGE_COPIED
    if route is not None and route.client:
        seen |= CLIENT_COPIED
    if route is not None and route.caller == "anyone":
        seen |= OPEN_COPIED
    headers = {name: value for name, value in answer.headers.items() if name in seen}
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
