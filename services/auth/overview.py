"""What operators see of users and partners, and the one thing they do to users: sign them out."""

from dataclasses import dataclass

from services.auth import audit, granting, registration, sessions
from services.auth.accounts import User
from services.auth.enrolment import Deps
from services.auth.partners import LISTED_INDEX, PARTNERS, Partner, State
from services.auth.store import CREATED_INDEX, USERS
from shared.documents import Page
from shared.errors import Problem

ENDED_BY_OPERATOR = "ended-by-operator"


@dataclass(frozen=True)
class Seen:
    """A user, how many sessions go on, and the ids of partners with a grant."""

    user: User
    sessions: int
    granted_to: tuple[str, ...]


async def partners(deps: Deps, state: State | None, limit: int, cursor: str | None) -> Page[Partner]:
    """Partners by state and name. Raises ValueError for a cursor that is none of ours."""
    equals = () if state is None else (state,)
    return await deps.store.documents.find(PARTNERS, LISTED_INDEX, equals, limit=limit, cursor=cursor)


async def users(deps: Deps, limit: int, cursor: str | None) -> Page[User]:
    """Users, the latest first. Raises ValueError for a cursor that is none of ours."""
    return await deps.store.documents.find(USERS, CREATED_INDEX, descending=True, limit=limit, cursor=cursor)


async def partner(deps: Deps, partner_id: str, by: str) -> Partner:
    """One partner, whose contact address the operator `by` sees. Raises Problem(404)."""
    found = await registration.known(deps, partner_id)
    await _note(deps, "partner-shown", by, partner_id=partner_id)
    return found


async def user(deps: Deps, user_id: str, by: str) -> Seen:
    """One user, whose address the operator `by` sees. Raises Problem(404)."""
    found = await _known(deps, user_id)
    await _note(deps, "user-shown", by, user_id=user_id)
    granted = await granting.live(deps, user_id)
    live = await sessions.live(deps, user_id)
    return Seen(found, len(live), tuple(grant.partner_id for grant, _ in granted))


async def end_sessions(deps: Deps, user_id: str, by: str) -> int:
    """End all sessions of a user, as the operator `by` says; how many that were. Raises Problem(404)."""
    await _known(deps, user_id)
    ended = await sessions.end_all(deps, user_id, reason=ENDED_BY_OPERATOR)
    await _note(deps, "sessions-ended", by, user_id=user_id)
    return ended


async def _note(deps: Deps, what: str, by: str, *, user_id: str | None = None, partner_id: str | None = None) -> None:
    line = audit.line("operator-command", deps.clock(), user_id=user_id, partner_id=partner_id, details=(what,), by=by)
    await deps.store.documents.put_many([line])


async def _known(deps: Deps, user_id: str) -> User:
    found = await deps.store.user(user_id)
    if found is None:
        raise Problem(404, "not-found", "There is no such user.")
    return found
