"""Accounts, grants and keys over HTTP; the gateway is the only caller."""

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks
from pydantic import BaseModel, Field

from services.auth import accounts, clients, enrolment
from services.auth.asking import Anybody, Body, DepsOf, IdempotencyKey, MailAddress, NewProfile
from services.auth.grants import Grant
from services.auth.passwords import MAX_BYTES, MIN_CHARACTERS
from shared.callers import Caller
from shared.errors import Problem
from shared.events.auth import Profile
from shared.identity import require
from shared.keys import is_api_key

router = APIRouter()


class SignUp(Body):
    """A new account."""

    email: MailAddress
    password: Annotated[str, Field(description=f"{MIN_CHARACTERS} characters or more, at most {MAX_BYTES} bytes")]
    profile: NewProfile = NewProfile()


class Account(BaseModel):
    """The account that arose."""

    user_id: str
    profile: Profile


class GrantRequest(Body):
    """What a partner may see from now on."""

    partner_id: Annotated[str, Field(min_length=1, max_length=64)]
    scopes: Annotated[list[str], Field(min_length=1, max_length=32)]


class GrantAnswer(BaseModel):
    """The grant as it is now."""

    grant_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int


class KeyToVerify(BaseModel):
    """A partner's API key as it came in."""

    key: Annotated[str, Field(max_length=64)]


class VerifiedKey(BaseModel):
    """Whose key it is and what it may do; `expires_at` is None for a key without an end."""

    partner_id: str
    scopes: tuple[str, ...]
    expires_at: str | None = None


@router.post("/v1/users", status_code=201, tags=["accounts"])
async def sign_up(body: SignUp, key: IdempotencyKey, deps: DepsOf, _: Anybody) -> Account:
    """Make an account. The same request under the same Idempotency-Key gives the same answer."""
    user = await enrolment.sign_up(deps, key, body.email, body.password, body.profile)
    return Account(user_id=user.id, profile=accounts.public_profile(user.profile))


@router.post("/v1/grants", status_code=201, tags=["grants"])
async def grant(
    body: GrantRequest, key: IdempotencyKey, deps: DepsOf, caller: Annotated[Caller, require("grants:write")]
) -> GrantAnswer:
    """Let a partner see some of your data. A new grant to the same partner replaces the old one.

    A repeat under the same Idempotency-Key gives nothing again that was taken back since: 409 `grant-revoked`.
    """
    granted = await enrolment.grant(deps, str(caller.user_id), key, body.partner_id, body.scopes)
    return _grant_answer(granted)


@router.get("/.well-known/jwks.json", tags=["accounts"])
async def jwks(deps: DepsOf) -> dict[str, Any]:
    """The public keys of access tokens."""
    return deps.tokens.jwks(deps.clock())


@router.post("/internal/keys/verify", include_in_schema=False)
async def verify_key(body: KeyToVerify, deps: DepsOf, caller: Anybody, afterwards: BackgroundTasks) -> VerifiedKey:
    """Whose API key this is; 404 for no valid one. Only the gateway itself asks, for nobody else."""
    if caller.user_id is not None or caller.partner_id is not None:
        raise Problem(403, "insufficient-scope", "Only the gateway itself may ask.")
    found = await clients.verified_key(deps, body.key) if is_api_key(body.key) else None
    if found is None:
        raise Problem(404, "not-found", "There is no such key.")
    # Behind the answer, for which a partner's call waits.
    afterwards.add_task(clients.note_use, deps, body.key)
    expires_at = found.expires_at.isoformat() if found.expires_at else None
    return VerifiedKey(partner_id=found.partner_id, scopes=found.scopes, expires_at=expires_at)


def _grant_answer(grant: Grant) -> GrantAnswer:
    return GrantAnswer(grant_id=grant.id, partner_id=grant.partner_id, scopes=grant.scopes, revision=grant.revision)
