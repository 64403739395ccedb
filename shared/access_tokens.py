"""Access tokens (RFC 9068), which auth signs for users' own apps and for partners."""

import secrets
import time
from collections.abc import Iterable
from typing import Any

from joserfc.jwk import OKPKey

from shared.callers import Caller
from shared.tokens import claimed_scopes, invalid_token, signed

ACCESS_TYPE = "at+jwt"
ACCESS_LIFETIME_S = 15 * 60
# The `client_id` of users' own apps.
FIRST_PARTY = "first-party"


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
        return Caller(subject, None, claimed_scopes(claims), session_id)
    if client_id == subject:
        if session_id is not None:
            raise invalid_token()
        return Caller(None, client_id, claimed_scopes(claims))
    if session_id is None or type(claims.get("grant_revision")) is not int:
        raise invalid_token()
    return Caller(subject, client_id, claimed_scopes(claims), session_id)


def _is_id(claim: object) -> bool:
    return isinstance(claim, str) and claim != ""
