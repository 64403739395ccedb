"""Who calls: the gateway's internal tokens, users' access tokens, and the scopes that routes require."""

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from fastapi import Depends, FastAPI, Request
from joserfc.jwk import KeySet, OKPKey

from shared.errors import Problem
from shared.keys import (
    API_KEY_PREFIX,
    generate_key_files,
    is_api_key,
    load_jwks,
    load_private_jwk,
    new_api_key,
    public_jwks,
)
from shared.tokens import UnknownKey, invalid_token, signed, verified

__all__ = [
    "ACCESS_LIFETIME_S",
    "ACCESS_TYPE",
    "ANONYMOUS",
    "API_KEY_PREFIX",
    "FIRST_PARTY",
    "GRANTABLE_SCOPES",
    "OPERATOR_SCOPE",
    "PARTNER_SCOPES",
    "SCOPES",
    "Caller",
    "InternalTokenSigner",
    "InternalTokenVerifier",
    "UnknownKey",
    "access_caller",
    "caller_of",
    "check_scope",
    "generate_key_files",
    "install_identity",
    "invalid_token",
    "is_api_key",
    "load_jwks",
    "load_private_jwk",
    "new_api_key",
    "operating",
    "public_jwks",
    "require",
    "sign_access_token",
    "signed",
    "verified",
    "verify_access_token",
]

SCOPES: tuple[str, ...] = (
    "samples:write",
    "samples:read",
    "days:read",
    "profile:read",
    "profile:write",
    "photos:write",
    "photos:read",
    "diary:read",
    "diary:write",
    "ledger:read",
    "insights:read",
    "webhooks:write",
    "live:read",
    "grants:write",
    "users:manage",
    "partner:read",
    "partner:write",
)
# About the partner itself: the operator grants them, no user can, and no user has them.
PARTNER_SCOPES = frozenset({"webhooks:write", "users:manage", "partner:read", "partner:write"})
# Of the user's own app alone.
_OWN_APP_SCOPES = frozenset({"profile:read", "profile:write", "grants:write"})
# What a user can let a partner do, in order.
GRANTABLE_SCOPES = tuple(scope for scope in SCOPES if scope not in PARTNER_SCOPES | _OWN_APP_SCOPES)
# Of operators' commands, which sign with the gateway's key; no user, partner or grant ever has it.
OPERATOR_SCOPE = "operator"
INTERNAL_TYPE = "internal+jwt"
INTERNAL_ISSUER = "gateway"
INTERNAL_LIFETIME_S = 60
INTERNAL_REUSE_S = 30
ACCESS_TYPE = "at+jwt"
ACCESS_LIFETIME_S = 15 * 60
# The `client_id` of users' own apps.
FIRST_PARTY = "first-party"
CACHED_TOKENS = 4096


@dataclass(frozen=True)
class Caller:
    """Who a request is for: a user, a partner (perhaps for a user), or nobody. `session_id`: the user's sign-in.

    `key_ends_at`, in seconds since 1970: when the API key ends by which a partner itself calls; None for a key without
    an end, and for tokens.
    """

    user_id: str | None = None
    partner_id: str | None = None
    scopes: frozenset[str] = field(default_factory=frozenset[str])
    session_id: str | None = None
    key_ends_at: float | None = None


ANONYMOUS = Caller()


def sign_access_token(
    key: OKPKey,
    *,
    issuer: str,
    audience: str,
    user_id: str,
    scopes: Iterable[str],
    session_id: str | None = None,
    client_id: str = FIRST_PARTY,
    grant_revision: int | None = None,
    now: float | None = None,
    lifetime_s: int = ACCESS_LIFETIME_S,
) -> str:
    """An access token (RFC 9068, `at+jwt`); one without a session cannot be called back before its end.

    Of a partner, `user_id` is its own id, unless it calls for a user, whose grant then has `grant_revision`.
    """
    issued = int(time.time() if now is None else now)
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": user_id,
        "client_id": client_id,
        "scope": " ".join(scopes),
        "iat": issued,
        "exp": issued + lifetime_s,
        "jti": secrets.token_urlsafe(16),
    }
    if session_id is not None:
        claims["sid"] = session_id
    if grant_revision is not None:
        claims["grant_revision"] = grant_revision
    return signed(key, ACCESS_TYPE, claims)


def verify_access_token(token: str, keys: KeySet, *, issuer: str, audience: str, now: float | None = None) -> Caller:
    """The user behind an access token.

    Raises:
        UnknownKey: no key of the set has the token's `kid`.
        Problem: 401, anything else is wrong.
    """
    claims = verified(token, keys, token_type=ACCESS_TYPE, issuer=issuer, audience=audience, now=now)
    return access_caller(claims)


def access_caller(claims: dict[str, Any]) -> Caller:
    """Whom an access token's verified claims name: a user's own app, a partner, or a partner for a user.

    The last kind is good as long as the user's grant is, which the claim `grant_revision` (int) names.

    Raises:
        Problem: 401, they name nobody.
    """
    subject, client_id, session_id = claims.get("sub"), claims.get("client_id"), claims.get("sid")
    if not _is_id(subject) or not _is_id(client_id) or not (session_id is None or _is_id(session_id)):
        raise invalid_token()
    if client_id == FIRST_PARTY:
        return Caller(subject, None, _scopes(claims), session_id)
    if client_id == subject:
        if session_id is not None:
            raise invalid_token()
        return Caller(None, client_id, _scopes(claims))
    if session_id is None or type(claims.get("grant_revision")) is not int:
        raise invalid_token()
    return Caller(subject, client_id, _scopes(claims), session_id)


def _is_id(claim: object) -> bool:
    return isinstance(claim, str) and claim != ""


