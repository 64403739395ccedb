"""Users, partners, and what users let partners see."""

from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shared.events.event import Event, UtcTime


class Profile(BaseModel, frozen=True):
    """What energy formulas and day boundaries need to know of a user."""

    sex: Literal["female", "male"] | None = None
    birth_date: date | None = None
    height_cm: Decimal | None = None
    locale: str = "en"
    home_zone: str = "UTC"


class UserUpdated(Event, frozen=True):
    """The user's full state; never the address or a credential."""

    type: Literal["user.updated"] = "user.updated"
    user_id: str
    revision: int
    profile: Profile


class UserErased(Event, frozen=True):
    """Everything of a user is to be forgotten, since `occurred_at` and for good. What comes of this user is dropped."""

    type: Literal["user.erased"] = "user.erased"
    user_id: str
    revision: int


class ExportRequested(Event, frozen=True):
    """A user wants everything that is held of them. After `needed_until` nobody waits for a part any more."""

    type: Literal["export.requested"] = "export.requested"
    user_id: str
    export_id: str
    needed_until: UtcTime


class PartnerUpdated(Event, frozen=True):
    """The partner's full state; never a key. Only an active one may do anything.

    One that was never approved is not told of. `requests_per_min` is its quota, None for the setting's.
    """

    type: Literal["partner.updated"] = "partner.updated"
    partner_id: str
    revision: int
    name: str
    scopes: tuple[str, ...]
    state: Literal["pending", "active", "suspended"] = "active"
    requests_per_min: int | None = None


class GrantUpdated(Event, frozen=True):
    """What a user lets a partner see, in full. `revoked_at` set means nothing any more.

    `since_revision` is the revision at which the grant last came to life: given first, or again after a revocation.
    What was issued for an earlier revision stays void.
    """

    type: Literal["grant.updated"] = "grant.updated"
    grant_id: str
    user_id: str
    partner_id: str
    revision: int
    scopes: tuple[str, ...]
    since_revision: int = 1
    revoked_at: UtcTime | None = None


class SessionRevoked(Event, frozen=True):
    """A user's session was ended before its time: its access tokens, of which the last is over at `expires_at`, are
    not good any more. `reason` is a stable code; `erasure_id`: the erasure of the user that ended it.
    """

    type: Literal["session.revoked"] = "session.revoked"
    session_id: str
    user_id: str
    reason: str
    expires_at: UtcTime
    erasure_id: str | None = None
