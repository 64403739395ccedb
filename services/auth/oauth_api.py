"""The authorization endpoint: a person signs in on our page, sees what a partner asks for, and decides."""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from services.auth import codes, enrolment, grants, sessions
from services.auth.accounts import User
from services.auth.asking import Anybody, ClientAddress
from services.auth.authorization import Asked, NotTrusted, SentBack, answered, client_named, fields_of, read
from services.auth.browsers import Browser, Browsers
from services.auth.codes import CODES, Code
from services.auth.consent import Pages
from services.auth.enrolment import Deps
from shared.errors import Problem

router = APIRouter()

PATH = "/oauth/authorize"
WRONG = {
    "wrong-credentials": "The address, the password or the code is wrong.",
    "second-factor-required": "Your account has a second factor. Enter your password once more, and the code.",
    "too-many-attempts": "Too many attempts. Wait a while, or set a new password in your app.",
}
TOO_BUSY = "Too many people sign in right now. Try again in a moment."
STALE = "This page was open for too long. Please try again."


@dataclass(frozen=True)
class Door:
    """What the pages need beside auth's parts; joined in `app.py`."""

    deps: Deps
    browsers: Browsers
    pages: Pages


@dataclass(frozen=True)
class Visit:
    """A request that is in order, the browser that it came from, and who signed in there."""

    asked: Asked
    browser: Browser | None
    user: User | None

    @property
    def action(self) -> str:
        """Where the forms of its pages go."""
        return f"{PATH}?{self.asked.query}"

    def purpose(self, form: str) -> str:
        """What the token of a form is good for: this form, about this very request."""
        return f"{form}?{self.asked.query}"


def door_of(request: Request) -> Door:
    """What `app.py` built."""
    return request.app.state.door


DoorOf = Annotated[Door, Depends(door_of)]


async def visit_of(request: Request, door: DoorOf, _: Anybody) -> Visit:
    """The request; a dependency. Raises NotTrusted and SentBack."""
    try:
        fields = fields_of(request.scope["query_string"])
    except ValueError as error:
        raise NotTrusted("The link that brought you here cannot be read.") from error
    partner_id = client_named(fields)[0]
    asked = read(fields, await door.deps.store.partner(partner_id))
    browser = door.browsers.read(request.cookies.get(door.browsers.cookie_name), door.deps.clock())
    return Visit(asked, browser, await _user_at(door, browser))


VisitOf = Annotated[Visit, Depends(visit_of)]
REQUIRED = ("client_id", "redirect_uri", "response_type", "scope", "code_challenge", "code_challenge_method")
PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "required": name in REQUIRED, "schema": {"type": "string"}}
    for name in (*REQUIRED, "state")
]
DOCUMENTED: dict[str, Any] = {
    "tags": ["oauth"],
    "response_class": HTMLResponse,
    "responses": {
        303: {"description": "To the client, with code or error, state and iss; or to the next page"},
        400: {"description": "A page: there is no client to go back to", "content": {"text/html": {}}},
        403: {"description": "The page once more: what was sent with it is wrong", "content": {"text/html": {}}},
        429: {"description": "The page once more: too many attempts", "content": {"text/html": {}}},
    },
}


@router.get(PATH, **DOCUMENTED, openapi_extra={"parameters": PARAMETERS})
async def authorize(visit: VisitOf, door: DoorOf) -> Response:
    """A page for a person: sign in, see what the partner asks for, and decide (RFC 6749 §4.1.1, PKCE with S256)."""
    return await _page(door, visit)


@router.post(PATH, **DOCUMENTED, openapi_extra={"parameters": PARAMETERS})
async def decide(request: Request, visit: VisitOf, door: DoorOf, address: ClientAddress) -> Response:
    """What the person did on the page."""
    try:
        form = dict(fields_of(await request.body()))
    except ValueError:
        form = {}
    name = form.get("form", "")
    token = form.get("form_token", "")
    if visit.browser is None or not door.browsers.is_form_token(token, visit.browser, visit.purpose(name)):
        return await _page(door, visit, message=STALE, status=403)
    if name == "sign-in":
        return await _sign_in(door, visit, form, address)
    if name == "sign-out":
        return _again(door, visit, door.browsers.new(door.deps.clock()))
    if name == "decide" and form.get("decision") == "deny":
        return _sent(_denied(door, visit))
    if name == "decide" and form.get("decision") == "allow" and visit.user is not None:
        return await _allow(door, visit, visit.browser, visit.user)
    return await _page(door, visit, message=STALE, status=403)


