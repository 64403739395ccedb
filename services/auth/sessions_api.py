"""Signing in, staying signed in and signing out over HTTP; the gateway is the only caller."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.auth import enrolment, sessions
from services.auth.asking import Anybody, Body, ClientAddress, DepsOf
from services.auth.enrolment import Deps
from services.auth.passwords import MAX_BYTES
from services.auth.sessions import Session
from shared.callers import Caller
from shared.errors import Problem
from shared.identity import require

router = APIRouter()

RefreshTokenText = Annotated[str, Field(min_length=1, max_length=256)]


class SignIn(Body):
    """Address and password of the user's own app. `device` is what the user's list of sessions calls it.

    `second_factor`, once one is switched on: the authenticator's code, or a recovery code. Without it the answer to
    right credentials is 401 `second-factor-required`.
    """

    email: Annotated[str, Field(max_length=320)]
    password: Annotated[str, Field(max_length=MAX_BYTES)]
    device: Annotated[str, Field(max_length=64, examples=["Ada's phone"])] = ""
    second_factor: Annotated[str | None, Field(max_length=32, examples=["123456"])] = None


class RefreshTokenBody(Body):
    """A refresh token."""

    refresh_token: RefreshTokenText


class Tokens(BaseModel):
    """A bearer token, good for `expires_in` seconds, and the refresh token to be exchanged for the next ones, once."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a kind of token, none itself
    expires_in: int
    refresh_token: str
    session_id: str


class SessionAnswer(BaseModel):
    """A session that goes on. `current`: it is the caller's own. Unused, it ends at `ends_at`.

    `partner_id`: of a partner's session, whose `device` is the partner's name; null for the user's own apps.
    """

    session_id: str
    device: str
    partner_id: str | None
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime
    current: bool


class AlertAnswer(BaseModel):
    """A session that was ended for safety: a refresh token of it was used twice, so somebody else may have had it."""

    session_id: str
    device: str
    ended_at: datetime
    reason: str


class SessionsAnswer(BaseModel):
    """The user's sessions, and what the user should know of those that ended in the last 30 days."""

    sessions: list[SessionAnswer]
    alerts: list[AlertAnswer]


class EndedAnswer(BaseModel):
    """How many sessions ended."""

    ended: int


Reader = Annotated[Caller, require("profile:read")]
Writer = Annotated[Caller, require("profile:write")]


@router.post("/v1/tokens", tags=["accounts"])
async def sign_in(body: SignIn, deps: DepsOf, address: ClientAddress, _: Anybody) -> Tokens:
    """Sign in with the user's own app, which starts a session. Partners' apps never see a password."""
    asked_at = deps.clock()
    first = deps.refresh_tokens.first()
    user_id = await enrolment.sign_in(
        deps, body.email, body.password, body.second_factor, address, session_id=first.session_id
    )
    return _tokens(deps, *await sessions.start(deps, user_id, body.device, asked_at=asked_at, first=first))


@router.post("/v1/tokens/refresh", tags=["accounts"])
async def refresh(body: RefreshTokenBody, deps: DepsOf, _: Anybody) -> Tokens:
    """Exchange a refresh token for new tokens; keep the new refresh token and forget the old one.

    A client that lost the answer asks again with the old token, within 30 s. Later, or once the new one was used, the
    old token ends the session, because somebody else may have it. A session lasts 90 days, 30 days if unused.
    """
    return _tokens(deps, *await sessions.refresh(deps, body.refresh_token))


@router.post("/v1/tokens/revoke", status_code=204, tags=["accounts"])
async def revoke(body: RefreshTokenBody, deps: DepsOf, _: Anybody) -> None:
    """Sign out: end the session of this refresh token. A token that is not good any more is answered alike."""
    await sessions.sign_out(deps, body.refresh_token)


@router.get("/v1/me/sessions", tags=["accounts"])
async def list_sessions(deps: DepsOf, caller: Reader) -> SessionsAnswer:
    """Where you are signed in."""
    user_id = str(caller.user_id)
    live = await sessions.live(deps, user_id)
    alarming = await sessions.alarming(deps, user_id)
    shown = [_shown(session, session.ends_at, caller) for session in live if session.ends_at is not None]
    return SessionsAnswer(
        sessions=sorted(shown, key=lambda session: session.last_used_at, reverse=True),
        alerts=[_alert(session, session.ended_at) for session in alarming if session.ended_at is not None],
    )


@router.delete("/v1/me/sessions/{session_id}", status_code=204, tags=["accounts"])
async def end_session(session_id: str, deps: DepsOf, caller: Writer) -> None:
    """Sign one of your devices out, within seconds and everywhere."""
    if not await sessions.end(deps, session_id, user_id=str(caller.user_id), reason=sessions.ENDED_BY_USER):
        raise Problem(404, "not-found", "You have no such session; `GET /v1/me/sessions` lists yours.")


@router.delete("/v1/me/sessions", tags=["accounts"])
async def end_other_sessions(deps: DepsOf, caller: Writer) -> EndedAnswer:
    """Sign all your devices out but this one."""
    return EndedAnswer(
        ended=await sessions.end_all(deps, str(caller.user_id), but=caller.session_id, reason=sessions.ENDED_BY_USER)
    )


def _tokens(deps: Deps, session: Session, refresh_token: str) -> Tokens:
    return Tokens(
        access_token=deps.tokens.issue(session.user_id, session.id, deps.clock()),
        expires_in=deps.tokens.lifetime_s,
        refresh_token=refresh_token,
        session_id=session.id,
    )


def _shown(session: Session, ends_at: datetime, caller: Caller) -> SessionAnswer:
    return SessionAnswer(
        session_id=session.id,
        device=session.device,
        partner_id=session.partner_id,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        ends_at=ends_at,
        current=session.id == caller.session_id,
    )


def _alert(session: Session, ended_at: datetime) -> AlertAnswer:
    return AlertAnswer(session_id=session.id, device=session.device, ended_at=ended_at, reason=str(session.end_reason))
