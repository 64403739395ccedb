"""Managed users: made by a partner, seen by it under a grant like any other's, and never able to sign in."""

import hmac

from services.auth import accounts, audit, enrolment, registration
from services.auth.accounts import User
from services.auth.enrolment import Deps
from services.auth.partners import Partner
from services.auth.repeats import key_reused
from services.auth.store import MANAGED_INDEX, USERS
from shared import topics
from shared.callers import GRANTABLE_SCOPES
from shared.documents import Conflict, Page
from shared.errors import Problem, Unavailable
from shared.events.auth import Profile
from shared.outbox import outbox_event, with_events


async def create(deps: Deps, partner_id: str, key: str, profile: Profile) -> User:
    """The user that this request makes, or made before, under a grant of all that users can grant this partner.

    Raises:
        Problem: 403 the partner is not active, 409 the user was erased, 422 it can be granted nothing, or another
            request was sent under this key.
    """
    partner = await registration.own(deps, partner_id)
    scopes = [scope for scope in GRANTABLE_SCOPES if scope in partner.scopes]
    if not scopes:
        raise Problem(422, "scope-not-possible", "This partner has no scope about users' data. Register one that has.")
    user = await _added(deps, partner, key, profile)
    # A repeat after a crash between the two makes it; one after a later change of the grant changes nothing.
    await enrolment.grant(deps, user.id, f"managed {user.id}", partner.id, scopes)
    return user


async def _added(deps: Deps, partner: Partner, key: str, profile: Profile) -> User:
    now, hashed = deps.clock(), accounts.profile_hash(profile)
    user = User(
        id=deps.pepper.managed_user_id(key, partner.id),
        email="",
        email_hash=None,
        password_hash="",
        profile=accounts.stored_profile(profile),
        revision=1,
        created_at=now,
        request_hash=hashed,
        managed_by=partner.id,
    )
    await enrolment.check_not_erased(deps, user.id)
    event = outbox_event(topics.USERS, accounts.user_updated(user, now))
    line = audit.line("managed-user-created", now, user_id=user.id, partner_id=partner.id)
    try:
        known = await deps.store.put_user(with_events(user, event), line)
    except Conflict:
        known = await deps.store.user(user.id)
    if known is None:
        raise Unavailable("database")  # erased at this very moment: a repeat finds that out
    if not hmac.compare_digest(known.request_hash, hashed):
        raise key_reused()
    deps.relay.nudge(USERS, known.id)
    return known


async def page(deps: Deps, partner_id: str, limit: int, cursor: str | None) -> Page[User]:
    """The partner's users in the order in which they arose.

    Raises:
        Problem: 403 the partner is not active.
        ValueError: `cursor` is none of ours.
    """
    await registration.own(deps, partner_id)
    return await deps.store.documents.find(USERS, MANAGED_INDEX, (partner_id,), limit=limit, cursor=cursor)


async def own(deps: Deps, partner_id: str, user_id: str) -> User:
    """The user if this partner manages it.

    Raises:
        Problem: 404 there is none of its own, 403 the partner is not active.
    """
    await registration.own(deps, partner_id)
    user = await deps.store.user(user_id)
    if user is None or user.managed_by != partner_id:
        raise Problem(404, "not-found", "You have no such user; `GET /v1/partner/users` lists yours.")
    return user
