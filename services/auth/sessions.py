"""A user's sessions: one for each sign-in, in one document with its refresh tokens, so that it ends as a whole.

A refresh token is good once. Its successor follows from it under auth's secret, so a phone that lost the answer asks
again within 30 s and is given the same successor; once that successor was used, or later, the old token is a replay:
somebody else has it too, nobody can say who is who, and the session ends. The document keeps hashes of the current
token and the one before alone. Older tokens are known by the MAC that they carry.
"""

import hmac
import logging
from datetime import datetime, timedelta
from typing import Protocol

from msgspec.structs import replace

from services.auth.tokens import RefreshToken, RefreshTokens
from shared import topics
from shared.clock import Clock
from shared.documents import Collection, Conflict, Document, Documents, Index
from shared.errors import Problem, Unavailable
from shared.events import SessionRevoked, derived_id
from shared.identity import ACCESS_LIFETIME_S
from shared.outbox import OUTBOX_INDEX, Outboxed, Relay, outbox_event, with_events

# However busily it is used, and unused.
ABSOLUTE = timedelta(days=90)
IDLE = timedelta(days=30)
GRACE = timedelta(seconds=30)
# An ended session is kept for the user to see why.
KEPT = timedelta(days=30)
# A user who signs in once more ends the session that would have ended first.
MAX_LIVE = 100
# Beyond the last access token's end: the clocks of several machines.
SLACK = timedelta(minutes=1)
# Longer than any sign-in takes.
CUTOFF_KEPT = timedelta(days=1)
ATTEMPTS = 10
PAGE = 100

SIGNED_OUT = "signed-out"
ENDED_BY_USER = "ended-by-user"
TOKEN_REUSED = "refresh-token-reused"  # noqa: S105
TOO_MANY = "too-many-sessions"
CUT_OFF = "ended-meanwhile"

log = logging.getLogger(__name__)


class Session(Outboxed, frozen=True, kw_only=True):
    """A session. `device` is what its client calls itself; `last_used_at` is when its token was last exchanged.

    `ends_at` is when it ends by itself, None once it was ended, which `ended_at` and `end_reason` then tell.
    """

    user_id: str
    device: str
    token_hash: bytes
    previous_hash: bytes | None = None
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime | None
    ended_at: datetime | None = None
    end_reason: str | None = None
    forget_at: datetime


LIVE_INDEX = "live"
ENDED_INDEX = "ended"
FORGET_INDEX = "forget"
SESSIONS = Collection(
    "sessions",
    Session,
    (
        Index(LIVE_INDEX, ("user_id", "ends_at")),
        Index(ENDED_INDEX, ("user_id", "ended_at")),
        Index(FORGET_INDEX, ("forget_at",)),
        OUTBOX_INDEX,
    ),
)


class Cutoff(Document, frozen=True, kw_only=True):
    """When all sessions of a user (its id) were ended last, so that none arises from a sign-in of before."""

    at: datetime


CUTOFFS = Collection("session_cutoffs", Cutoff, (Index(FORGET_INDEX, ("at",)),))


class HasDocuments(Protocol):
    """The store, as far as sessions need it."""

    @property
    def documents(self) -> Documents:
        """The database."""
        ...


class Deps(Protocol):
    """Auth's parts, as far as sessions need them."""

    @property
    def store(self) -> HasDocuments:
        """The database."""
        ...

    @property
    def refresh_tokens(self) -> RefreshTokens:
        """Makes and reads refresh tokens."""
        ...

    @property
    def relay(self) -> Relay:
        """Publishes what ended."""
        ...

    @property
    def clock(self) -> Clock:
        """The present."""
        ...


async def start(deps: Deps, user_id: str, device: str, *, asked_at: datetime) -> tuple[Session, str]:
    """A new session of a user who has proved who they are since `asked_at`, and its first refresh token.

    Raises:
        Problem: 401 all sessions were ended meanwhile, perhaps because the password was changed.
    """
    await _make_room(deps, user_id)
    token = deps.refresh_tokens.first()
    now = deps.clock()
    session = Session(
        id=token.session_id,
        user_id=user_id,
        device=device,
        token_hash=token.hash,
        created_at=now,
        last_used_at=now,
        ends_at=now + IDLE,
        forget_at=now + IDLE + KEPT,
    )
    stored = await deps.store.documents.insert(SESSIONS, session)
    # `end_all` writes its cutoff before it looks for sessions, so it finds this one or is found here.
    cutoff = await deps.store.documents.get(CUTOFFS, user_id)
    if cutoff is not None and asked_at <= cutoff.at:
        await end(deps, session.id, reason=CUT_OFF)
        raise Problem(401, "sessions-ended", "All sessions were ended meanwhile. Sign in again.")
    return stored, deps.refresh_tokens.text(token)


