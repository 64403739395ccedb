"""What users let partners see."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from services.auth.partners import Partner
from services.auth.repeats import key_reused
from shared.callers import GRANTABLE_SCOPES
from shared.documents.port import Collection, Index
from shared.errors import Problem
from shared.events.auth import GrantUpdated
from shared.ids import derived_id
from shared.outbox import OUTBOX_INDEX, Outboxed

REMEMBERED_REQUESTS = 16


class Grant(Outboxed, frozen=True, kw_only=True):
    """What one user lets one partner see, or did until `revoked_at`.

    `granted_at` is the time of this revision; without a break the grant lives since `since_at`, in `since_revision`.
    `requests` are the last (Idempotency-Key, request hash) pairs.
    """

    user_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int
    granted_at: datetime
    since_revision: int
    since_at: datetime
    revoked_at: datetime | None = None
    requests: tuple[tuple[str, str], ...] = ()


def _with_beginning(raw: dict[str, Any]) -> dict[str, Any]:
    # Version 1 could not be revoked, so it lives since its first revision; when that was, nobody wrote down.
    return raw | {"since_revision": 1, "since_at": raw["granted_at"]}


USER_INDEX = "user"
GRANTS = Collection(
    "grants", Grant, (Index(USER_INDEX, ("user_id",)), OUTBOX_INDEX), v=2, upgrades={1: _with_beginning}
)


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
    grantable = set(partner.scopes) & set(GRANTABLE_SCOPES)
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
        Problem: 422 another request was sent under the same key, 409 what this one gave was taken back since.
    """
    earlier = dict(grant.requests).get(key)
    if earlier is not None and earlier != hashed:
        raise key_reused()
    if earlier is not None and grant.revoked_at is not None:
        raise Problem(
            409, "grant-revoked", "This grant was taken back since. Take a fresh Idempotency-Key to grant again."
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
        since_revision=grant.since_revision,
        revoked_at=grant.revoked_at,
    )
