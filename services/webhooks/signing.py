"""Standard Webhooks 1.0.0, symmetric: HMAC-SHA256 over `{id}.{timestamp}.{body}`, sent as `v1,<base64>`.

Receivers verify with any Standard Webhooks library; `verify` here is what our own receivers use.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix, not a secret
SECRET_BYTES = 32
TOLERANCE = timedelta(minutes=5)


class SignatureRefused(Exception):
    """The request does not prove that it comes from the holder of the secret; the text says why."""


def new_secret() -> bytes:
    """32 random bytes, one secret per endpoint."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """The secret as partners get it: `whsec_<base64>`."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def parsed(text: str) -> bytes:
    """The secret behind its shown form, with or without prefix and padding. Raises ValueError."""
    bare = text.removeprefix(SECRET_PREFIX).rstrip("=")
    try:
        secret = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a webhook secret is whsec_ followed by base64") from error
    if not secret:
        raise ValueError("a webhook secret must not be empty")
    return secret


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, `v1,<base64>`. `timestamp` is the attempt's time in whole seconds since 1970."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def signed_headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; while a secret is rotated the old and the new one both sign."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: datetime) -> None:
    """Check a request's three headers (looked up in lower case) against its raw body.

    Raises:
        SignatureRefused: a header is missing, the time is more than 5 min off, or no signature fits.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    values = [lower.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature")]
    if not all(values):
        raise SignatureRefused("webhook-id, webhook-timestamp and webhook-signature are all required")
    message_id, stamp, offered = values
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise SignatureRefused("webhook-timestamp must be whole seconds since 1970")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise SignatureRefused("webhook-timestamp is more than 5 minutes away from now")
    wanted = [sign(key, message_id, int(stamp), body).encode() for key in keys]
    given = [part.encode() for part in offered.split(" ") if part.startswith("v1,")]
    # Every pair is compared, so the time taken tells nothing about which one fits.
    if not any([hmac.compare_digest(one, other) for one in wanted for other in given]):
        raise SignatureRefused("no v1 signature fits this body and secret")
