"""Whose access token or partner key it is: tokens by auth's JWKS, keys by asking auth; cached, so auth may be down."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from joserfc.jwk import KeySet

from services.gateway.identities import NEVER, Identity
from services.gateway.proxy import Answer, Unanswered
from services.gateway.refusals import auth_unavailable, inactive, unauthorized
from shared.access_tokens import ACCESS_TYPE, access_caller
from shared.callers import Caller
from shared.errors import Problem
from shared.keys import api_key_id, is_api_key, load_jwks
from shared.problems import TYPE_PREFIX
from shared.tokens import UnknownKey, verified

MAX_CACHED = 10_000
JWKS_FRESH_S = 300
JWKS_PAUSE_S = 10
KEY_FRESH_S = 30
KEY_USABLE_S = 600
# How auth says whose key it is that is good for nothing now.
INACTIVE = f"{TYPE_PREFIX}partner-not-active".encode()

FetchJwks = Callable[[], Awaitable[dict[str, Any]]]
AskKey = Callable[[str], Awaitable[Answer]]


class TokenVerifier:
    """Checks access tokens against auth's JWKS, which it reads again every 5 min and on an unknown key id."""

    def __init__(self, fetch: FetchJwks, *, issuer: str, audience: str, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._keys: KeySet | None = None
        self._tried_at = -NEVER
        self._failed = False
        self._lock = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    async def identity(self, token: str) -> Identity:
        """Whose token it is. Raises Problem(401) or Problem(503)."""
        if self._keys is None:
            await self._read(pause_s=0)
        elif self._clock() - self._tried_at > JWKS_FRESH_S and (self._refresh is None or self._refresh.done()):
            # Behind the caller's back: the known keys do meanwhile.
            self._refresh = asyncio.create_task(self._read(pause_s=JWKS_PAUSE_S))
        try:
            return self._identity(token)
        except UnknownKey:
            await self._read(pause_s=JWKS_PAUSE_S)
        try:
            return self._identity(token)
        except UnknownKey as error:
            raise auth_unavailable() if self._failed else _bad_token() from error

    def _identity(self, token: str) -> Identity:
        if self._keys is None:
            raise auth_unavailable()
        try:
            claims = verified(
                token,
                self._keys,
                token_type=ACCESS_TYPE,
                issuer=self._issuer,
                audience=self._audience,
                now=self._clock(),
            )
            return Identity(access_caller(claims), float(claims["exp"]), claims.get("grant_revision"))
        except UnknownKey:
            raise
        except Problem as error:
            raise _bad_token(error.detail) from error

    async def _read(self, pause_s: float) -> None:
        """Read the keys unless that was done less than `pause_s` ago; what is known stays when auth is silent."""
        asked_at = self._clock()
        async with self._lock:
            if self._tried_at >= asked_at or asked_at - self._tried_at < pause_s:
                return
            # Now, not when it was asked for: whoever asked while another read has waited long enough.
            self._tried_at = self._clock()
            try:
                self._keys = load_jwks(await self._fetch())
                self._failed = False
            except (Unanswered, ValueError):
                self._failed = True


def _bad_token(detail: str = "Sign in again.") -> Problem:
    return unauthorized(detail, "invalid_token")


class KeyVerifier:
    """Checks partners' keys: junk by its checksum, the rest at auth, good for 30 s, or 10 min while auth is down."""

    def __init__(self, ask: AskKey, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[bytes, tuple[Identity, float]] = {}
        self._asking: dict[bytes, asyncio.Future[Identity]] = {}

    async def identity(self, key: str) -> Identity:
        """Whose key it is. Raises Problem(401) or Problem(503)."""
        digest = hashlib.sha256(key.encode()).digest()
        known = self._known.get(digest)
        now = self._clock()
        if known is not None and now - known[1] < KEY_FRESH_S and now < known[0].expires_at:
            return known[0]
        if not is_api_key(key):
            raise _bad_key()
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.ensure_future(self._verify(key, digest))
            self._asking[digest] = asking
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(asking)

    async def _verify(self, key: str, digest: bytes) -> Identity:
        try:
            answer = await self._ask(key)
        except Unanswered:
            return self._remembered(digest)
        if answer.status == 404:
            self._known.pop(digest, None)
            raise inactive() if INACTIVE in answer.body else _bad_key()
        if answer.status != 200:
            return self._remembered(digest)
        identity = _key_identity(key, answer.json())
        if len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]
        self._known[digest] = (identity, self._clock())
        return identity

    def _remembered(self, digest: bytes) -> Identity:
        known = self._known.get(digest)
        now = self._clock()
        if known is None or now - known[1] > KEY_USABLE_S or now >= known[0].expires_at:
            raise auth_unavailable()
        return known[0]


def _bad_key() -> Problem:
    return unauthorized(
        "This partner key is not valid; check that it is complete and has not expired.", "invalid_token"
    )


def _key_identity(key: str, document: dict[str, Any]) -> Identity:
    expires_at = document.get("expires_at")
    until = datetime.fromisoformat(expires_at).timestamp() if expires_at else None
    caller = Caller(None, document["partner_id"], frozenset(document["scopes"]), key_ends_at=until)
    return Identity(caller, NEVER if until is None else until, api_key_id=api_key_id(key))
