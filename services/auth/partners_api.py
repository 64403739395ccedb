"""Partners over HTTP: registration, and what a partner does for itself. The gateway is the only caller."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from services.auth import partner_keys, registration
from services.auth.asking import (
    Anybody,
    Body,
    ClientAddress,
    DepsOf,
    IdempotencyKey,
    KeyAnswer,
    MailAddress,
    key_fields,
)
from services.auth.keys import PartnerKey
from services.auth.partners import (
    MAX_NAME,
    MAX_OVERLAP,
    MAX_REDIRECT_URI,
    MAX_REDIRECT_URIS,
    POSSIBLE_SCOPES,
    Partner,
    State,
    live_secrets,
    redirect_uri,
    shown_name,
)
from services.auth.registration import Wanted
from shared.callers import Caller
from shared.clock import Moment
from shared.errors import Problem
from shared.identity import require

router = APIRouter()

DAY_S = 86_400


def possible_scopes(scopes: list[str]) -> list[str]:
    """The scopes again. Raises PydanticCustomError for one that partners cannot have."""
    if not set(scopes) <= set(POSSIBLE_SCOPES):
        raise PydanticCustomError("scopes", "Send none but these: {scopes}", {"scopes": ", ".join(POSSIBLE_SCOPES)})
    return scopes


def each_once(uris: tuple[str, ...]) -> tuple[str, ...]:
    """The URIs again. Raises PydanticCustomError where one comes twice."""
    if len(set(uris)) < len(uris):
        raise PydanticCustomError("redirect_uris", "Name each redirect URI once")
    return uris


# Compatibility characters may become several when they are normalised, so the bound is checked twice.
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(shown_name)]
RedirectUri = Annotated[str, Field(max_length=MAX_REDIRECT_URI), AfterValidator(redirect_uri)]
RedirectUris = Annotated[tuple[RedirectUri, ...], Field(max_length=MAX_REDIRECT_URIS), AfterValidator(each_once)]
Scope = Annotated[str, Field(json_schema_extra={"enum": list(POSSIBLE_SCOPES)})]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=32), AfterValidator(possible_scopes)]
KeyId = Annotated[str, Path(max_length=64)]


class Registration(Body):
    """A new partner. `contact` is the address of a person to turn to, which users never see."""

    name: Annotated[Name, Field(examples=["Oat & Co"])]
    contact: MailAddress
    redirect_uris: Annotated[RedirectUris, Field(examples=[["https://oat.example/callback"]])] = ()
    scopes: Annotated[Scopes, Field(examples=[["days:read", "webhooks:write"]])]


class PartnerChange(Body):
    """Fields to set; those left out stay."""

    # Never read where they were not sent: there is no value that means "as it is".
    name: Annotated[Name, Field(default_factory=str)]
    redirect_uris: Annotated[RedirectUris, Field(default_factory=tuple)]


class NewKey(Body):
    """An API key to be made; without `expires_at` it is good until it is ended."""

    name: Annotated[Name, Field(examples=["nightly import"])]
    scopes: Scopes
    expires_at: Moment | None = None


class Rotation(Body):
    """For how many seconds what is replaced stays good; 0 when somebody else may have it."""

    overlap_s: Annotated[int, Field(ge=0, le=int(MAX_OVERLAP.total_seconds()), strict=True)] = DAY_S


class SecretAnswer(BaseModel):
    """A client secret that is good now, and until when if another has taken its place."""

    created_at: datetime
    expires_at: datetime | None


class PartnerAnswer(BaseModel):
    """A partner; `partner_id` is its OAuth client_id. `requests_per_min` null: what everybody has."""

    partner_id: str
    name: str
    contact: str
    state: State
    scopes: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    requests_per_min: int | None
    client_secrets: list[SecretAnswer]


class PartnerWithSecret(PartnerAnswer):
    """A partner and its new client secret, which is shown this once; null when this very request made it before."""

    client_secret: str | None


class KeyWithText(KeyAnswer):
    """An API key with the key itself, which is shown this once; null when this very request made it before."""

    key: str | None


class KeysAnswer(BaseModel):
    """The partner's keys, the latest first, also those that ended in the last 30 days."""

    keys: list[KeyAnswer]


Reader = Annotated[Caller, require("partner:read", "partner")]
Writer = Annotated[Caller, require("partner:write", "partner")]


