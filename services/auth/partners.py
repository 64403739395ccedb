"""Partners: clients that users let see their data, and what others are told of them."""

import hashlib
import hmac
import re
import unicodedata
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace
from pydantic_core import PydanticCustomError

from shared.callers import GRANTABLE_SCOPES, PARTNER_SCOPES
from shared.documents.port import Collection, Documents, Index
from shared.events.auth import PartnerUpdated
from shared.ids import derived_id
from shared.outbox import OUTBOX_INDEX, Outboxed

State = Literal["pending", "active", "suspended"]

# Whatever a partner asks for, it can look after itself.
ALWAYS = ("partner:read", "partner:write")
# What a partner can have at all, in order.
POSSIBLE_SCOPES = tuple(sorted(PARTNER_SCOPES | set(GRANTABLE_SCOPES)))
# Good at once: the current one, and earlier ones in their overlap.
MAX_SECRETS = 4
MAX_OVERLAP = timedelta(days=7)
# Anybody can register, and leaves an address: who was not approved by then is forgotten.
PENDING_KEPT = timedelta(days=90)
MAX_NAME = 80
MAX_REDIRECT_URIS = 20
MAX_REDIRECT_URI = 512
# What RFC 3986 lets a URI consist of, less "*" and "#".
URI_CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:/?\[\]@!$&'()+,;=-]|%[0-9A-Fa-f]{2})+")
HOST = re.compile(r"(?!-)[a-z0-9-]+(?:\.[a-z0-9-]+)*")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

DEMO_PARTNER_ID = "demo-partner"
DEMO_PARTNER_NAME = "Demo partner"
DEMO_PARTNER_SCOPES = (
    "samples:read",
    "days:read",
    "photos:read",
    "diary:read",
    "ledger:read",
    "insights:read",
    "live:read",
    "webhooks:write",
)


class ClientSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A client secret by its SHA-256. `expires_at` stands once another has taken its place.

    `request` is the id of the request that made it, so that a repeat of that makes no other; `request_hash` is of what
    that asked for, "" in the first one and in those of before it was kept.
    """

    hash: bytes
    created_at: datetime
    expires_at: datetime | None = None
    request: str = ""
    request_hash: str = ""


class Partner(Outboxed, frozen=True, kw_only=True):
    """A client that users grant scopes to; `scopes` is the most it can ever have. Only an active one has anything.

    `revision` counts what others are told of; 0 = nothing yet. `requests_per_min` None: the setting's.
    """

    name: str
    scopes: tuple[str, ...]
    revision: int
    state: State
    redirect_uris: tuple[str, ...] = ()
    requests_per_min: int | None = None
    contact: str = ""
    secrets: tuple[ClientSecret, ...] = ()
    created_at: datetime | None = None
    request_hash: str = ""


def _with_state(raw: dict[str, Any]) -> dict[str, Any]:
    # Version 1 knew none but the demo partner, which was good from the start.
    return raw | {"state": "active"}


# By state and name, as operators list them.
LISTED_INDEX = "listed"
WAITING_INDEX = "waiting"
PARTNERS = Collection(
    "partners",
    Partner,
    (Index(LISTED_INDEX, ("state", "name")), Index(WAITING_INDEX, ("state", "created_at")), OUTBOX_INDEX),
    v=2,
    upgrades={1: _with_state},
)


def secret_hash(secret: str) -> bytes:
    """What is stored of a client secret, whose 178 random bits a fast hash does for."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def holds(partner: Partner | None, secret: str, now: datetime) -> bool:
    """Whether `secret` is one of the partner's that are good now; without a partner it takes as long to say no."""
    presented = secret_hash(secret)
    good = [one.hash for one in live_secrets(partner, now)] if partner is not None else []
    found = False
    for number in range(MAX_SECRETS):
        known = good[number] if number < len(good) else bytes(32)
        found |= hmac.compare_digest(presented, known)
    return found


def live_secrets(partner: Partner, now: datetime) -> tuple[ClientSecret, ...]:
    """The secrets that are good now."""
    return tuple(one for one in partner.secrets if one.expires_at is None or one.expires_at > now)


def with_secret(partner: Partner, secret: ClientSecret, earlier_until: datetime) -> Partner:
    """The partner with a new secret; the earlier ones end at `earlier_until` at the latest."""
    earlier = tuple(
        replace(one, expires_at=earlier_until if one.expires_at is None else min(one.expires_at, earlier_until))
        for one in live_secrets(partner, secret.created_at)
    )
    return replace(partner, secrets=(*(one for one in earlier if one.expires_at != secret.created_at), secret))


def shown_name(text: str) -> str:
    """A partner's name as people will read it: Unicode form NFKC, single spaces, nothing invisible.

    Raises:
        PydanticCustomError: it is empty, too long, or has characters that cannot be seen. It is a ValueError.
    """
    name = re.sub(" +", " ", unicodedata.normalize("NFKC", text)).strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise PydanticCustomError("name", "Send 1 to {most} characters that can be seen", {"most": MAX_NAME})
    return name


def redirect_uri(text: str) -> str:
    """`text` unchanged, when a code may be sent there: https, or http on this very machine; no fragment, no wildcard.

    Raises:
        PydanticCustomError: it may not. It is a ValueError.
    """
    error = PydanticCustomError(
        "redirect_uri", "Send an https address (or http on loopback) without fragment, user name or wildcard"
    )
    if len(text) > MAX_REDIRECT_URI or URI_CHARACTERS.fullmatch(text) is None:
        raise error
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise error from None
    if "@" in parts.netloc or port == 0 or not text.startswith(f"{parts.scheme}://"):
        raise error
    if parts.scheme == "http" and host in LOOPBACK:
        return text
    if parts.scheme != "https" or HOST.fullmatch(host) is None:
        raise error
    return text


def partner_updated(partner: Partner, at: datetime) -> PartnerUpdated:
    """The event that tells the others of this revision."""
    return PartnerUpdated(
        event_id=derived_id(partner.id, partner.revision, "partner.updated"),
        occurred_at=at,
        partner_id=partner.id,
        revision=partner.revision,
        name=partner.name,
        scopes=partner.scopes,
        state=partner.state,
        requests_per_min=partner.requests_per_min,
    )


async def forget(documents: Documents, now: datetime) -> int:
    """Delete those that registered 90 days ago and were not approved; how many that were."""
    return await documents.delete_where(PARTNERS, WAITING_INDEX, ("pending",), below=now - PENDING_KEPT)
