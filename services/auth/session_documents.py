"""Sessions as they lie in the database, and the one event that tells that one was ended."""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from shared import topics
from shared.access_tokens import ACCESS_LIFETIME_S
from shared.documents import Collection, Document, Index
from shared.events.auth import SessionRevoked
from shared.ids import derived_id
from shared.outbox import OUTBOX_INDEX, Outboxed, outbox_event, with_events

# An ended session is kept for the user to see why.
KEPT = timedelta(days=30)
# Beyond the last access token's end: the clocks of several machines.
SLACK = timedelta(minutes=1)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a partner's session is about: the scopes of its tokens, and the grant's revision when it arose."""

    partner_id: str
    scopes: tuple[str, ...]
    grant_revision: int


class Session(Outboxed, frozen=True, kw_only=True):
    """A session. `device` is what its client calls itself; `last_used_at` is when its token was last exchanged.

    `ends_at` is when it ends by itself, None once it was ended, which `ended_at` and `end_reason` then tell. `share`:
    of a partner's session, which arose from a user's consent; None for the user's own apps.
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
    share: Share | None = None

    @property
    def partner_id(self) -> str | None:
        """Whose session it is; None for the user's own apps."""
        return self.share.partner_id if self.share is not None else None


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


def ended(session: Session, now: datetime, reason: str, erasure_id: str | None = None) -> Session:
    """The session once it was ended, with the event that tells it."""
    event = SessionRevoked(
        event_id=derived_id(session.id, "session.revoked"),
        occurred_at=now,
        session_id=session.id,
        user_id=session.user_id,
        reason=reason,
        expires_at=now + timedelta(seconds=ACCESS_LIFETIME_S) + SLACK,
        erasure_id=erasure_id,
    )
    over = replace(session, ends_at=None, ended_at=now, end_reason=reason, forget_at=now + KEPT)
    return with_events(over, outbox_event(topics.REVOCATIONS, event))
