"""What routes have in common: auth's parts, who asks, and what several of them take."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.auth import accounts
from services.auth.enrolment import Deps
from shared.callers import Caller
from shared.clock import FullDate
from shared.errors import Problem
from shared.events.auth import Profile
from shared.identity import caller_of, check_scope

IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Anybody = Annotated[Caller, Depends(caller_of)]
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


def partner_itself(scope: str) -> Any:
    """A dependency that gives the Caller: a partner with `scope` that does not act for a user.

    Raises:
        Problem: 401 without a valid token, 403 otherwise.
    """

    async def checked(request: Request) -> Caller:
        caller = await caller_of(request)
        check_scope(caller, scope, "partner")
        if caller.user_id is not None:
            raise Problem(403, "insufficient-scope", "Use the partner's own key or token, not one for a user.")
        return caller

    return Depends(checked)