class InternalTokenSigner:
    """Signs who the caller is, for one service at a time; used by the gateway, and by operators' commands."""

    def __init__(self, key_path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._key = load_private_jwk(Path(key_path))
        self._clock = clock
        self._cache: OrderedDict[tuple[Caller, str], tuple[float, str]] = OrderedDict()

    def token(self, caller: Caller, audience: str) -> str:
        """A token of 60 s for the service `audience`, never an operator's; the same one is given again for 30 s."""
        now = self._clock()
        cached = self._cache.get((caller, audience))
        if cached is not None and now < cached[0]:
            return cached[1]
        token = signed(self._key, INTERNAL_TYPE, _internal_claims(caller, audience, int(now)))
        self._cache[(caller, audience)] = (now + INTERNAL_REUSE_S, token)
        self._cache.move_to_end((caller, audience))
        while len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return token

    def operator_token(self, audience: str) -> str:
        """A token of 60 s with which the holder of the gateway's key operates the service `audience`."""
        claims = _internal_claims(ANONYMOUS, audience, int(self._clock())) | {"scope": OPERATOR_SCOPE}
        return signed(self._key, INTERNAL_TYPE, claims)


class InternalTokenVerifier:
    """Reads the gateway's tokens; knows the old and the new key during rotation."""

    def __init__(self, jwks_path: Path, audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(jwks_path)
        self._audience = audience
        self._clock = clock
        self._keys = KeySet([])
        self._read_mtime_ns = -1
        self._cache: OrderedDict[str, tuple[float, Caller]] = OrderedDict()

    def caller(self, token: str) -> Caller:
        """The caller that `token` speaks for.

        Raises:
            Problem: 401.
        """
        now = self._clock()
        cached = self._cache.get(token)
        if cached is not None and now < cached[0]:
            return cached[1]
        claims = self._claims(token, now)
        caller = Caller(
            claims.get("sub"), claims.get("act"), _scopes(claims), claims.get("sid"), claims.get("key_ends_at")
        )
        self._cache[token] = (float(claims["exp"]), caller)
        while len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return caller

    def _claims(self, token: str, now: float) -> dict[str, Any]:
        try:
            return self._verified(token, now)
        except UnknownKey:
            if not self._read_again():
                raise
            return self._verified(token, now)

    def _verified(self, token: str, now: float) -> dict[str, Any]:
        return verified(
            token, self._keys, token_type=INTERNAL_TYPE, issuer=INTERNAL_ISSUER, audience=self._audience, now=now
        )

    def _read_again(self) -> bool:
        # Made-up key ids cost one stat, not one read.
        try:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns == self._read_mtime_ns:
                return False
            self._keys = load_jwks(json.loads(self._path.read_text()))
        except (OSError, ValueError) as error:
            raise Problem(503, "keys-unavailable", "Try again later.", headers={"Retry-After": "5"}) from error
        self._read_mtime_ns = mtime_ns
        return True


def install_identity(app: FastAPI, verifier: InternalTokenVerifier) -> None:
    """Let the routes of `app` know their callers."""
    app.state.identity = verifier


# Async, because FastAPI takes a plain function to a thread, where two first callers would read the keys at once.
async def caller_of(request: Request) -> Caller:
    """Who calls, from the internal token in `Authorization: Bearer`; usable as a dependency.

    Raises:
        Problem: 401, no valid token.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise invalid_token("Send a token in the Authorization header.")
    verifier = cast(InternalTokenVerifier, request.app.state.identity)
    return verifier.caller(token.strip())


def require(scope: str, kind: Literal["user", "partner"] = "user") -> Any:
    """A dependency that gives the Caller, which has `scope` and is a user or a partner.

    Raises:
        Problem: 401 without a valid token, 403 `insufficient-scope` otherwise.
    """
    if scope not in SCOPES:
        raise ValueError(f"no such scope: {scope}")

    async def checked(request: Request) -> Caller:
        caller = await caller_of(request)
        check_scope(caller, scope, kind)
        return caller

    return Depends(checked)


async def operating(request: Request) -> None:
    """A dependency that lets operators' commands pass and nobody else.

    Raises:
        Problem: 401 without a valid token, 403 `insufficient-scope` for any user or partner.
    """
    caller = await caller_of(request)
    if OPERATOR_SCOPE not in caller.scopes or caller.user_id is not None or caller.partner_id is not None:
        raise Problem(403, "insufficient-scope", "Only operators may ask, by ./mymacro.", scope=OPERATOR_SCOPE)


def check_scope(caller: Caller, scope: str, kind: Literal["user", "partner"] = "user") -> None:
    """Let `caller` pass or not. A partner that calls for a user is of the kind "user", as far as users can grant.

    Raises:
        Problem: 403, it lacks `scope` or is not of that kind.
    """
    user, partner = caller.user_id is not None, caller.partner_id is not None
    known = user and (not partner or scope in GRANTABLE_SCOPES) if kind == "user" else partner and not user
    if not known or scope not in caller.scopes:
        raise Problem(403, "insufficient-scope", f"This needs a {kind}'s token with the scope {scope}.", scope=scope)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    scope = claims.get("scope", "")
    return frozenset(scope.split()) if isinstance(scope, str) else frozenset()


def _internal_claims(caller: Caller, audience: str, now: int) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": INTERNAL_ISSUER,
        "aud": audience,
        "scope": " ".join(sorted(caller.scopes - {OPERATOR_SCOPE})),
        "iat": now,
        "exp": now + INTERNAL_LIFETIME_S,
    }
    if caller.user_id is not None:
        claims["sub"] = caller.user_id
    if caller.partner_id is not None:
        claims["act"] = caller.partner_id
    if caller.session_id is not None:
        claims["sid"] = caller.session_id
    if caller.key_ends_at is not None:
        claims["key_ends_at"] = caller.key_ends_at
    return claims
