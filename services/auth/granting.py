"""A user's grants: seen and taken back. Giving one is `enrolment.grant`."""

from msgspec.structs import replace

from services.auth import audit, grants, sessions
from services.auth.enrolment import ATTEMPTS, Deps
from services.auth.grants import GRANTS, USER_INDEX, Grant
from services.auth.partners import PARTNERS
from shared import topics
from shared.documents import Conflict
from shared.errors import Problem, Unavailable
from shared.outbox import outbox_event, with_events

PAGE = 100


async def live(deps: Deps, user_id: str) -> list[tuple[Grant, str]]:
    """The user's grants that stand, the latest first, each with its partner's name."""
    found: list[Grant] = []
    cursor: str | None = None
    while True:
        page = await deps.store.documents.find(GRANTS, USER_INDEX, (user_id,), limit=PAGE, cursor=cursor)
        found += [grant for grant in page.documents if grant.revoked_at is None]
        cursor = page.cursor
        if cursor is None:
            break
    found.sort(key=lambda grant: grant.since_at, reverse=True)
    partners = await deps.store.documents.get_many(PARTNERS, [grant.partner_id for grant in found])
    names = [partner.name if partner is not None else "" for partner in partners]
    return list(zip(found, names, strict=True))


async def revoke(deps: Deps, user_id: str, id: str) -> None:
    """Take a grant back, which ends the partner's sessions for the user; one taken back before stays so.

    Raises:
        Problem: 404 the user has no such grant.
    """
    for _ in range(ATTEMPTS):
        known, now = await deps.store.grant(id), deps.clock()
        if known is None or known.user_id != user_id:
            raise Problem(404, "not-found", "You have no such grant; `GET /v1/grants` lists yours.")
        if known.revoked_at is None:
            revoked = replace(known, revision=known.revision + 1, granted_at=now, revoked_at=now)
            event = outbox_event(topics.GRANTS, grants.grant_updated(revoked))
            line = audit.line("grant-revoked", now, user_id=user_id, partner_id=known.partner_id, about=id)
            try:
                await deps.store.put_grant(with_events(revoked, event), line)
            except Conflict:
                continue
        deps.relay.nudge(GRANTS, id)
        # Also of a grant that was taken back before: a crash may have come between the two.
        await sessions.end_for(deps, user_id, known.partner_id)
        return
    raise Unavailable("database")
