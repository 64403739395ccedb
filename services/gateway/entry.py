"""The door of every route: who calls, may they, how much may they send; then the route's own answer.

Plain ASGI: FastAPI's own handling of a request costs about as much as all of this.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.acting import taken
from services.gateway.bodies import CODINGS, Unpacked, too_large
from services.gateway.headers import headers_of
from services.gateway.identities import NEVER, Identities, Identity
from services.gateway.refusals import not_found
from services.gateway.routes import Route
from shared.callers import ANONYMOUS, Caller
from shared.errors import Problem

BODY_S = 30.0
# A bad mobile uplink in bytes a second; over it a picture of 10 MiB takes five minutes and must still arrive.
SLOWEST_UPLINK = 32 * 1024
MAX_KEY_CHARACTERS = 255
MAX_TARGET_BYTES = 4096
# Where the limits before the door leave whom they found, and what headers every answer has to have.
IDENTITY = "gateway.identity"
LEFT = "gateway.left"


class Call(msgspec.Struct, frozen=True):
    """A request that passed the door. `target` is path and query as they came, without the `user` of a partner.

    `key` is the Idempotency-Key or "", `peer` the address at the other end of the connection, "" for none.
    """

    route: Route
    target: str
    query: bytes
    parameters: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    caller: Caller
    expires_at: float
    key: str
    body: bytes
    peer: str = ""
    grant_revision: int | None = None
    api_key_id: str | None = None

    def header(self, name: str) -> str | None:
        """A header's value; `name` in lower case."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return media_type(self.headers)


Answers = Callable[[Call], Awaitable[ASGIApp]]


class Door:
    """One route as an ASGI application. `admit` may raise Problem before the body is read."""

    def __init__(self, route: Route, identities: Identities, answers: Answers, admit: Callable[[], None]) -> None:
        self._route = route
        self._identities = identities
        self._answers = answers
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises Problem."""
        # TraceMiddleware names the span and the metric by it, as FastAPI's own routes do.
        route = scope["route"] = self._route
        headers = headers_of(scope)
        identity = Identity(ANONYMOUS, NEVER)
        if route.caller != "anyone":
            identity = scope.get(IDENTITY) or await self._identities.identity(headers.get(b"authorization"))
            check_access(route, identity.caller, identity.narrowed)
        caller = identity.caller
        if route.about_users:
            scope["query_string"], user_id = taken(scope["query_string"])
            caller = self._identities.acting(caller, user_id, route.scope or "")
        target = _target(scope)
        key = _idempotency_key(headers) if route.keyed else ""
        self._admit()
        try:
            body = await read_body(receive, headers, route) if route.max_body else b""
        except ClientDisconnect:
            return
        call = Call(
            route,
            target,
            scope["query_string"],
            scope["path_params"],
            headers,
            caller,
            identity.expires_at,
            key,
            body,
            (scope.get("client") or ("",))[0],
            identity.grant_revision,
            identity.api_key_id,
        )
        answer = await self._answers(call)
        await answer(scope, receive, send)


def check_access(route: Route, caller: Caller, narrowed: frozenset[str] = frozenset()) -> None:
    """Let the caller pass, or raise Problem: 403, or 404 where the scope is one that the user has taken back."""
    if route.caller == "user" and caller.user_id is None and not route.about_users:
        raise _forbidden(route, "This needs a user's access token, not a partner key.")
    if route.caller == "partner" and (caller.partner_id is None or caller.user_id is not None):
        raise _forbidden(route, "This needs a partner's key, not a user's access token.")
    if route.about_users and route.scope in narrowed:
        raise not_found()
    if route.scope is not None and route.scope not in caller.scopes:
        raise _forbidden(route, f"This token lacks the scope {route.scope}. Get one that has it.")


def _forbidden(route: Route, detail: str) -> Problem:
    challenge = f'Bearer error="insufficient_scope", scope="{route.scope}"'
    return Problem(403, "insufficient-scope", detail, headers={"WWW-Authenticate": challenge}, scope=route.scope)


def _target(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    target = raw.partition(b"?")[0]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    if len(target) > MAX_TARGET_BYTES:
        raise Problem(414, "address-too-long", f"Send an address of at most {MAX_TARGET_BYTES} bytes.")
    text = target.decode("latin-1")
    # What is printable of ASCII, without the space.
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise Problem(400, "bad-request", "Escape what is not ASCII in the address.")
    parameters: dict[str, str] = scope["path_params"]
    if parameters and not {".", ".."}.isdisjoint(parameters.values()):
        raise Problem(404, "not-found", "There is nothing here for this caller.")
    return text


def _idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    key = headers.get(b"idempotency-key", b"").decode("latin-1").strip()
    if not key or len(key) > MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise Problem(
            400,
            "idempotency-key-required",
            "Send an Idempotency-Key header, such as a fresh UUID: 1 to 255 printable ASCII characters. "
            "Repeat a request under the same key.",
        )
    return key


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """The media type without parameters, in lower case."""
    return headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


def patience_s(max_body: int) -> float:
    """How long a body of at most so many bytes may take to arrive."""
    return BODY_S + max_body / SLOWEST_UPLINK


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], route: Route) -> bytes:
    """The body, uncompressed.

    Raises:
        Problem: 415 another media type or coding, 413 over the limit, 400 not of its coding, 408 too slow.
    """
    if media_type(headers) not in route.content_types:
        wanted = " or ".join(route.content_types)
        raise Problem(415, "unsupported-media-type", f"Send the body as {wanted} and say so in Content-Type.")
    coding = _coding(headers, route)
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > route.max_body):
        raise too_large(route.max_body)
    try:
        async with asyncio.timeout(patience_s(route.max_body)):
            return await _received(receive, route.max_body, coding)
    except TimeoutError as error:
        raise Problem(
            408,
            "body-too-slow",
            f"The body must arrive within {patience_s(route.max_body):.0f} s. Send less at a time.",
            headers={"Connection": "close"},
        ) from error


def _coding(headers: Mapping[bytes, bytes], route: Route) -> str:
    """How the body is compressed, "" when it is not."""
    coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return ""
    if coding in CODINGS and coding.removeprefix("x-") in route.codings:
        return coding
    wanted = f"Compress the body with {' or '.join(route.codings)}, once, or" if route.codings else "Compress nothing:"
    raise Problem(
        415,
        "unsupported-content-encoding",
        f"{wanted} send it as it is.",
        # RFC 9110 §12.5.3: what may be sent instead.
        headers={"Accept-Encoding": ", ".join((*route.codings, "identity"))},
    )


async def _received(receive: Receive, limit: int, coding: str) -> bytes:
    message: Message = await receive()
    if message["type"] == "http.request" and not message.get("more_body") and not coding:
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    unpacked = Unpacked(coding, limit) if coding else None
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        if unpacked is None:
            chunks.append(chunk)
        else:
            unpacked.add(chunk)
        if not message.get("more_body"):
            return b"".join(chunks) if unpacked is None else unpacked.whole()
        message = await receive()


class SecurityHeaders:
    """Adds `nosniff`, what is left of limits and, unless the answer says otherwise, `no-store`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[tuple[bytes, bytes]] = message["headers"]
                headers = [*given, *scope.get(LEFT, ()), (b"x-content-type-options", b"nosniff")]
                if b"cache-control" not in dict(given):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, guarded)


def json_response(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of encoded JSON."""
    return Response(content, status, headers, "application/json")
