"""Partners, and what users let them see."""

import hashlib
from collections.abc import Iterable
from datetime import datetime

from shared.documents.port import Document
from shared.errors import Problem
from shared.events import GrantUpdated, PartnerUpdated, derived_id
from shared.outbox import Outboxed

# What a grant can be about: the user's data. The rest is about the partner itself.
PARTNER_ONLY = frozenset({"webhooks:write", "grants:write"})
REMEMBERED_REQUESTS = 16
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


class Partner(Outboxed, frozen=True, kw_only=True):
    """A client that users grant scopes to; `scopes` is the most it can ever have."""

    name: str
    scopes: tuple[str, ...]
    revision: int


class PartnerKey(Document, frozen=True, kw_only=True):
    """An API key. Its id is the key's SHA-256; the key itself is nowhere."""

    partner_id: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None


class Grant(Outboxed, frozen=True, kw_only=True):
    """What one user lets one partner see. `requests` are the last (Idempotency-Key, request hash) pairs."""

    user_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int
    granted_at: datetime
    requests: tuple[tuple[str, str], ...] = ()


def grant_id(user_id: str, partner_id: str) -> str:
    """One grant per user and partner."""
    return derived_id("grant", user_id, partner_id)


def request_hash(partner_id: str, scopes: Iterable[str]) -> str:
    """What two requests under one key must have in common."""
    return hashlib.sha256("\n".join([partner_id, *sorted(set(scopes))]).encode()).hexdigest()


def check_scopes(partner: Partner, scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes once each and in order.

    Raises:
        Problem: 422, the partner cannot have one of them.
    """
    grantable = set(partner.scopes) - PARTNER_ONLY
    wanted = set(scopes)
    if not wanted <= grantable:
        raise Problem(
            422,
            "scope-not-grantable",
            "Grant only scopes from `grantable`.",
            grantable=sorted(grantable),
        )
    return tuple(sorted(wanted))


def was_answered(grant: Grant, key: str, hashed: str) -> bool:
    """Whether this very request was answered before.

    Raises:
        Problem: 422, another request was sent under the same key.
    """
    earlier = dict(grant.requests).get(key)
    if earlier is not None and earlier != hashed:
        raise Problem(
            422, "idempotency-key-reused", "This Idempotency-Key was used with another body. Take a fresh key."
        )
    return earlier is not None


def remembered(grant: Grant | None, key: str, hashed: str) -> tuple[tuple[str, str], ...]:
    """The grant's requests with this one."""
    earlier = grant.requests if grant else ()
    return (*earlier, (key, hashed))[-REMEMBERED_REQUESTS:]


def grant_updated(grant: Grant) -> GrantUpdated:
    """The event that tells the others of this revision."""
    return GrantUpdated(
        event_id=derived_id(grant.id, grant.revision, "grant.updated"),
        occurred_at=grant.granted_at,
        grant_id=grant.id,
        user_id=grant.user_id,
        partner_id=grant.partner_id,
        revision=grant.revision,
        scopes=grant.scopes,
    )


def partner_updated(partner: Partner, at: datetime) -> PartnerUpdated:
    """The event that tells the others of this revision."""
    return PartnerUpdated(
        event_id=derived_id(partner.id, partner.revision, "partner.updated"),
        occurred_at=at,
        partner_id=partner.id,
        revision=partner.revision,
        name=partner.name,
        scopes=partner.scopes,
    )
