"""What routes have in common: auth's parts, who asks, and what several of them take and answer."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.auth import accounts
from services.auth.enrolment import Deps
from services.auth.keys import PartnerKey, public_id
from shared.callers import Caller
from shared.client_address import client_address_of
from shared.clock import FullDate
from shared.errors import Problem
from shared.events.auth import Profile
from shared.identity import caller_of

IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Anybody = Annotated[Caller, Depends(caller_of)]
ClientAddress = Annotated[str, Depends(client_address_of)]
Cursor = Annotated[str | None, Query(max_length=1024)]
MailAddress = Annotated[
    str, Field(max_length=320, examples=["ada@example.org"]), AfterValidator(accounts.normalised_address)
]
# Fields of a profile, alike wherever they are sent. Nobody known was taller than 272 cm; newborns have 50 cm.
BirthDate = Annotated[FullDate | None, AfterValidator(accounts.possible_birth_date)]
HeightCm = Annotated[Decimal | None, Field(ge=50, le=272, max_digits=5, decimal_places=2)]
Locale = Annotated[str, Field(min_length=2, max_length=35, pattern="^[A-Za-z0-9-]+$")]
HomeZone = Annotated[str, Field(max_length=64), AfterValidator(accounts.known_zone)]


class Body(BaseModel):
    """What a client sends; fields that we do not know are an error."""

    model_config = ConfigDict(extra="forbid")


class NewProfile(Profile, frozen=True):
    """A profile as a client sends it; fields that we do not know are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    birth_date: BirthDate = None
    height_cm: HeightCm = None
    locale: Locale = "en"
    home_zone: HomeZone = "UTC"


def deps_of(request: Request) -> Deps:
    """What `app.py` built."""
    return request.app.state.deps


DepsOf = Annotated[Deps, Depends(deps_of)]


class KeyAnswer(BaseModel):
    """An API key, which begins with `hint`. `last_used_at` is right to an hour."""

    key_id: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


def key_fields(key: PartnerKey) -> dict[str, Any]:
    """The fields of a KeyAnswer."""
    return {
        "key_id": public_id(key),
        "name": key.name,
        "hint": key.hint,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }


def bad_cursor() -> Problem:
    """What was sent as a cursor is none."""
    return Problem(422, "invalid-cursor", "Send a cursor as it was answered, or none.")
