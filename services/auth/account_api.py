"""A user's own account over HTTP: profile, password, second factor. Partners have no business here, granted or not."""

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from services.auth import accounts, credentials, profiles, totp
from services.auth.accounts import User
from services.auth.asking import (
    Anybody,
    BirthDate,
    Body,
    ClientAddress,
    DepsOf,
    HeightCm,
    HomeZone,
    Locale,
    MailAddress,
)
from services.auth.passwords import MAX_BYTES, MIN_CHARACTERS, MIN_CHARACTERS_OF_TWO
from shared.callers import Caller
from shared.events.auth import Profile
from shared.identity import require

router = APIRouter()

Password = Annotated[str, Field(max_length=MAX_BYTES)]
NewPassword = Annotated[
    str,
    Field(
        description=f"{MIN_CHARACTERS} characters or more, {MIN_CHARACTERS_OF_TWO} beside a second factor, "
        f"at most {MAX_BYTES} bytes; none that guessers try first"
    ),
]
Code = Annotated[str, Field(min_length=6, max_length=32, examples=["123456"])]


class ProfileChange(Body):
    """Fields to set; those left out stay. `null` takes back what may be unknown."""

    sex: Literal["female", "male"] | None = None
    birth_date: BirthDate = None
    height_cm: HeightCm = None
    locale: Locale = "en"
    home_zone: HomeZone = "UTC"


class PasswordChange(Body):
    """The present password and the next one."""

    password: Password
    new_password: NewPassword


class ResetRequest(Body):
    """The address of an account."""

    email: MailAddress


class PasswordReset(Body):
    """The code of the letter, and the next password."""

    token: Annotated[str, Field(max_length=128)]
    new_password: NewPassword


class OwnPassword(Body):
    """The present password."""

    password: Password


class Confirmation(Body):
    """A code that the new authenticator shows."""

    code: Code


class Me(BaseModel):
    """The account. `second_factor`: whether signing in needs one; `recovery_codes` are how many are left."""

    user_id: str
    email: str
    profile: Profile
    second_factor: bool
    recovery_codes: int


class Authenticator(BaseModel):
    """What an authenticator app needs; `uri` is for a QR code."""

    secret: str
    uri: str


class RecoveryCodes(BaseModel):
    """Codes in place of the authenticator's, each good for once. They are shown this once."""

    recovery_codes: tuple[str, ...]


# Partners never have these scopes, granted or not.
Reader = Annotated[Caller, require("profile:read")]
Writer = Annotated[Caller, require("profile:write")]


@router.get("/v1/me", tags=["accounts"])
async def me(deps: DepsOf, caller: Reader) -> Me:
    """Your account."""
    return _me(await credentials.own(deps, str(caller.user_id)))


@router.patch("/v1/me", tags=["accounts"])
async def change_profile(body: ProfileChange, deps: DepsOf, caller: Writer) -> Me:
    """Change your profile. Days and energy are computed anew where they depend on it."""
    fields = {name: getattr(body, name) for name in body.model_fields_set}
    return _me(await profiles.change(deps, str(caller.user_id), fields))


@router.put("/v1/me/password", status_code=204, tags=["accounts"])
async def change_password(body: PasswordChange, deps: DepsOf, caller: Writer) -> Response:
    """Change your password. Your other sessions end."""
    await credentials.change_password(deps, str(caller.user_id), caller.session_id, body.password, body.new_password)
    return Response(status_code=204)


@router.post("/v1/password-resets", status_code=202, tags=["accounts"])
async def ask_for_reset(body: ResetRequest, deps: DepsOf, address: ClientAddress, _: Anybody) -> Response:
    """Have a code for a new password sent by mail. The answer is the same whether there is such an account or not."""
    credentials.ask_for_reset(deps, body.email, address)
    return Response(status_code=202)


@router.post("/v1/password-resets/confirmations", status_code=204, tags=["accounts"])
async def reset_password(body: PasswordReset, deps: DepsOf, _: Anybody) -> Response:
    """Set a new password by the letter's code, within 30 minutes and once. All sessions end."""
    await credentials.reset_password(deps, body.token, body.new_password)
    return Response(status_code=204)


@router.post("/v1/me/second-factor", tags=["accounts"])
async def propose_second_factor(body: OwnPassword, deps: DepsOf, caller: Writer) -> Authenticator:
    """Begin to use an authenticator app. It counts once a code of it is confirmed."""
    user, secret = await credentials.propose_second_factor(deps, str(caller.user_id), body.password)
    return Authenticator(secret=totp.written(secret), uri=totp.provisioning_uri(secret, user.email))


@router.post("/v1/me/second-factor/confirmations", tags=["accounts"])
async def confirm_second_factor(body: Confirmation, deps: DepsOf, caller: Writer) -> RecoveryCodes:
    """Confirm the authenticator by a code. From now on signing in needs one; your other sessions end."""
    codes = await credentials.confirm_second_factor(deps, str(caller.user_id), caller.session_id, body.code)
    return RecoveryCodes(recovery_codes=codes)


@router.post("/v1/me/second-factor/recovery-codes", tags=["accounts"])
async def renew_recovery_codes(body: OwnPassword, deps: DepsOf, caller: Writer) -> RecoveryCodes:
    """Fresh recovery codes; the earlier ones are void."""
    codes = await credentials.renew_recovery_codes(deps, str(caller.user_id), caller.session_id, body.password)
    return RecoveryCodes(recovery_codes=codes)


@router.post("/v1/me/second-factor/removals", status_code=204, tags=["accounts"])
async def remove_second_factor(body: OwnPassword, deps: DepsOf, caller: Writer) -> Response:
    """Sign in by password alone from now on, which then needs 15 characters. Your other sessions end."""
    await credentials.remove_second_factor(deps, str(caller.user_id), caller.session_id, body.password)
    return Response(status_code=204)


def _me(user: User) -> Me:
    return Me(
        user_id=user.id,
        email=user.email,
        profile=accounts.public_profile(user.profile),
        second_factor=user.second_factor is not None,
        recovery_codes=len(user.second_factor.recovery) if user.second_factor is not None else 0,
    )
