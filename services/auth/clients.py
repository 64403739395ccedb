"""Who a partner is by what it presents: its client id and secret, or one of its API keys."""

from datetime import timedelta

from msgspec.structs import replace

from services.auth.enrolment import Deps
from services.auth.keys import PartnerKey, is_live
from services.auth.partners import Partner, holds
from shared.documents import Conflict
from shared.errors import Problem, Unavailable

# So exact `last_used_at` is.
USE_NOTED_EVERY = timedelta(hours=1)


async def authenticated(deps: Deps, partner_id: str, secret: str) -> Partner | None:
    """The partner of this client id and secret in whatever state, else None, which costs as much to find out.

    Raises:
        Unavailable: the database does not answer.
    """
    partner = await deps.store.partner(partner_id)
    found = holds(partner, secret, deps.clock())
    return partner if found else None


async def verified_key(deps: Deps, key: str) -> PartnerKey | None:
    """A key that is good now, with the scopes that its partner still has; None for any other.

    Raises:
        Problem: 404 `partner-not-active`, which whoever has no such key never sees.
        Unavailable: the database does not answer.
    """
    now = deps.clock()
    found = await deps.store.partner_key(key)
    if found is None or not is_live(found, now):
        return None
    partner = await deps.store.partner(found.partner_id)
    if partner is None:
        return None
    if partner.state != "active":
        raise Problem(404, "partner-not-active", "The partner of this key is not active.")
    return replace(found, scopes=tuple(scope for scope in found.scopes if scope in partner.scopes))


async def note_use(deps: Deps, key: str) -> None:
    """Remember when the key was used last, once an hour; never raises, since the key's next use notes it too."""
    try:
        found, now = await deps.store.partner_key(key), deps.clock()
        if found is not None and (found.last_used_at is None or now - found.last_used_at >= USE_NOTED_EVERY):
            await deps.store.put_partner_key(replace(found, last_used_at=now))
    except (Conflict, Unavailable):
        return
