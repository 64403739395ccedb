"""What lets a user back in: recovery codes in place of the second factor, and tokens that set a new password."""

import hashlib
import secrets
from base64 import b32encode
from datetime import datetime, timedelta

from services.auth.accounts import Pepper
from shared.documents.port import Document

CODES = 10
# Too short for a fast hash alone; the pepper, which is not in the database, keeps a stolen one from being searched.
CODE_BYTES = 10
GROUP = 4
RESET_LIFETIME = timedelta(minutes=30)
RESET_BYTES = 32


class Reset(Document, frozen=True, kw_only=True):
    """A way to a new password. Its id is the token's SHA-256; the token is in the letter alone."""

    user_id: str
    expires_at: datetime


def new_codes() -> tuple[str, ...]:
    """Ten codes of 80 random bits, such as ab2c-3def-gh4i-jk5l."""
    return tuple(_grouped(b32encode(secrets.token_bytes(CODE_BYTES)).decode().lower()) for _ in range(CODES))


def code_hash(pepper: Pepper, user_id: str, code: str) -> str:
    """What is stored of a code; spaces, dashes and capitals make no difference."""
    return pepper.recovery_hash(user_id, "".join(code.split()).replace("-", "").lower())


def new_reset_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(RESET_BYTES)


def reset_id(token: str) -> str:
    """What is stored of a reset token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _grouped(text: str) -> str:
    return "-".join(text[at : at + GROUP] for at in range(0, len(text), GROUP))
