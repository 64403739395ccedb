"""What a signed-in user's own app holds: an access token (RFC 9068, 15 min) and a refresh token, which is opaque.

A refresh token is `mmr_`, base64url of session (16 bytes), secret (32 bytes) and a MAC over both (16 bytes), and a
CRC32. The MAC says that auth made it, so a made-up token costs no look-up and cannot pass for the replay of an old one.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.auth.signing import SigningKeys
from shared.access_tokens import ACCESS_LIFETIME_S, sign_access_token
from shared.callers import PARTNER_SCOPES, SCOPES
from shared.keys import checksum

USER_SCOPES = tuple(scope for scope in SCOPES if scope not in PARTNER_SCOPES)
REFRESH_PREFIX = "mmr_"
SESSION_PREFIX = "sid_"
SESSION_BYTES = 16
SECRET_BYTES = 32
MAC_BYTES = 16
CHECKSUM_CHARACTERS = 6
REFRESH_CHARACTERS = len(REFRESH_PREFIX) + 86 + CHECKSUM_CHARACTERS


@dataclass(frozen=True)
class AccessTokens:
    """Issues access tokens with the key of the day; whoever has the JWKS can verify them."""

    keys: SigningKeys
    issuer: str
    audience: str
    lifetime_s: int = ACCESS_LIFETIME_S

    def issue(self, user_id: str, session_id: str, now: datetime) -> str:
        """A token for the user's own app, with every scope that users have."""
        return sign_access_token(
            self.keys.signing(now),
            issuer=self.issuer,
            audience=self.audience,
            user_id=user_id,
            session_id=session_id,
            scopes=USER_SCOPES,
            now=now.timestamp(),
            lifetime_s=self.lifetime_s,
        )

    def issue_to_partner(
        self,
        partner_id: str,
        scopes: Iterable[str],
        now: datetime,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        grant_revision: int | None = None,
    ) -> str:
        """A token for a partner: for itself, or for a user with the session it arose in and the grant's revision."""
        return sign_access_token(
            self.keys.signing(now),
            issuer=self.issuer,
            audience=self.audience,
            user_id=user_id or partner_id,
            client_id=partner_id,
            session_id=session_id,
            grant_revision=grant_revision,
            scopes=scopes,
            now=now.timestamp(),
            lifetime_s=self.lifetime_s,
        )

    def jwks(self, now: datetime) -> dict[str, Any]:
        """The public keys with which a token may be signed now or soon, as a JWK set."""
        return self.keys.jwks(now)


@dataclass(frozen=True)
class RefreshToken:
    """A refresh token taken apart."""

    session: bytes
    secret: bytes

    @property
    def session_id(self) -> str:
        """The id of its session, which access tokens carry as `sid`."""
        return SESSION_PREFIX + base64.b32encode(self.session).decode().rstrip("=").lower()

    @property
    def hash(self) -> bytes:
        """What the database has of it; the secret is random, so a fast hash does."""
        return hashlib.sha256(self.secret).digest()


class RefreshTokens:
    """Makes and reads refresh tokens under auth's secret of 32 bytes, without which a token's successor is unknown."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the secret of refresh tokens needs 32 bytes")
        # Keys of their own: the same secret makes user ids.
        self._mac_key = hmac.digest(secret, b"refresh token: mac", "sha256")
        self._next_key = hmac.digest(secret, b"refresh token: successor", "sha256")

    def first(self) -> RefreshToken:
        """The first token of a new session."""
        return RefreshToken(secrets.token_bytes(SESSION_BYTES), secrets.token_bytes(SECRET_BYTES))

    def successor(self, token: RefreshToken) -> RefreshToken:
        """The one token that follows."""
        return RefreshToken(token.session, hmac.digest(self._next_key, token.session + token.secret, "sha256"))

    def text(self, token: RefreshToken) -> str:
        """What the client is given."""
        raw = token.session + token.secret
        body = base64.urlsafe_b64encode(raw + self._mac(raw)).decode().rstrip("=")
        return REFRESH_PREFIX + body + checksum(body)

    def read(self, text: str) -> RefreshToken | None:
        """The token in `text`; None when auth never made it."""
        if len(text) != REFRESH_CHARACTERS or not text.startswith(REFRESH_PREFIX) or not text.isascii():
            return None
        body = text[len(REFRESH_PREFIX) : -CHECKSUM_CHARACTERS]
        if checksum(body) != text[-CHECKSUM_CHARACTERS:]:
            return None
        try:
            raw = base64.b64decode(body + "==", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        content, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            return None
        return RefreshToken(content[:SESSION_BYTES], content[SESSION_BYTES:])

    def _mac(self, raw: bytes) -> bytes:
        return hmac.digest(self._mac_key, raw, "sha256")[:MAC_BYTES]
