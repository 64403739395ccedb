"""Authorization codes: good once, for a minute, for the client, redirect URI and challenge that they were made for.

A code is kept for a day after its use, so that a second use is known for one and ends what the first gave rise to.
"""

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta

from shared.documents import Collection, Document, Documents, Index

LIFETIME = timedelta(seconds=60)
KEPT = timedelta(days=1)
CODE_PREFIX = "mmc_"
# base64url of a SHA-256 (RFC 7636 §4.2), and what it is made of (§4.1).
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)


class Code(Document, frozen=True, kw_only=True):
    """A code; its id is the code's SHA-256. `signed_in_at`: when the user proved who they are.

    `session_id` is set by the first use, to what arises from it; `replayed` by the second.
    """

    partner_id: str
    redirect_uri: str
    challenge: str
    user_id: str
    scopes: tuple[str, ...]
    grant_revision: int
    signed_in_at: datetime
    expires_at: datetime
    forget_at: datetime
    session_id: str | None = None
    replayed: bool = False


FORGET_INDEX = "forget"
USER_INDEX = "user"
CODES = Collection("codes", Code, (Index(FORGET_INDEX, ("forget_at",)), Index(USER_INDEX, ("user_id",))))


def new_code() -> str:
    """A fresh code, with 256 random bits."""
    return CODE_PREFIX + secrets.token_urlsafe(32)


def code_id(text: str) -> str:
    """What is stored of a code; the code itself is nowhere."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def is_challenge(text: str) -> bool:
    """Whether `text` can be a challenge of the method S256."""
    return CHALLENGE.fullmatch(text) is not None


def is_verifier(text: str) -> bool:
    """Whether `text` can be a verifier."""
    return VERIFIER.fullmatch(text) is not None


def challenge_of(verifier: str) -> str:
    """The challenge of the method S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def is_met(code: Code, *, redirect_uri: str, verifier: str, now: datetime) -> bool:
    """Whether the client that the code was made for may have what it stands for."""
    proved = hmac.compare_digest(challenge_of(verifier), code.challenge)
    return proved and redirect_uri == code.redirect_uri and now < code.expires_at


async def forget(documents: Documents, now: datetime) -> int:
    """Delete codes that are a day old; how many that were."""
    return await documents.delete_where(CODES, FORGET_INDEX, (), below=now)
