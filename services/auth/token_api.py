"""What OAuth clients ask for themselves: tokens, their revocation and what they say, and where all of it is."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import unquote_plus, urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from services.auth import audit, issuing
from services.auth.asking import Anybody, DepsOf
from services.auth.authorization import METHOD, fields_of
from services.auth.clients import authenticated
from services.auth.codes import is_verifier
from services.auth.enrolment import Deps
from services.auth.issuing import Issued
from services.auth.oauth_errors import OAuthError, OAuthErrorCode
from services.auth.partners import POSSIBLE_SCOPES, Partner, State
from shared.client_authorization import client_authorization_of
from shared.errors import Problem

router = APIRouter()

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
CLIENT_METHODS = ("client_secret_basic", "client_secret_post")
FORM = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store"}
MAX_FIELD = 4096
NOT_ACTIVE: dict[State, str] = {
    "pending": "The secret is right, but an operator has yet to approve this partner. Ask the operator.",
    "suspended": "The secret is right, but this partner is suspended. Ask the operator.",
}


class OAuthTokens(BaseModel):
    """A bearer token, good for `expires_in` seconds. For a user also who that is, and a refresh token, good once."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a kind of token, none itself
    expires_in: int
    scope: str
    refresh_token: str | None = None
    user_id: str | None = None


class Introspection(BaseModel):
    """What a token says; nothing but `active` for one that is not good, or not this client's."""

    active: bool
    scope: str | None = None
    client_id: str | None = None
    sub: str | None = None
    token_type: str | None = None
    iss: str | None = None
    aud: str | None = None
    exp: int | None = None
    iat: int | None = None
    jti: str | None = None


class OAuthErrorAnswer(BaseModel):
    """An error in OAuth's own form (RFC 6749 §5.2)."""

    error: OAuthErrorCode
    error_description: str


class ServerMetadata(BaseModel):
    """Authorization server metadata (RFC 8414)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    jwks_uri: str
    scopes_supported: tuple[str, ...] = POSSIBLE_SCOPES
    response_types_supported: tuple[str, ...] = ("code",)
    response_modes_supported: tuple[str, ...] = ("query",)
    grant_types_supported: tuple[str, ...] = GRANT_TYPES
    token_endpoint_auth_methods_supported: tuple[str, ...] = CLIENT_METHODS
    revocation_endpoint_auth_methods_supported: tuple[str, ...] = CLIENT_METHODS
    introspection_endpoint_auth_methods_supported: tuple[str, ...] = CLIENT_METHODS
    code_challenge_methods_supported: tuple[str, ...] = (METHOD,)
    authorization_response_iss_parameter_supported: bool = True


class Form:
    """A form that a client posted, and who the client is."""

    def __init__(self, values: dict[str, str], partner: Partner) -> None:
        self.values = values
        self.partner = partner

    def needed(self, name: str) -> str:
        """A field. Raises OAuthError."""
        value = self.values.get(name)
        if value is None or len(value) > MAX_FIELD:
            raise OAuthError("invalid_request", f"Send `{name}`.")
        return value


async def form_of(
    request: Request,
    deps: DepsOf,
    presented: Annotated[str, Depends(client_authorization_of)],
    _: Anybody,
) -> Form:
    """The form of a client that proved who it is; a dependency. Raises OAuthError."""
    try:
        fields = fields_of(await request.body())
    except ValueError as error:
        raise OAuthError("invalid_request", f"Send the body as {FORM} in UTF-8.") from error
    values = dict(fields)
    if len(values) != len(fields):
        raise OAuthError("invalid_request", "Send each parameter once.")
    client_id, secret = _credentials(presented, values)
    partner = await authenticated(deps, client_id, secret)
    if partner is None:
        raise OAuthError("invalid_client", "The client's id or secret is wrong.")
    # Said to nobody but whoever has the secret.
    if partner.state in NOT_ACTIVE:
        raise OAuthError("invalid_client", NOT_ACTIVE[partner.state])
    audit.note_client(partner.id)
    return Form(values, partner)


FormOf = Annotated[Form, Depends(form_of)]


def _form_body(required: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """How OpenAPI describes a form, which is read by hand: FastAPI would need a multipart parser for it."""
    names = ("client_id", "client_secret")
    properties = {name: {"type": "string"} for name in (*required, *optional, *names)}
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": OAuthErrorAnswer, "description": "The request or the grant is not good"},
    401: {"model": OAuthErrorAnswer, "description": "The client is not known by what it sent"},
}


@router.post(
    "/oauth/token",
    tags=["oauth"],
    response_model_exclude_none=True,
    responses=ERRORS,
    openapi_extra=_form_body(("grant_type",), ("code", "redirect_uri", "code_verifier", "refresh_token", "scope")),
)
async def token(form: FormOf, deps: DepsOf, response: Response) -> OAuthTokens:
    """Exchange a code or a refresh token for tokens, or get one for the partner itself (RFC 6749 §3.2).

    The client proves who it is by HTTP Basic or by `client_id` and `client_secret` in the form. A lost answer to a
    refresh is asked for again with the same refresh token within 30 s.
    """
    response.headers.update(NO_STORE)
    issued = await _issued(form, deps)
    return OAuthTokens(
        access_token=issued.access_token,
        expires_in=deps.tokens.lifetime_s,
        scope=" ".join(issued.scopes),
        refresh_token=issued.refresh_token,
        user_id=issued.user_id,
    )


async def _issued(form: Form, deps: Deps) -> Issued:
    grant_type = form.needed("grant_type")
    scope = form.values.get("scope")
    if grant_type == "authorization_code":
        code, redirect_uri, verifier = form.needed("code"), form.needed("redirect_uri"), form.needed("code_verifier")
        if not is_verifier(verifier):
            raise OAuthError("invalid_request", "Send a code_verifier of 43 to 128 letters, digits, and - . _ ~")
        return await issuing.exchanged(deps, form.partner, code, redirect_uri, verifier)
    if grant_type == "refresh_token":
        return await issuing.refreshed(deps, form.partner, form.needed("refresh_token"), scope)
    if grant_type == "client_credentials":
        return issuing.own(deps, form.partner, scope)
    raise OAuthError("unsupported_grant_type", f"Send one of {', '.join(GRANT_TYPES)} as grant_type.")


@router.post(
    "/oauth/revoke",
    tags=["oauth"],
    responses=ERRORS,
    openapi_extra=_form_body(("token",), ("token_type_hint",)),
)
async def revoke(form: FormOf, deps: DepsOf) -> dict[str, Any]:
    """Call the tokens of a user's consent back, by any one of them (RFC 7009). Any other token is answered alike.

    What the user granted stays granted. A token of the partner itself ends by itself, within 15 minutes.
    """
    await issuing.revoke(deps, form.partner, form.needed("token"))
    return {}


@router.post(
    "/oauth/introspect",
    tags=["oauth"],
    response_model_exclude_none=True,
    responses=ERRORS,
    openapi_extra=_form_body(("token",), ("token_type_hint",)),
)
async def introspect(form: FormOf, deps: DepsOf, response: Response) -> Introspection:
    """Whether one of the client's own tokens is good, and for what (RFC 7662)."""
    response.headers.update(NO_STORE)
    return Introspection(**await issuing.introspected(deps, form.partner, form.needed("token")))


