"""What operators ask about partners and users; the gateway has no route here and never signs an operator's token for a
caller.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from services.auth import overview, partner_keys, registration
from services.auth.accounts import User
from services.auth.asking import Body, Cursor, DepsOf, KeyAnswer, bad_cursor, key_fields
from services.auth.keys import is_live
from services.auth.partners import Partner, State
from shared.identity import operating

MAX_REQUESTS_PER_MIN = 10_000_000

router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(operating)])

Id = Annotated[str, Path(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=200)]
Asking = Annotated[str, Query(min_length=1, max_length=200)]
By = Annotated[str, Field(min_length=1, max_length=200)]


class Decision(Body):
    """Who decides."""

    by: By


class Quota(Decision):
    """How often a partner may ask; null: as often as the setting says."""

    requests_per_min: Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MIN, strict=True)] | None


class PartnerLine(BaseModel):
    """A partner in a list."""

    partner_id: str
    name: str
    state: State
    requests_per_min: int | None
    created_at: datetime | None


class PartnerLines(BaseModel):
    """Partners by state and name. With a `cursor` there are more."""

    partners: list[PartnerLine]
    cursor: str | None


class PartnerDetails(PartnerLine):
    """A partner with what only its `show` tells."""

    contact: str
    scopes: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    keys: list[KeyAnswer]


class UserLine(BaseModel):
    """A user in a list: no address, no profile."""

    user_id: str
    created_at: datetime
    managed_by: str | None
    second_factor: bool


class UserLines(BaseModel):
    """Users, the latest first. With a `cursor` there are more."""

    users: list[UserLine]
    cursor: str | None


class UserDetails(UserLine):
    """A user with what only its `show` tells."""

    email: str
    sessions: int
    grants: list[str]


class EndedSessions(BaseModel):
    """How many ended."""

    ended: int


@router.get("/partners")
async def partners(deps: DepsOf, state: State | None = None, limit: Limit = 200, cursor: Cursor = None) -> PartnerLines:
    """Partners."""
    try:
        page = await overview.partners(deps, state, limit, cursor)
    except ValueError as error:
        raise bad_cursor() from error
    return PartnerLines(partners=[PartnerLine(**_line(one)) for one in page.documents], cursor=page.cursor)


@router.get("/partners/{partner_id}")
async def partner(partner_id: Id, deps: DepsOf, by: Asking) -> PartnerDetails:
    """One partner."""
    return await _details(deps, await overview.partner(deps, partner_id, by))


@router.post("/partners/{partner_id}/approvals")
async def approve(partner_id: Id, body: Decision, deps: DepsOf) -> PartnerDetails:
    """Let a partner work."""
    return await _details(deps, await registration.decide(deps, partner_id, "active", body.by))


@router.post("/partners/{partner_id}/suspensions")
async def suspend(partner_id: Id, body: Decision, deps: DepsOf) -> PartnerDetails:
    """Take everything from a partner until it is approved again."""
    return await _details(deps, await registration.decide(deps, partner_id, "suspended", body.by))


@router.put("/partners/{partner_id}/quota")
async def set_quota(partner_id: Id, body: Quota, deps: DepsOf) -> PartnerDetails:
    """Let a partner ask so often."""
    return await _details(deps, await registration.set_quota(deps, partner_id, body.requests_per_min, body.by))


@router.get("/users")
async def users(deps: DepsOf, limit: Limit = 200, cursor: Cursor = None) -> UserLines:
    """Users."""
    try:
        page = await overview.users(deps, limit, cursor)
    except ValueError as error:
        raise bad_cursor() from error
    return UserLines(
        users=[UserLine(**_user(one)) for one in page.documents if one.erased_at is None], cursor=page.cursor
    )


@router.get("/users/{user_id}")
async def user(user_id: Id, deps: DepsOf, by: Asking) -> UserDetails:
    """One user."""
    found = await overview.user(deps, user_id, by)
    return UserDetails(
        **_user(found.user), email=found.user.email, sessions=found.sessions, grants=list(found.granted_to)
    )


@router.post("/users/{user_id}/session-ends")
async def end_sessions(user_id: Id, body: Decision, deps: DepsOf) -> EndedSessions:
    """Sign a user out everywhere."""
    return EndedSessions(ended=await overview.end_sessions(deps, user_id, body.by))


def _line(partner: Partner) -> dict[str, Any]:
    return {
        "partner_id": partner.id,
        "name": partner.name,
        "state": partner.state,
        "requests_per_min": partner.requests_per_min,
        "created_at": partner.created_at,
    }


async def _details(deps: DepsOf, partner: Partner) -> PartnerDetails:
    keys = [key for key in await partner_keys.listed(deps, partner.id) if is_live(key, deps.clock())]
    return PartnerDetails(
        **_line(partner),
        contact=partner.contact,
        scopes=partner.scopes,
        redirect_uris=partner.redirect_uris,
        keys=[KeyAnswer(**key_fields(key)) for key in keys],
    )


def _user(user: User) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "created_at": user.created_at,
        "managed_by": user.managed_by,
        "second_factor": user.second_factor is not None,
    }
