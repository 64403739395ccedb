"""Signed tokens (JWS, Ed25519). joserfc checks signatures only: it takes expired tokens and any `typ` or `aud`.

So algorithm, type, issuer, audience and times are checked here, for every kind of token.
"""

import base64
import json
import time
import warnings
from typing import Any, TypeGuard, cast

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet, OKPKey

from shared.errors import Problem
from shared.keys import ALGORITHM

# What RFC 9864 deprecates the name for, that it leaves the curve open, the keys settle: all are Ed25519 (ADR 20).
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)

LEEWAY_S = 5  # clocks of two machines
MAX_TOKEN_CHARS = 8192


class UnknownKey(Problem):
    """A well-formed token of a key that is not in the set: read the set again, or refuse."""

    def __init__(self) -> None:
        super().__init__(401, "invalid-token", "Sign in again.", headers={"WWW-Authenticate": "Bearer"})


def invalid_token(detail: str = "Sign in again.") -> Problem:
    """The one answer to every bad token; it never says which check failed."""
    return Problem(401, "invalid-token", detail, headers={"WWW-Authenticate": "Bearer"})


def signed(key: OKPKey, token_type: str, claims: dict[str, Any]) -> str:
    """A JWS of `claims` with `typ` and `kid` in its header."""
    return jwt.encode({"alg": ALGORITHM, "typ": token_type, "kid": key.kid}, claims, key, algorithms=[ALGORITHM])


def verified(
    token: str, keys: KeySet, *, token_type: str, issuer: str, audience: str, now: float | None = None
) -> dict[str, Any]:
    """The claims of `token` once signature, algorithm, type, issuer, audience and times hold.

    Raises:
        UnknownKey: no key of the set has the token's `kid`.
        Problem: 401, anything else is wrong.
    """
    header = _header(token)
    if header.get("alg") != ALGORITHM or header.get("typ") != token_type or "crit" in header:
        raise invalid_token()
    key = next((key for key in keys if key.kid == header.get("kid")), None)
    if key is None:
        raise UnknownKey
    try:
        claims = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError, RecursionError) as error:
        raise invalid_token() from error
    _check_claims(claims, issuer, audience, time.time() if now is None else now)
    return claims


def claimed_scopes(claims: dict[str, Any]) -> frozenset[str]:
    """The scopes in a token's claims; none where there is no text."""
    scope = claims.get("scope", "")
    return frozenset(scope.split()) if isinstance(scope, str) else frozenset()


def _header(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN_CHARS:
        raise invalid_token()
    try:
        encoded = token.split(".", 1)[0]
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError) as error:  # JSON nested a thousand deep fits into a token
        raise invalid_token() from error
    if not isinstance(header, dict):
        raise invalid_token()
    return cast(dict[str, Any], header)


def _check_claims(claims: dict[str, Any], issuer: str, audience: str, now: float) -> None:
    expires, issued = claims.get("exp"), claims.get("iat")
    if claims.get("iss") != issuer or claims.get("aud") != audience:
        raise invalid_token()
    if not _is_number(expires) or not _is_number(issued):
        raise invalid_token()
    if now >= expires + LEEWAY_S:
        raise invalid_token("The token has expired; get a new one.")
    if now < issued - LEEWAY_S:
        raise invalid_token()


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