async def _user_at(door: Door, browser: Browser | None) -> User | None:
    """Who is signed in, unless all of their sessions were ended since."""
    if browser is None or browser.user_id is None:
        return None
    if await sessions.ended_since(door.deps, browser.user_id, browser.since):
        return None
    return await door.deps.store.user(browser.user_id)


async def _page(
    door: Door, visit: Visit, *, email: str = "", message: str = "", code: bool = False, status: int = 200
) -> Response:
    """The consent of whoever is signed in, else the sign-in."""
    browser = visit.browser or door.browsers.new(door.deps.clock())

    def token(form: str) -> str:
        return door.browsers.form_token(browser, visit.purpose(form))

    if visit.user is None:
        page = door.pages.sign_in(
            visit.asked,
            visit.action,
            form_token=token("sign-in"),
            cancel=_denied(door, visit),
            email=email,
            message=message,
            asks_code=code,
        )
    else:
        known = await door.deps.store.grant(grants.grant_id(visit.user.id, visit.asked.partner.id))
        page = door.pages.consent(
            visit.asked,
            visit.action,
            form_token=token("decide"),
            sign_out_token=token("sign-out"),
            email=visit.user.email,
            granted=known.scopes if known is not None and known.revoked_at is None else (),
        )
    page.status_code = status
    if visit.browser is None:
        page.headers["Set-Cookie"] = door.browsers.set_cookie(browser)
    return page


async def _sign_in(door: Door, visit: Visit, form: dict[str, str], address: str) -> Response:
    asked_at = door.deps.clock()
    email, password = form.get("email", ""), form.get("password", "")
    try:
        partner_id = visit.asked.partner.id
        user_id = await enrolment.sign_in(
            door.deps, email, password, form.get("second_factor"), address, partner_id=partner_id
        )
    except Problem as problem:
        # 401 would need a challenge that browsers know.
        status = 403 if problem.status == 401 else problem.status
        message, asks_code = WRONG.get(problem.code, TOO_BUSY), problem.code == "second-factor-required"
        page = await _page(door, visit, email=email, message=message, code=asks_code, status=status)
        page.headers.update(problem.headers)
        return page
    # Of a fresh nonce: whoever knew the cookie of before does not know this one.
    return _again(door, visit, door.browsers.new(asked_at, user_id))


def _denied(door: Door, visit: Visit) -> str:
    values = {"error": "access_denied", "error_description": "The user did not allow it."}
    return answered(visit.asked.redirect_uri, visit.asked.state, door.deps.tokens.issuer, values)


def _again(door: Door, visit: Visit, browser: Browser) -> Response:
    """The same request anew, by GET, from the browser as it is now."""
    return Response(
        status_code=303, headers={"Location": visit.action, "Set-Cookie": door.browsers.set_cookie(browser)}
    )


async def _allow(door: Door, visit: Visit, browser: Browser, user: User) -> Response:
    asked, deps = visit.asked, door.deps
    granted = await enrolment.grant(deps, user.id, f"consent-{secrets.token_hex(16)}", asked.partner.id, asked.scopes)
    text, now = codes.new_code(), deps.clock()
    await deps.store.documents.insert(
        CODES,
        Code(
            id=codes.code_id(text),
            partner_id=asked.partner.id,
            redirect_uri=asked.redirect_uri,
            challenge=asked.challenge,
            user_id=user.id,
            scopes=asked.scopes,
            grant_revision=granted.revision,
            signed_in_at=browser.since,
            expires_at=now + codes.LIFETIME,
            forget_at=now + codes.KEPT,
        ),
    )
    return _sent(answered(asked.redirect_uri, asked.state, deps.tokens.issuer, {"code": text}))


def install(app: FastAPI) -> None:
    """Answer what is wrong with a request by a page or by a redirect."""

    async def page(request: Request, error: Exception) -> Response:
        if not isinstance(error, NotTrusted):
            raise error
        return door_of(request).pages.refused(error.reason)

    async def redirect(request: Request, error: Exception) -> Response:
        if not isinstance(error, SentBack):
            raise error
        values = {"error": error.error, "error_description": error.description}
        issuer = door_of(request).deps.tokens.issuer
        return _sent(answered(error.redirect_uri, error.state, issuer, values))

    app.add_exception_handler(NotTrusted, page)
    app.add_exception_handler(SentBack, redirect)


def _sent(location: str) -> Response:
    # 303, so that no browser posts a password or a token there (RFC 9700 §4.12).
    headers = {"Location": location, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return Response(status_code=303, headers=headers)