@router.get("/.well-known/oauth-authorization-server", tags=["oauth"])
async def metadata(request: Request, deps: DepsOf) -> ServerMetadata:
    """Where everything is, and what is served (RFC 8414)."""
    origin: str = request.app.state.public_origin
    return ServerMetadata(
        issuer=deps.tokens.issuer,
        authorization_endpoint=f"{origin}/oauth/authorize",
        token_endpoint=f"{origin}/oauth/token",
        revocation_endpoint=f"{origin}/oauth/revoke",
        introspection_endpoint=f"{origin}/oauth/introspect",
        jwks_uri=f"{origin}/.well-known/jwks.json",
    )


@router.get("/.well-known/oauth-authorization-server/{path}", tags=["oauth"])
async def metadata_of_issuer(path: str, request: Request, deps: DepsOf) -> ServerMetadata:
    """The same, where RFC 8414 §3.1 looks for it: behind it stands the path of the issuer."""
    if urlsplit(deps.tokens.issuer).path != f"/{path}":
        raise Problem(404, "not-found", "There is no such issuer here.")
    return await metadata(request, deps)


def install(app: FastAPI) -> None:
    """Answer OAuth's errors in OAuth's own form."""
    app.add_exception_handler(OAuthError, _answered)


async def _answered(_: Request, error: Exception) -> Response:
    if not isinstance(error, OAuthError):
        raise error
    body = OAuthErrorAnswer(error=error.code, error_description=error.description).model_dump()
    if error.code != "invalid_client":
        return JSONResponse(body, 400, NO_STORE)
    return JSONResponse(body, 401, {**NO_STORE, "WWW-Authenticate": 'Basic realm="oauth", charset="UTF-8"'})


def _credentials(presented: str, values: dict[str, str]) -> tuple[str, str]:
    """The client's id and secret, from the header or the form. Raises OAuthError."""
    if not presented:
        client_id, secret = values.get("client_id", ""), values.get("client_secret", "")
    else:
        client_id, secret = _basic(presented)
        if "client_secret" in values:
            raise OAuthError("invalid_request", "Prove who you are in one way: by HTTP Basic, or in the form.")
        if values.get("client_id", client_id) != client_id:
            raise OAuthError("invalid_request", "Send the client_id of HTTP Basic in the form too, or none there.")
    if not client_id or not secret or len(client_id) > MAX_FIELD or len(secret) > MAX_FIELD:
        raise _no_credentials()
    return client_id, secret


def _basic(presented: str) -> tuple[str, str]:
    scheme, _, encoded = presented.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError("another scheme")
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        # RFC 6749 §2.3.1: each is encoded as a form's value before.
        found = unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError) as error:
        raise _no_credentials() from error
    if not colon:
        raise _no_credentials()
    return found


def _no_credentials() -> OAuthError:
    return OAuthError("invalid_client", "Send the client's id and secret, by HTTP Basic or in the form.")
