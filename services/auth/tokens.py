"""What a signed-in user's own app may do, and the access token (RFC 9068, 15 min) that says so."""

from dataclasses import dataclass
from datetime import datetime

from joserfc.jwk import OKPKey

from shared.identity import ACCESS_LIFETIME_S, SCOPES, sign_access_token

# Webhook endpoints belong to partners.
USER_SCOPES = tuple(scope for scope in SCOPES if scope != "webhooks:write")


@dataclass(frozen=True)
class AccessTokens:
    """Issues access tokens with one key; whoever has the JWKS can verify them."""

    key: OKPKey
    issuer: str
    audience: str
    lifetime_s: int = ACCESS_LIFETIME_S

    def issue(self, user_id: str, now: datetime) -> str:
        """A token for the user's own app, with every scope that users have."""
        return sign_access_token(
            self.key,
            issuer=self.issuer,
            audience=self.audience,
            user_id=user_id,
            scopes=USER_SCOPES,
            now=now.timestamp(),
            lifetime_s=self.lifetime_s,
        )
