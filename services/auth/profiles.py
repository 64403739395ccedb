"""What a user tells of themselves, changed field by field and told to the other services."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from services.auth import accounts, audit
from services.auth.accounts import User
from services.auth.enrolment import ATTEMPTS, Deps
from services.auth.store import USERS
from shared import topics
from shared.documents import Conflict
from shared.errors import Problem, Unavailable
from shared.outbox import outbox_event, with_events


async def change(deps: Deps, user_id: str, fields: Mapping[str, Any]) -> User:
    """The user with these fields of the profile set; the others stay. Without a difference there is no new revision.

    Raises:
        Problem: 404, the user is gone.
    """
    for _ in range(ATTEMPTS):
        user = await deps.store.user(user_id)
        if user is None:
            raise Problem(404, "not-found", "This account is no longer there.")
        profile = replace(user.profile, **fields)
        if profile == user.profile:
            deps.relay.nudge(USERS, user.id)
            return user
        changed = replace(user, profile=profile, revision=user.revision + 1)
        event = outbox_event(topics.USERS, accounts.user_updated(changed, deps.clock()))
        differing = sorted(name for name in fields if getattr(user.profile, name) != fields[name])
        told = audit.line("profile-changed", deps.clock(), user_id=user.id, details=differing)
        try:
            stored = await deps.store.put_user(with_events(changed, event), told)
        except Conflict:
            continue
        deps.relay.nudge(USERS, user.id)
        return stored
    raise Unavailable("database")
