"""Who calls: access tokens by auth's JWKS, partners' keys by asking auth; both cached, so auth may be down.

What a partner may do is looked up with every call, so that nothing of it is remembered longer than it is true.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import KeySet

from services.gateway.grants import Grants, Partners
from services.gateway.proxy import Answer, Unanswered
from services.gateway.refusals import auth_unavailable, erased, inactive, not_found, unauthorized
from services.gateway.revocations import Revocations
from shared.access_tokens import ACCESS_TYPE, access_caller
from shared.callers import Caller
from shared.errors import Problem
from shared.events.auth import SessionRevoked
from shared.keys import API_KEY_PREFIX, is_api_key, load_jwks
from shared.problems import TYPE_PREFIX
from shared.tokens import UnknownKey, verified

MAX_CACHED = 10_000
# A verified token is verified again after a minute; the signature costs 0.1 ms.
TOKEN_CACHED_S = 60
JWKS_FRESH_S = 300
JWKS_PAUSE_S = 10
KEY_FRESH_S = 30
KEY_USABLE_S = 600
NEVER = float("inf")
# How auth says whose key it is that is good for nothing now.
INACTIVE = f"{TYPE_PREFIX}partner-not-active".encode()

FetchJwks = Callable[[], Awaitable[dict[str, Any]]]
AskKey = Callable[[str], Awaitable[Answer]]


@dataclass(frozen=True)
class Identity:
    """A caller, and until when (seconds since 1970) its token or key is good.

    `grant_revision` is that of the user's grant when a partner was given its token for the user; `narrowed` are the
    scopes that the token has and the grant has no more.
    """

    caller: Caller
    expires_at: float
    grant_revision: int | None = None
    narrowed: frozenset[str] = frozenset()


class Access:
    """Identities by `Authorization` header."""

    def __init__(
        self,
        tokens: "TokenVerifier",
        keys: "KeyVerifier",
        revocations: Revocations,
        grants: Grants,
        partners: Partners,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._revocations = revocations
        self._grants = grants
        self._partners = partners
        self._clock = clock
        self._cached: dict[bytes, tuple[Identity, float]] = {}
        # So that a known token costs nothing more: what is revoked is taken out of the cache.
        self._headers: dict[str, set[bytes]] = {}
        revocations.tell(self._revoked)

    async def identity(self, header: bytes | None) -> Identity:
        """Who calls; of a partner that calls for a user, with the scopes that its grant has now.

        Raises:
            Problem: 401 no valid token or key, or its session was ended, or its partner may not call; 404 the grant
                that it was given for is no more; 503 auth is needed to say so and does not answer.
        """
        if header is None:
            raise unauthorized("Send `Authorization: Bearer` with an access token or a partner key.")
        cached = self._cached.get(header)
        if cached is not None and self._clock() < cached[1]:
            return self._now(cached[0])
        scheme, _, credential = header.decode("latin-1").partition(" ")
        # Spaces alone: what else could be cut off would be one key by another name.
        credential = credential.lstrip(" ")
        if scheme.lower() != "bearer" or not credential:
            raise unauthorized("Send `Authorization: Bearer` with an access token or a partner key.")
        if credential.startswith(API_KEY_PREFIX):
            return self._now(await self._keys.identity(credential))
        identity = await self._tokens.identity(credential)
        now = self.still(identity)
        self._remember(header, identity)
        return now

    def still(self, identity: Identity) -> Identity:
        """One that was good a moment ago, as it is now. Raises as `identity` does."""
        # Before its session: a grant that is revoked ends that too, and the answer must not depend on which is first.
        now = self._now(identity)
        session_id = identity.caller.session_id
        if self._revocations.cover(session_id):
            erasure_id = self._revocations.erasure(session_id)
            # No partner is told of an erasure but by its message.
            if erasure_id is not None and identity.caller.partner_id is None:
                raise erased(erasure_id)
            raise unauthorized("This session was ended. Sign in again.", "invalid_token")
        return now

    def acting(self, caller: Caller, user_id: str | None, scope: str) -> Caller:
        """The caller for the user that it names, where the call needs `scope`.

        Raises:
            Problem: 404 no such user, or none that lets it; 422 a partner that names nobody; 503 not known yet.
        """
        if caller.user_id is not None:
            if user_id not in (None, caller.user_id):
                raise not_found()
            return caller
        if user_id is None or caller.partner_id is None:
            raise Problem(422, "user-required", "Add ?user=<user_id> to the address: whose data is meant.")
        scopes = self._granted(caller, user_id)
        if scope not in scopes:
            raise not_found()
        return Caller(user_id, caller.partner_id, scopes)

    def _now(self, identity: Identity) -> Identity:
        caller = identity.caller
        if caller.partner_id is None:
            return identity
        # Before all of the topic is read, what is known of a partner may be long over.
        if not self._partners.known:
            raise auth_unavailable()
        if not self._partners.active(caller.partner_id):
            raise inactive()
        if caller.user_id is None:
            return identity
        scopes = self._granted(caller, caller.user_id, identity.grant_revision)
        now = Caller(caller.user_id, caller.partner_id, scopes, caller.session_id)
        return Identity(now, identity.expires_at, identity.grant_revision, caller.scopes - scopes)

    def _granted(self, caller: Caller, user_id: str, issued: int | None = None) -> frozenset[str]:
        # As with partners: a revocation may come after the grant that is known.
        if not self._grants.known:
            raise auth_unavailable()
        scopes = self._grants.scopes(user_id, caller.partner_id or "", issued)
        if scopes is None:
            raise not_found()
        return caller.scopes & scopes

    def _remember(self, header: bytes, identity: Identity) -> None:
        # By one spelling, or by adding spaces one token would drive out all others.
        if header.count(b" ") != 1:
            return
        if len(self._cached) >= MAX_CACHED:
            self._forget(next(iter(self._cached)))
        self._cached[header] = (identity, min(identity.expires_at, self._clock() + TOKEN_CACHED_S))
        if identity.caller.session_id is not None:
            self._headers.setdefault(identity.caller.session_id, set()).add(header)

    def _forget(self, header: bytes) -> None:
        session_id = self._cached.pop(header)[0].caller.session_id
        if session_id is not None:
            headers = self._headers[session_id]
            headers.discard(header)
            if not headers:
                del self._headers[session_id]

    def _revoked(self, event: SessionRevoked) -> None:
        for header in tuple(self._headers.get(event.session_id, ())):
            self._forget(header)


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
        identity = _key_identity(answer.json())
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


def _key_identity(document: dict[str, Any]) -> Identity:
    expires_at = document.get("expires_at")
    until = datetime.fromisoformat(expires_at).timestamp() if expires_at else None
    caller = Caller(None, document["partner_id"], frozenset(document["scopes"]), key_ends_at=until)
    return Identity(caller, NEVER if until is None else until)
