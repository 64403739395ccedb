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

from services.auth import audit
from services.auth.session_documents import (
    CUTOFFS,
    ENDED_INDEX,
    FORGET_INDEX,
    KEPT,
    LIVE_INDEX,
    SESSIONS,
    Cutoff,
    Session,
    Share,
    ended,
)
from services.auth.tokens import RefreshToken, RefreshTokens
from shared.clock import Clock
from shared.documents import Conflict, Documents, Put
from shared.errors import Problem, Unavailable
from shared.outbox import Relay

# However busily it is used, and unused.
ABSOLUTE = timedelta(days=90)
IDLE = timedelta(days=30)
GRACE = timedelta(seconds=30)
# One more ends the one that would have ended first: of the user's own, or of the same partner.
MAX_LIVE = 100
MAX_LIVE_OF_PARTNER = 10
# Longer than any sign-in takes.
CUTOFF_KEPT = timedelta(days=1)
ATTEMPTS = 10
PAGE = 100

SIGNED_OUT = "signed-out"
ENDED_BY_USER = "ended-by-user"
TOKEN_REUSED = "refresh-token-reused"  # noqa: S105 - a reason's code, no token
TOO_MANY = "too-many-sessions"
CUT_OFF = "ended-meanwhile"
GRANT_REVOKED = "grant-revoked"

log = logging.getLogger(__name__)


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


async def start(
    deps: Deps,
    user_id: str,
    device: str,
    *,
    asked_at: datetime,
    share: Share | None = None,
    first: RefreshToken | None = None,
) -> tuple[Session, str]:
    """A new session of a user who has proved who they are since `asked_at`, and its first refresh token.

    `share` makes it a partner's; `first` is its first token, where the session's id must be known before.

    Raises:
        Problem: 401 all sessions were ended meanwhile, perhaps because the password was changed.
    """
    await _make_room(deps, user_id, share.partner_id if share is not None else None)
    token = first or deps.refresh_tokens.first()
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
        share=share,
    )
    stored = await deps.store.documents.insert(SESSIONS, session)
    # `end_all` writes its cutoff before it looks for sessions, so it finds this one or is found here.
    if await ended_since(deps, user_id, asked_at):
        await end(deps, session.id, reason=CUT_OFF)
        raise Problem(401, "sessions-ended", "All sessions were ended meanwhile. Sign in again.")
    return stored, deps.refresh_tokens.text(token)


async def refresh(deps: Deps, text: str, *, partner_id: str | None = None) -> tuple[Session, str]:
    """The session of a refresh token, and the token's successor.

    `partner_id`: whose tokens are taken, None for those of the user's own apps. Anybody else's ends nothing.

    Raises:
        Problem: 401 it is none of ours, its session is over, or it was used before, which ends the session.
    """
    token = deps.refresh_tokens.read(text)
    if token is None:
        raise invalid_refresh_token()
    for _ in range(ATTEMPTS):
        session, now = await deps.store.documents.get(SESSIONS, token.session_id), deps.clock()
        if session is None or session.ends_at is None or session.ends_at <= now or session.partner_id != partner_id:
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


async def end(deps: Deps, session_id: str, *, user_id: str | None = None, reason: str, erasure: str = "") -> bool:
    """End a session, of `user_id` alone where that is given; False when there is none to end. `erasure`: its id.

    Its tokens are refused by every gateway within seconds.
    """
    for _ in range(ATTEMPTS):
        session = await deps.store.documents.get(SESSIONS, session_id)
        if session is None or session.ended_at is not None or user_id not in (None, session.user_id):
            return False
        try:
            now = deps.clock()
            told = _told(session, now, reason)
            await deps.store.documents.put_many([Put(SESSIONS, ended(session, now, reason, erasure or None)), told])
        except Conflict:
            continue
        deps.relay.nudge(SESSIONS, session_id)
        return True
    raise Unavailable("database")


async def current(deps: Deps, text: str) -> Session | None:
    """The live session whose refresh token this is now; None for an older one, or one that is none of ours."""
    token = deps.refresh_tokens.read(text)
    session = await deps.store.documents.get(SESSIONS, token.session_id) if token is not None else None
    if token is None or session is None or session.ends_at is None or session.ends_at <= deps.clock():
        return None
    return session if hmac.compare_digest(token.hash, session.token_hash) else None


async def sign_out(deps: Deps, text: str, *, partner_id: str | None = None, reason: str = SIGNED_OUT) -> None:
    """End the session of a refresh token, old or current; one that is none of ours, or another's, ends nothing."""
    token = deps.refresh_tokens.read(text)
    session = await deps.store.documents.get(SESSIONS, token.session_id) if token is not None else None
    if session is not None and session.partner_id == partner_id:
        await end(deps, session.id, reason=reason)


async def end_for(deps: Deps, user_id: str, partner_id: str, *, reason: str = GRANT_REVOKED) -> int:
    """End a partner's sessions for a user; how many that were. Call it once the revoked grant is written.

    One that arises at the same moment is refused all the same: it carries a revision of the grant from before.
    """
    found = [session for session in await live(deps, user_id) if session.partner_id == partner_id]
    return sum([await end(deps, session.id, reason=reason) for session in found])


async def end_all(deps: Deps, user_id: str, *, but: str | None = None, reason: str, erasure: str = "") -> int:
    """End every session of a user but the one with the id `but`, and sign-ins under way; how many sessions that were.

    Call it after what it follows from is written, such as the new password.
    `reason` is a stable code such as `password-changed`, which the user and the readers of the event see, as they see
    the id of the `erasure` that ends them.
    """
    await _cut_off(deps, user_id)
    others = [session for session in await live(deps, user_id) if session.id != but]
    return sum([await end(deps, session.id, reason=reason, erasure=erasure) for session in others])


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


async def ended_since(deps: Deps, user_id: str, asked_at: datetime) -> bool:
    """Whether all of the user's sessions were ended after `asked_at`, which is less than a day ago."""
    cutoff = await deps.store.documents.get(CUTOFFS, user_id)
    return cutoff is not None and asked_at <= cutoff.at


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


async def _make_room(deps: Deps, user_id: str, partner_id: str | None) -> None:
    most = MAX_LIVE if partner_id is None else MAX_LIVE_OF_PARTNER
    sessions = [session for session in await live(deps, user_id) if session.partner_id == partner_id]
    for session in sessions[: max(0, len(sessions) - most + 1)]:
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


def _told(session: Session, now: datetime, reason: str) -> Put:
    """The line of the audit log; whoever signs out does so by the refresh token alone."""
    kind: audit.Kind = "refresh-token-reused" if reason == TOKEN_REUSED else "session-ended"
    holder: audit.Actor = "user" if session.partner_id is None else "partner"
    actor: audit.Actor | None = holder if reason == SIGNED_OUT else "system" if reason in (TOO_MANY, CUT_OFF) else None
    user_id, partner_id, about = session.user_id, session.partner_id, session.id
    return audit.line(kind, now, user_id=user_id, partner_id=partner_id, about=about, details=(reason,), actor=actor)
