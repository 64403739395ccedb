"""Time-based one-time passwords (RFC 6238 over RFC 4226: SHA-1, six digits, 30 s), as every authenticator app has."""

import hmac
import secrets
from base64 import b32encode
from urllib.parse import quote, urlencode

STEP_S = 30
DIGITS = 6
# RFC 4226 §4 R6: as long as the hash.
SECRET_BYTES = 20
# Steps before and after the present one whose codes are taken: clocks differ, typing takes time.
DRIFT_STEPS = 1
ISSUER = "MyMacroTracker"


def new_secret() -> bytes:
    """A fresh shared secret."""
    return secrets.token_bytes(SECRET_BYTES)


def code_at(secret: bytes, step: int) -> str:
    """The code of the 30 s that begin at `step` times 30 s after 1970 (RFC 4226 §5.3)."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def matching_step(secret: bytes, code: str, now: float, after: int) -> int | None:
    """The step whose code this is, one later than `after`; None for a wrong, a late or a used code.

    `now` in seconds since 1970. Every step is compared, whichever matches.
    """
    present = int(now) // STEP_S
    given = code.encode(errors="replace")
    steps = range(present - DRIFT_STEPS, present + DRIFT_STEPS + 1)
    found = [step for step in steps if hmac.compare_digest(code_at(secret, step).encode(), given)]
    return next((step for step in found if step > after), None)


def written(secret: bytes) -> str:
    """The secret as people type it into an authenticator."""
    return b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, account: str) -> str:
    """What a QR code for authenticator apps holds (the Key URI format)."""
    values = urlencode({"secret": written(secret), "issuer": ISSUER, "digits": DIGITS, "period": STEP_S})
    return f"otpauth://totp/{quote(ISSUER)}:{quote(account)}?{values}"
