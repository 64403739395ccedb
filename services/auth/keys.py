"""Partners' API keys and client secrets as auth keeps them: by hash, never the thing itself.

Both have 178 random bits, so a fast hash is enough; their form and checksum are in `shared.keys`, which the gateway
uses to refuse junk without asking.
"""

import hashlib
from datetime import datetime
from pathlib import Path

from shared.documents.port import Collection, Document, Index
from shared.ids import derived_id
from shared.keys import is_api_key, new_credential

CLIENT_SECRET_PREFIX = "mms_"  # noqa: S105 - what all secrets begin with, none itself
# What of a key people may see again, to tell it from others: 24 of its 178 bits.
HINT_CHARACTERS = 8


class PartnerKey(Document, frozen=True, kw_only=True):
    """An API key. Its id is the key's SHA-256; the key itself is nowhere.

    `request` is the id of the request that made it, `request_hash` of what that asked for, "" in keys of before it was
    kept. `first_lifetime_s` is of a key whose end was brought forward: for how many seconds it was good at first, None
    for ever; 0 in all others. `last_used_at` is right to an hour.
    """

    partner_id: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    name: str = ""
    hint: str = ""
    last_used_at: datetime | None = None
    request: str | None = None
    request_hash: str = ""
    first_lifetime_s: float | None = 0.0


KEYS_INDEX = "partner"
ENDED_INDEX = "ended"
REQUEST_INDEX = "request"
PARTNER_KEYS = Collection(
    "partner_keys",
    PartnerKey,
    (
        Index(KEYS_INDEX, ("partner_id",)),
        Index(ENDED_INDEX, ("partner_id", "expires_at")),
        Index(REQUEST_INDEX, ("request",), unique=True),
    ),
)


def key_id(key: str) -> str:
    """What is stored of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def public_id(key: PartnerKey) -> str:
    """What its partner calls it; the hash stays inside."""
    return derived_id("partner-key", key.id)


def lifetime_s(key: PartnerKey) -> float | None:
    """For how many seconds it was good at first, None for ever."""
    if key.first_lifetime_s != 0:
        return key.first_lifetime_s
    return None if key.expires_at is None else (key.expires_at - key.created_at).total_seconds()


def is_live(key: PartnerKey, now: datetime) -> bool:
    """Whether it is still good, as far as the key itself goes."""
    return key.expires_at is None or key.expires_at > now


def new_client_secret() -> str:
    """A fresh client secret: `mms_`, 30 random base62 characters, 6 of CRC32."""
    return new_credential(CLIENT_SECRET_PREFIX)


def read_key_file(path: Path) -> str:
    """The key in a file.

    Raises:
        ValueError: it is not a key of ours.
    """
    key = path.read_text().strip()
    if not is_api_key(key):
        raise ValueError(f"{path} holds no partner key")
    return key
