"""Managed users over HTTP: users that a partner makes and answers for. The gateway is the only caller."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from services.auth import accounts, managed
from services.auth.accounts import User
from services.auth.asking import Body, Cursor, DepsOf, IdempotencyKey, NewProfile, bad_cursor
from shared.callers import Caller
from shared.events.auth import Profile
from shared.identity import require

router = APIRouter()


class NewUser(Body):
    """A user to be made. What names a person to you, such as an address, stays with you."""

    profile: NewProfile = NewProfile()


class ManagedUser(BaseModel):
    """A user of the partner's own."""

    user_id: str
    profile: Profile
    created_at: datetime


class ManagedUsers(BaseModel):
    """Users in the order in which they arose. With a `cursor` there are more."""

    users: list[ManagedUser]
    cursor: str | None


Manager = Annotated[Caller, require("users:manage", "partner")]


@router.post("/v1/partner/users", status_code=201, tags=["partners"])
async def create_user(body: NewUser, key: IdempotencyKey, deps: DepsOf, caller: Manager) -> ManagedUser:
    """Make a user who never signs in, and whose data you may use to the extent of your own scopes.

    The same request under the same Idempotency-Key gives the same user.
    """
    return _answer(await managed.create(deps, str(caller.partner_id), key, body.profile))


@router.get("/v1/partner/users", tags=["partners"])
async def list_users(
    deps: DepsOf,
    caller: Manager,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    cursor: Cursor = None,
) -> ManagedUsers:
    """Your users. Ask again with the `cursor` of an answer for those behind it."""
    try:
        page = await managed.page(deps, str(caller.partner_id), limit, cursor)
    except ValueError as error:
        raise bad_cursor() from error
    return ManagedUsers(users=[_answer(user) for user in page.documents], cursor=page.cursor)


@router.get("/v1/partner/users/{user_id}", tags=["partners"])
async def read_user(user_id: Annotated[str, Path(max_length=64)], deps: DepsOf, caller: Manager) -> ManagedUser:
    """One of your users."""
    return _answer(await managed.own(deps, str(caller.partner_id), user_id))


def _answer(user: User) -> ManagedUser:
    return ManagedUser(user_id=user.id, profile=accounts.public_profile(user.profile), created_at=user.created_at)
