"""Tickets for live streams of browsers, which can send no headers with them: good for one stream, for half a minute.

A ticket is sealed, so an address with one in it says nothing of whose it is to whoever logs it. It gives what its
owner's token gives, of live streams alone, until that token's end: what ends that one before ends this one too.
Which were used is known to all gateways by their Redis; without one, a ticket counts at the process that issued it.
"""

import binascii
import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from secrets import token_bytes, token_hex

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.acting import taken
from services.gateway.entry import Call, json_response
from services.gateway.identities import Identities, Identity
from services.gateway.permissions import SCOPE_OF
from services.gateway.refusals import unauthorized
from services.gateway.uses import Uses
from shared.access_tokens import ACCESS_LIFETIME_S
from shared.callers import Caller
from shared.errors import Problem

LIFETIME_S = 30
# Longer than a ticket is good at the gateway whose clock is furthest behind.
USE_KNOWN_S = 120
NONCE_BYTES = 12
MAX_CHARACTERS = 2048
PREFIX = "mmlt_"
SCHEME = b"ticket "
PARAMETER = b"ticket"
LABEL = b"mymacrotracker live tickets"
SCOPES = frozenset({"live:read", *SCOPE_OF.values()})

Still = Callable[[Identity], Identity]


class Sealed(msgspec.Struct, array_like=True):
    """What a ticket holds; times in seconds since 1970. `home`: the process that issued it."""

    user_id: str
    partner_id: str | None
    session_id: str | None
    scopes: list[str]
    grant_revision: int | None
    token_expires_at: float
    expires_at: float
    home: str
    api_key_id: str | None = None


class Tickets:
    """Issues tickets and takes them. `still` raises Problem for an identity that is not good any more."""

    def __init__(self, secret: bytes, uses: Uses, still: Still, clock: Callable[[], float] = time.time) -> None:
        """`secret`: random bytes, the same at every gateway."""
        self._cipher = AESGCM(hmac.digest(secret, LABEL, hashlib.sha256))
        self._uses = uses
        self._still = still
        self._clock = clock
        self._home = token_hex(8)

    async def issue(self, call: Call) -> Response:
        """A ticket for the caller, and until when it can be used."""
        caller, now = call.caller, self._clock()
        sealed = Sealed(
            caller.user_id or "",
            caller.partner_id,
            caller.session_id,
            sorted(caller.scopes & SCOPES),
            call.grant_revision,
            min(call.expires_at, now + ACCESS_LIFETIME_S),
            now + LIFETIME_S,
            self._home,
            call.api_key_id,
        )
        nonce = token_bytes(NONCE_BYTES)
        content = nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode(sealed), LABEL)
        ticket = PREFIX + urlsafe_b64encode(content).decode().rstrip("=")
        until = datetime.fromtimestamp(sealed.expires_at, UTC).isoformat(timespec="milliseconds")
        document = {"ticket": ticket, "expires_at": until.replace("+00:00", "Z")}
        return json_response(msgspec.json.encode(document), 201)

    async def used(self, ticket: bytes) -> Identity:
        """Who uses the ticket, which is used up by it.

        Raises:
            Problem: 401 no ticket of ours, or used, or too old, or its session or partner was ended; 404 its grant
                is no more; 503 it cannot be known whether it was used.
        """
        id, sealed = self._opened(ticket)
        if self._clock() >= sealed.expires_at or not (self._uses.shared or sealed.home == self._home):
            raise _bad_ticket()
        age_s = self._clock() - (sealed.expires_at - LIFETIME_S)
        if not await self._uses.first(id, age_s, USE_KNOWN_S):
            raise _bad_ticket()
        caller = Caller(sealed.user_id, sealed.partner_id, frozenset(sealed.scopes), sealed.session_id)
        owner = Identity(caller, sealed.token_expires_at, sealed.grant_revision, api_key_id=sealed.api_key_id)
        return self._still(owner)

    async def close(self) -> None:
        """Let go of connections."""
        await self._uses.close()

    def _opened(self, ticket: bytes) -> tuple[str, Sealed]:
        """Its id and content. Raises Problem(401)."""
        text = ticket.removeprefix(PREFIX.encode())
        if len(text) == len(ticket) or len(text) > MAX_CHARACTERS:
            raise _bad_ticket()
        try:
            content = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            plain = self._cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], LABEL)
        except (binascii.Error, InvalidTag, ValueError) as error:
            raise _bad_ticket() from error
        return content[:NONCE_BYTES].hex(), msgspec.msgpack.decode(plain, type=Sealed)


class TicketOrToken:
    """Who calls a live stream: by a ticket, or as everywhere."""

    def __init__(self, tickets: Tickets, others: Identities) -> None:
        self._tickets = tickets
        self._others = others

    async def identity(self, header: bytes | None) -> Identity:
        """As in the protocol."""
        if header is not None and header[: len(SCHEME)].lower() == SCHEME:
            return await self._tickets.used(header[len(SCHEME) :].strip())
        return await self._others.identity(header)

    def acting(self, caller: Caller, user_id: str | None, scope: str) -> Caller:
        """As in the protocol."""
        return self._others.acting(caller, user_id, scope)


class TicketInAddress:
    """Takes `?ticket=` out of the address before anything that may write that down, and lets it count as a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises Problem: 422 two tickets, or a ticket and a token."""
        scope["query_string"], ticket = taken(scope["query_string"], PARAMETER)
        if ticket is not None:
            if any(name == b"authorization" for name, _ in scope["headers"]):
                raise Problem(422, "invalid-request", "Send a ticket or a token, not both.")
            value = SCHEME + ticket.encode("latin-1", "replace")
            scope["headers"] = [*scope["headers"], (b"authorization", value)]
        await self._app(scope, receive, send)


def _bad_ticket() -> Problem:
    return unauthorized(
        "This ticket is not good, or not any more: each is good once, for 30 s. Get another one.", "invalid_token"
    )
