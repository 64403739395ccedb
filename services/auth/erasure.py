"""Erasing a user: from the moment it is asked for there is no way back, and a crash anywhere is gone on from.

First the user's document becomes a tombstone, which frees the address and tells everybody (`user.erased`); then
sessions and grants end, and what auth alone knows of the user goes. What carries news goes once the news is out. When
all services have said that nothing is left, null records delete the user and the grants from the state topics: not
before, so that no service can miss what the null records replace. Ten minutes later it is looked whether a request that
hung all the while left something behind, which is then erased likewise. After 30 days the tombstone goes too.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace

from services.auth import audit, grants, sessions
from services.auth.accounts import StoredProfile, User
from services.auth.codes import CODES
from services.auth.codes import USER_INDEX as CODES_OF_USER
from services.auth.enrolment import Deps
from services.auth.erasure_documents import ERASURE_JOBS, LONGEST_MS, Erasure, Report
from services.auth.export_documents import EXPORTS
from services.auth.export_documents import USER_INDEX as EXPORTS_OF_USER
from services.auth.grants import GRANTS, Grant
from services.auth.grants import USER_INDEX as GRANTS_OF_USER
from services.auth.session_documents import ENDED_INDEX, LIVE_INDEX, SESSIONS
from services.auth.store import USERS
from shared import topics
from shared.clock import truncated
from shared.documents import Collection, Conflict, Document, Documents, Put
from shared.errors import Problem, Unavailable
from shared.events.auth import UserErased
from shared.events.personal import UserDataErased
from shared.ids import derived_id
from shared.objects import Objects
from shared.outbox import Outboxed, null_record, outbox_event, with_events
from shared.telemetry import bind, current_traceparent

# Whoever asks must have proved who they are so lately.
FRESH = timedelta(minutes=10)
ERASED = "erased"
# When it is looked again after the end: no request hangs for so long.
AFTERWARDS = timedelta(minutes=10)
# How long a user's tombstone stays after the end.
KEPT = timedelta(days=30)
LOOK_AGAIN = timedelta(seconds=1)
ATTEMPTS = 10
PAGE = 100
# What requests leave behind that read the user before the tombstone stood there.
LATE: tuple[tuple[Collection[Any], str], ...] = (
    (SESSIONS, LIVE_INDEX),
    (SESSIONS, ENDED_INDEX),
    (GRANTS, GRANTS_OF_USER),
    (CODES, CODES_OF_USER),
    (EXPORTS, EXPORTS_OF_USER),
)
D = TypeVar("D", bound=Document)


async def ask(deps: Deps, user_id: str, session_id: str | None) -> Erasure:
    """The erasure of a user who asks for it; a repeat gives the same one.

    Raises:
        Problem: 403 the sign-in is too long ago.
    """
    known = await found(deps, deps.pepper.erasure_id(user_id))
    if known is not None:
        return known
    await check_fresh(deps, session_id, "Erasing cannot be undone.")
    return await begin(deps, user_id, asked_by="user")


async def check_fresh(deps: Deps, session_id: str | None, why: str) -> None:
    """Raises Problem 403 unless the session goes on and began at most 10 minutes ago."""
    session = await deps.store.documents.get(SESSIONS, session_id) if session_id is not None else None
    if session is None or session.ended_at is not None or deps.clock() - session.created_at > FRESH:
        raise Problem(403, "sign-in-again", f"{why} Sign in again, and ask within 10 minutes with that token.")


async def begin(deps: Deps, user_id: str, *, asked_by: str) -> Erasure:
    """The user is erased from now on. Wake the workers after it."""
    now = truncated(deps.clock())
    erasure = Erasure(
        id=deps.pepper.erasure_id(user_id),
        user_id=user_id,
        asked_at=now,
        asked_by=asked_by,
        due_at=now,
        traceparent=current_traceparent(),
    )
    with suppress(Conflict):  # somebody was faster
        line = audit.line("erasure-asked", now, user_id=user_id)
        await deps.store.documents.put_many([Put(ERASURE_JOBS, erasure), line])
    return await found(deps, erasure.id) or erasure


async def found(deps: Deps, erasure_id: str) -> Erasure | None:
    """The erasure of that id."""
    return await deps.store.documents.get(ERASURE_JOBS, erasure_id)


async def report(deps: Deps, event: UserDataErased) -> bool:
    """Note what a service says, whose first word counts; whether the workers should be woken for it."""
    for _ in range(ATTEMPTS):
        erasure = await found(deps, deps.pepper.erasure_id(event.user_id))
        if erasure is None or event.service in erasure.reports:
            return False
        said = Report(documents=event.documents, objects=event.objects, finished_at=event.finished_at)
        reports = erasure.reports | {event.service: said}
        # Claimed or not, it is to be worked again.
        due = replace(erasure, reports=reports, due_at=truncated(deps.clock()), attempts=0)
        try:
            await deps.store.documents.put(ERASURE_JOBS, due)
        except Conflict:
            continue
        # One who works on it finds it handed back.
        return not erasure.attempts
    raise Unavailable("database")


@dataclass(frozen=True)
class Eraser:
    """The work of an erasure, step by step; every step may be repeated."""

    deps: Deps
    objects: Objects

    async def work(self, erasure: Erasure) -> Erasure:
        """One step."""
        bind(user_id=erasure.user_id)
        now = truncated(self.deps.clock())
        self.deps.attempts.forget(erasure.user_id)
        if erasure.state == "asked":
            await self._bury(erasure)
            erasure = replace(erasure, state="told")
        if erasure.state in ("told", "ending"):
            return await self._go_on(erasure, now)
        return await self._look_again(erasure, now)

    @property
    def _documents(self) -> Documents:
        return self.deps.store.documents

    async def _bury(self, erasure: Erasure) -> None:
        """Put the tombstone in the user's place."""
        for _ in range(ATTEMPTS):
            user = await self._documents.get(USERS, erasure.user_id)
            if user is None or user.erased_at is not None:
                break
            await self.deps.guesses.forget(user)
            buried = _buried(user, erasure.asked_at)
            event = outbox_event(topics.USERS, _user_erased(buried, erasure.asked_at), erasure.traceparent)
            try:
                await self._documents.put(USERS, with_events(buried, event))
            except Conflict:
                continue
            break
        else:
            raise Unavailable("database")
        self.deps.relay.nudge(USERS, erasure.user_id)

    async def _go_on(self, erasure: Erasure, now: datetime) -> Erasure:
        """Clear until no news waits, then until all services have spoken, then until the null records are out."""
        if await self._clear(erasure, now):
            return replace(erasure, due_at=now + LOOK_AGAIN, attempts=0)
        if erasure.missing:
            return replace(erasure, due_at=None, attempts=0)
        if erasure.state == "told":
            await self._tell_nulls(erasure)
            return replace(erasure, state="ending", due_at=now, attempts=0)
        await self._documents.delete_where(audit.LINES, audit.BY_USER, (erasure.user_id,))
        await self._documents.put_many([audit.line("account-erased", now, user_id=erasure.user_id)])
        await self._documents.scrub()
        expire = now + timedelta(milliseconds=LONGEST_MS)
        due_at = now + AFTERWARDS
        return replace(erasure, state="gone", finished_at=now, topics_expire_at=expire, due_at=due_at, attempts=0)

    async def _look_again(self, erasure: Erasure, now: datetime) -> Erasure:
        """Begin anew where something came late; with the tombstone's end it is over."""
        user_id, last = erasure.user_id, (erasure.finished_at or now) + KEPT
        for collection, index in LATE:
            if await self._documents.count(collection, index, (user_id,)):
                return replace(erasure, state="told", due_at=now, attempts=0)
        if now < last:
            return replace(erasure, due_at=last, attempts=0)
        await self._documents.delete(USERS, user_id)
        return replace(erasure, state="closed", due_at=None, attempts=0)

    async def _clear(self, erasure: Erasure, now: datetime) -> int:
        """End and delete what is the user's, as far as its news is out; how many wait for that."""
        user_id = erasure.user_id
        await sessions.end_all(self.deps, user_id, reason=ERASED, erasure=erasure.id)
        left = [one for index in (LIVE_INDEX, ENDED_INDEX) for one in await self._of_user(SESSIONS, index, user_id)]
        waiting = sum([await self._drop(SESSIONS, one) for one in left])
        for grant in await self._of_user(GRANTS, GRANTS_OF_USER, user_id):
            if grant.revoked_at is None:
                waiting += await self._revoke(grant, erasure, now)
            elif erasure.state == "ending":
                waiting += await self._drop(GRANTS, grant)
            else:
                waiting += bool(grant.outbox)
        await self.deps.store.forget_resets(user_id)
        await self._documents.delete_where(CODES, CODES_OF_USER, (user_id,))
        await self._documents.delete_where(EXPORTS, EXPORTS_OF_USER, (user_id,))
        await self.objects.delete_all(f"auth/{user_id}")
        user = await self._documents.get(USERS, user_id)
        if user is not None:
            await self.deps.guesses.forget(user)  # once more: an attempt at that moment counted anew
        return waiting + bool(user is not None and user.outbox)

    async def _of_user(self, collection: Collection[D], index: str, user_id: str) -> list[D]:
        """All of the user's documents between which the index stands."""
        documents: list[D] = []
        cursor: str | None = None
        while True:
            page = await self._documents.find(collection, index, (user_id,), limit=PAGE, cursor=cursor)
            documents += page.documents
            cursor = page.cursor
            if cursor is None:
                return documents

    async def _drop(self, collection: Collection[Any], document: Outboxed) -> int:
        """Delete the document, unless its news is still to be told: then 1."""
        if document.outbox:
            self.deps.relay.nudge(collection, document.id)
            return 1
        await self._documents.delete(collection, document.id)
        return 0

    async def _revoke(self, grant: Grant, erasure: Erasure, now: datetime) -> int:
        """End the grant and tell so; 1, for that is to be waited for."""
        revoked = replace(grant, revision=grant.revision + 1, granted_at=now, revoked_at=now)
        events = [outbox_event(topics.GRANTS, grants.grant_updated(revoked))]
        if erasure.state == "ending":  # the others' null records are out
            events.append(null_record(topics.GRANTS, grant.id, erasure.id))
        with suppress(Conflict):  # looked at again in a second
            await self._documents.put(GRANTS, with_events(revoked, *events))
            self.deps.relay.nudge(GRANTS, grant.id)
        return 1

    async def _tell_nulls(self, erasure: Erasure) -> None:
        """Have the user and the grants deleted from their topics; a repeat deletes them again."""
        for grant in await self._of_user(GRANTS, GRANTS_OF_USER, erasure.user_id):
            await self._documents.put(GRANTS, with_events(grant, null_record(topics.GRANTS, grant.id, erasure.id)))
            self.deps.relay.nudge(GRANTS, grant.id)
        user = await self._documents.get(USERS, erasure.user_id)
        if user is not None:
            await self._documents.put(USERS, with_events(user, null_record(topics.USERS, user.id, erasure.id)))
            self.deps.relay.nudge(USERS, user.id)


def _buried(user: User, at: datetime) -> User:
    """The user without anything that is about a person; what waits to be told of before goes with it."""
    return User(
        id=user.id,
        version=user.version,
        email="",
        email_hash=None,
        password_hash="",
        profile=StoredProfile(),
        revision=user.revision + 1,
        created_at=user.created_at,
        request_hash="",
        erased_at=at,
        # What another process publishes just now must not come behind the tombstone in the topic.
        outbox_at=user.outbox_at,
    )


def _user_erased(user: User, at: datetime) -> UserErased:
    return UserErased(
        event_id=derived_id(user.id, "user.erased"), occurred_at=at, user_id=user.id, revision=user.revision
    )
