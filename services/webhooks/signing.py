"""Standard Webhooks 1.0.0: signatures over `{id}.{timestamp}.{body}`, `v1,…` by HMAC-SHA256 or `v1a,…` by ed25519.

Receivers verify with any Standard Webhooks library; `verify` here is what our own receivers use.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix, not a secret
PUBLIC_PREFIX = "whpk_"
HMAC, ED25519 = "v1", "v1a"
SECRET_BYTES = 32
TOLERANCE = timedelta(minutes=5)
# Far more than a rotation needs; a longer list is not worth the work of checking it.
MAX_SIGNATURES = 16

SigningKey = bytes | Ed25519PrivateKey
VerifyingKey = bytes | Ed25519PublicKey


class SignatureRefused(Exception):
    """The request does not prove that it comes from the holder of the secret; the text says why."""


def new_secret() -> bytes:
    """32 random bytes: an HMAC secret, or the seed of an ed25519 key."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(key: VerifyingKey) -> str:
    """The key as partners get it: `whsec_<base64>`, or `whpk_<base64>` for a public one."""
    if isinstance(key, bytes):
        return SECRET_PREFIX + base64.b64encode(key).decode()
    return PUBLIC_PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def parsed(text: str) -> bytes:
    """The secret behind its shown form, with or without prefix and padding. Raises ValueError."""
    secret = _decoded(text.removeprefix(SECRET_PREFIX), "a webhook secret is whsec_ followed by base64")
    if not secret:
        raise ValueError("a webhook secret must not be empty")
    return secret


def parsed_key(text: str) -> VerifyingKey:
    """What verifies, behind its shown form: `whpk_…` is a public key, anything else a secret. Raises ValueError."""
    if not text.startswith(PUBLIC_PREFIX):
        return parsed(text)
    raw = _decoded(text.removeprefix(PUBLIC_PREFIX), "a public key is whpk_ followed by base64")
    if len(raw) != SECRET_BYTES:
        raise ValueError(f"a public key has {SECRET_BYTES} bytes")
    return Ed25519PublicKey.from_public_bytes(raw)


def sign(key: SigningKey, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, `v1,<base64>` or `v1a,<base64>`. `timestamp`: the attempt's time in whole seconds since 1970."""
    content = _content(message_id, timestamp, body)
    if isinstance(key, bytes):
        return f"{HMAC}," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return f"{ED25519}," + base64.b64encode(key.sign(content)).decode()


def signed_headers(keys: Sequence[SigningKey], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; while a secret is rotated the old and the new one both sign."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }


def verify(keys: Sequence[VerifyingKey], headers: Mapping[str, str], body: bytes, now: datetime) -> None:
    """Check a request's three headers (looked up in lower case) against its raw body.

    Raises:
        SignatureRefused: a header is missing, the time is more than 5 min off, or no signature fits.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    values = [lower.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature")]
    if not all(values):
        raise SignatureRefused("webhook-id, webhook-timestamp and webhook-signature are all required")
    message_id, stamp, offered = values
    if not (message_id + offered).isascii():
        raise SignatureRefused("webhook-id and webhook-signature must be ASCII")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise SignatureRefused("webhook-timestamp must be whole seconds since 1970")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise SignatureRefused("webhook-timestamp is more than 5 minutes away from now")
    content = _content(message_id, int(stamp), body)
    given = offered.split(" ")[:MAX_SIGNATURES]
    # Every pair is compared, so the time taken tells nothing about which one fits.
    if not any([_fits(key, content, part) for key in keys for part in given]):
        raise SignatureRefused("no signature fits this body and key")


def _fits(key: VerifyingKey, content: bytes, part: str) -> bool:
    version, _, encoded = part.partition(",")
    if isinstance(key, bytes):
        wanted = base64.b64encode(hmac.digest(key, content, hashlib.sha256))
        return version == HMAC and hmac.compare_digest(wanted, encoded.encode())
    try:
        key.verify(base64.b64decode(encoded, validate=True), content)
    except (InvalidSignature, ValueError):
        return False
    return version == ED25519


def _content(message_id: str, timestamp: int, body: bytes) -> bytes:
    return b".".join((message_id.encode(), str(timestamp).encode(), body))


def _decoded(text: str, refusal: str) -> bytes:
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(refusal) from error