async def refresh(deps: Deps, text: str) -> tuple[Session, str]:
    """The session of a refresh token, and the token's successor.

    Raises:
        Problem: 401 it is none of ours, its session is over, or it was used before, which ends the session.
    """
    token = deps.refresh_tokens.read(text)
    if token is None:
        raise invalid_refresh_token()
    for _ in range(ATTEMPTS):
        session, now = await deps.store.documents.get(SESSIONS, token.session_id), deps.clock()
        if session is None or session.ends_at is None or session.ends_at <= now:
            raise invalid_refresh_token()
        successor = deps.refresh_tokens.successor(token)
        if hmac.compare_digest(token.hash, session.token_hash):
            try:
                session = await deps.store.documents.put(SESSIONS, _rotated(session, successor, now))
            except Conflict:
                continue
            return session, deps.refresh_tokens.text(successor)
        if _asked_again(session, token, successor, now):
            return session, deps.refresh_tokens.text(successor)
        if await end(deps, session.id, reason=TOKEN_REUSED):
            log.warning("session %s is ended: an old refresh token of it was used", session.id)
        raise invalid_refresh_token()
    raise Unavailable("database")


async def end(deps: Deps, session_id: str, *, user_id: str | None = None, reason: str) -> bool:
    """End a session, of `user_id` alone where that is given; False when there is none to end.

    Its tokens are refused by every gateway within seconds.
    """
    for _ in range(ATTEMPTS):
        session = await deps.store.documents.get(SESSIONS, session_id)
        if session is None or session.ended_at is not None or user_id not in (None, session.user_id):
            return False
        try:
            await deps.store.documents.put(SESSIONS, _ended(session, deps.clock(), reason))
        except Conflict:
            continue
        deps.relay.nudge(SESSIONS, session_id)
        return True
    raise Unavailable("database")


async def sign_out(deps: Deps, text: str) -> None:
    """End the session of a refresh token, old or current; one that is none of ours ends nothing."""
    token = deps.refresh_tokens.read(text)
    if token is not None:
        await end(deps, token.session_id, reason=SIGNED_OUT)


async def end_all(deps: Deps, user_id: str, *, but: str | None = None, reason: str) -> int:
    """End every session of a user but the one with the id `but`, and sign-ins under way; how many sessions that were.

    Call it after what it follows from is written, such as the new password.
    `reason` is a stable code such as `password-changed`, which the user and the readers of the event see.
    """
    await _cut_off(deps, user_id)
    ended = 0
    for session in await live(deps, user_id):
        if session.id != but and await end(deps, session.id, reason=reason):
            ended += 1
    return ended


async def live(deps: Deps, user_id: str) -> list[Session]:
    """The user's sessions that have not ended, the one that ends first at the front."""
    found: list[Session] = []
    cursor: str | None = None
    while True:
        page = await deps.store.documents.find(
            SESSIONS, LIVE_INDEX, (user_id,), at_least=deps.clock(), limit=PAGE, cursor=cursor
        )
        found += page.documents
        cursor = page.cursor
        if cursor is None:
            return found


async def alarming(deps: Deps, user_id: str) -> list[Session]:
    """The user's sessions of late that ended because an old token was used, the latest first; of the last 100."""
    page = await deps.store.documents.find(SESSIONS, ENDED_INDEX, (user_id,), descending=True, limit=PAGE)
    return [session for session in page.documents if session.end_reason == TOKEN_REUSED]


async def forget(documents: Documents, now: datetime) -> int:
    """Delete the sessions that ended 30 days ago; how many that were."""
    await documents.delete_where(CUTOFFS, FORGET_INDEX, below=now - CUTOFF_KEPT, equals=())
    return await documents.delete_where(SESSIONS, FORGET_INDEX, below=now, equals=())


def invalid_refresh_token() -> Problem:
    """The one answer to every refresh token that is not good."""
    return Problem(401, "invalid-refresh-token", "Sign in again.")


async def _make_room(deps: Deps, user_id: str) -> None:
    sessions = await live(deps, user_id)
    for session in sessions[: max(0, len(sessions) - MAX_LIVE + 1)]:
        await end(deps, session.id, reason=TOO_MANY)


async def _cut_off(deps: Deps, user_id: str) -> None:
    for _ in range(ATTEMPTS):
        known = await deps.store.documents.get(CUTOFFS, user_id)
        cutoff = Cutoff(id=user_id, version=known.version if known else 0, at=deps.clock())
        try:
            await deps.store.documents.put(CUTOFFS, cutoff)
        except Conflict:
            continue
        return
    raise Unavailable("database")


def _rotated(session: Session, successor: RefreshToken, now: datetime) -> Session:
    ends_at = min(now + IDLE, session.created_at + ABSOLUTE)
    return replace(
        session,
        token_hash=successor.hash,
        previous_hash=session.token_hash,
        last_used_at=now,
        ends_at=ends_at,
        forget_at=ends_at + KEPT,
    )


def _asked_again(session: Session, token: RefreshToken, successor: RefreshToken, now: datetime) -> bool:
    """Whether this is the token before, exchanged a moment ago, whose successor nobody has used."""
    return (
        session.previous_hash is not None
        and hmac.compare_digest(token.hash, session.previous_hash)
        and hmac.compare_digest(successor.hash, session.token_hash)
        and now - session.last_used_at <= GRACE
    )


def _ended(session: Session, now: datetime, reason: str) -> Session:
    event = SessionRevoked(
        event_id=derived_id(session.id, "session.revoked"),
        occurred_at=now,
        session_id=session.id,
        user_id=session.user_id,
        reason=reason,
        expires_at=now + timedelta(seconds=ACCESS_LIFETIME_S) + SLACK,
    )
    ended = replace(session, ends_at=None, ended_at=now, end_reason=reason, forget_at=now + KEPT)
    return with_events(ended, outbox_event(topics.REVOCATIONS, event))