@router.post("/v1/partners", status_code=201, tags=["partners"])
async def register(
    body: Registration,
    key: IdempotencyKey,
    deps: DepsOf,
    address: ClientAddress,
    _: Anybody,
) -> PartnerWithSecret:
    """Register a partner. While its `state` is `pending` an operator has yet to let it work.

    Whatever else it asks for, it gets partner:read and partner:write. The same request under the same
    Idempotency-Key gives the same partner, but its secret no more.
    """
    wanted = Wanted(body.name, body.contact, body.redirect_uris, tuple(sorted(set(body.scopes))))
    return _with_secret(deps, *await registration.register(deps, key, wanted, address))


@router.get("/v1/partner", tags=["partners"])
async def read(deps: DepsOf, caller: Reader) -> PartnerAnswer:
    """Your own registration."""
    return _answer(deps, await registration.own(deps, str(caller.partner_id)))


@router.patch("/v1/partner", tags=["partners"])
async def change(body: PartnerChange, deps: DepsOf, caller: Writer) -> PartnerAnswer:
    """Change your name or redirect URIs."""
    given = body.model_fields_set
    if not given:
        raise Problem(422, "nothing-to-change", "Send `name`, `redirect_uris` or both.")
    name = body.name if "name" in given else None
    uris = body.redirect_uris if "redirect_uris" in given else None
    return _answer(deps, await registration.change(deps, str(caller.partner_id), name=name, redirect_uris=uris))


@router.post("/v1/partner/client-secret/rotations", status_code=201, tags=["partners"])
async def rotate_secret(body: Rotation, key: IdempotencyKey, deps: DepsOf, caller: Writer) -> PartnerWithSecret:
    """Get a new client secret. The earlier ones end after `overlap_s`."""
    return _with_secret(deps, *await registration.rotate_secret(deps, caller, key, timedelta(seconds=body.overlap_s)))


@router.post("/v1/partner/keys", status_code=201, tags=["partners"])
async def create_key(body: NewKey, key: IdempotencyKey, deps: DepsOf, caller: Writer) -> KeyWithText:
    """Make an API key. It can have no scope that the token or key that asks for it does not have."""
    return _with_text(*await partner_keys.create(deps, caller, key, body.name, body.scopes, body.expires_at))


@router.get("/v1/partner/keys", tags=["partners"])
async def list_keys(deps: DepsOf, caller: Reader) -> KeysAnswer:
    """Your API keys."""
    partner = await registration.own(deps, str(caller.partner_id))
    return KeysAnswer(keys=[KeyAnswer(**key_fields(one)) for one in await partner_keys.listed(deps, partner.id)])


@router.delete("/v1/partner/keys/{key_id}", status_code=204, tags=["partners"])
async def end_key(key_id: KeyId, deps: DepsOf, caller: Writer) -> None:
    """Let a key be good no more, everywhere within 30 seconds."""
    await partner_keys.end(deps, str(caller.partner_id), key_id)


@router.post("/v1/partner/keys/{key_id}/rotations", status_code=201, tags=["partners"])
async def rotate_key(key_id: KeyId, body: Rotation, key: IdempotencyKey, deps: DepsOf, caller: Writer) -> KeyWithText:
    """Get a new key in place of one, which ends after `overlap_s`. Name and scopes stay."""
    return _with_text(*await partner_keys.rotate(deps, caller, key_id, key, timedelta(seconds=body.overlap_s)))


def _fields(deps: DepsOf, partner: Partner) -> dict[str, Any]:
    secrets = live_secrets(partner, deps.clock())
    return {
        "partner_id": partner.id,
        "name": partner.name,
        "contact": partner.contact,
        "state": partner.state,
        "scopes": partner.scopes,
        "redirect_uris": partner.redirect_uris,
        "requests_per_min": partner.requests_per_min,
        "client_secrets": [SecretAnswer(created_at=one.created_at, expires_at=one.expires_at) for one in secrets],
    }


def _answer(deps: DepsOf, partner: Partner) -> PartnerAnswer:
    return PartnerAnswer(**_fields(deps, partner))


def _with_secret(deps: DepsOf, partner: Partner, secret: str | None) -> PartnerWithSecret:
    return PartnerWithSecret(**_fields(deps, partner), client_secret=secret)


def _with_text(key: PartnerKey, text: str | None) -> KeyWithText:
    return KeyWithText(**key_fields(key), key=text)
