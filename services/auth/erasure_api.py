"""Erasing users over HTTP, and looking how far it is. The gateway is the only caller but of what operators ask."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from services.auth import erasure, managed
from services.auth.asking import Anybody, DepsOf
from services.auth.enrolment import Deps
from services.auth.erasure_documents import Erasure
from shared.callers import Caller
from shared.errors import Problem
from shared.identity import operating, require

router = APIRouter()

Id = Annotated[str, Path(max_length=64)]
Nudge = Callable[[], None]


def _nudge(request: Request) -> Nudge:
    """What wakes the workers of erasures."""
    return request.app.state.erasures_begun


NudgeOf = Annotated[Nudge, Depends(_nudge)]


class ErasureAsked(BaseModel):
    """The erasure goes on by itself. Whoever has the `link` can see how far it is, without signing in."""

    erasure_id: str
    asked_at: datetime
    link: str


class ErasureState(BaseModel):
    """How far an erasure is. `waiting_for` are the services that have not said yet that they keep nothing.

    `finished_at`: since then no database and no object store of ours holds anything. `topics_expire_at`: by then the
    logs of the message broker have forgotten too.
    """

    erasure_id: str
    state: Literal["erasing", "erased"]
    asked_at: datetime
    finished_at: datetime | None
    topics_expire_at: datetime | None
    waiting_for: tuple[str, ...]


class ServiceProof(BaseModel):
    """What one service deleted."""

    service: str
    documents: int
    objects: int
    finished_at: datetime


class Proof(ErasureState):
    """What operators can show of an erasure. `asked_by`: `user`, or the partner that managed the user."""

    user_id: str
    asked_by: str
    services: list[ServiceProof] = Field(description="Every service that has spoken")


# Partners never have this scope, granted or not.
Owner = Annotated[Caller, require("profile:write")]
Manager = Annotated[Caller, require("users:manage", "partner")]


@router.delete("/v1/me", status_code=202, tags=["accounts"])
async def erase_me(deps: DepsOf, nudge: NudgeOf, caller: Owner) -> ErasureAsked:
    """Erase your account and everything we hold of you. It cannot be undone.

    Needs a sign-in of at most 10 minutes ago, else 403 `sign-in-again`. Your sessions end at once.
    """
    return _asked(nudge, await erasure.ask(deps, str(caller.user_id), caller.session_id))


@router.delete("/v1/partner/users/{user_id}", status_code=202, tags=["partners"])
async def erase_managed_user(user_id: Id, deps: DepsOf, nudge: NudgeOf, caller: Manager) -> ErasureAsked:
    """Erase one of your users and everything we hold of this user. It cannot be undone."""
    partner_id = str(caller.partner_id)
    known = await erasure.found(deps, deps.pepper.erasure_id(user_id))
    if known is None or known.asked_by != partner_id:
        await managed.own(deps, partner_id, user_id)
        known = await erasure.begin(deps, user_id, asked_by=partner_id)
    return _asked(nudge, known)


@router.get("/v1/erasures/{erasure_id}", tags=["accounts"])
async def see_erasure(erasure_id: Id, deps: DepsOf, _: Anybody) -> ErasureState:
    """How far an erasure is. Its id is known to nobody but whoever asked for it, so that is all you need."""
    return ErasureState(**_state(await _known(deps, erasure_id)))


@router.get("/internal/users/{user_id}/erasure", include_in_schema=False, dependencies=[Depends(operating)])
async def proof(user_id: Id, deps: DepsOf) -> Proof:
    """The proof of a user's erasure."""
    known = await _known(deps, deps.pepper.erasure_id(user_id))
    services = [
        ServiceProof(service=name, documents=one.documents, objects=one.objects, finished_at=one.finished_at)
        for name, one in sorted(known.reports.items())
    ]
    return Proof(**_state(known), user_id=known.user_id, asked_by=known.asked_by, services=services)


async def _known(deps: Deps, erasure_id: str) -> Erasure:
    known = await erasure.found(deps, erasure_id)
    if known is None:
        raise Problem(404, "not-found", "There is no such erasure. Take the `link` of the answer to your request.")
    return known


def _asked(nudge: Nudge, asked: Erasure) -> ErasureAsked:
    nudge()
    return ErasureAsked(erasure_id=asked.id, asked_at=asked.asked_at, link=f"/v1/erasures/{asked.id}")


def _state(known: Erasure) -> dict[str, Any]:
    return {
        "erasure_id": known.id,
        "state": "erasing" if known.finished_at is None else "erased",
        "asked_at": known.asked_at,
        "finished_at": known.finished_at,
        "topics_expire_at": known.topics_expire_at,
        "waiting_for": known.missing,
    }
