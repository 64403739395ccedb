"""The audit log over HTTP: users see their own lines, operators all of them. The gateway has no route to the latter."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from services.auth import audit
from services.auth.asking import Body, Cursor, DepsOf, bad_cursor
from services.auth.audit import KINDS, Actor, Line
from services.auth.enrolment import Deps
from shared.callers import Caller
from shared.clock import Moment
from shared.documents import Page
from shared.errors import Problem
from shared.identity import operating, require

router = APIRouter()


class SecurityEvent(BaseModel):
    """What happened to an account.

    `actor`: who did it; `nobody` was not signed in, `system` is this system itself. `network` holds the address that
    it came from. Attempts that failed are one event an hour: `count` of them from `at` to `last_at`. `about` is the id
    of the session, grant or key; `details` are reasons, scopes and names of fields.
    """

    at: datetime
    last_at: datetime
    kind: Annotated[str, Field(examples=["signed-in"], description="One of: " + ", ".join(KINDS))]
    actor: Actor
    partner_id: str | None
    about: str
    details: tuple[str, ...]
    network: Annotated[str, Field(examples=["198.51.100.0/24"])]
    trace_id: str
    count: int


class SecurityEvents(BaseModel):
    """Events, the latest first. With a `cursor` there are more."""

    events: list[SecurityEvent]
    cursor: str | None


class AuditLine(SecurityEvent):
    """The same for operators: of any user, and with the name of the operator."""

    user_id: str | None
    by: str


class AuditLines(BaseModel):
    """Lines, the latest first."""

    lines: list[AuditLine]
    cursor: str | None


class AuditRequest(Body):
    """Which lines; `by` is who looks."""

    user_id: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    kind: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    since: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[str | None, Field(max_length=1024)] = None
    by: Annotated[str, Field(min_length=1, max_length=200)]


@router.get("/v1/me/security-events", tags=["accounts"])
async def security_events(
    deps: DepsOf,
    caller: Annotated[Caller, require("profile:read")],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> SecurityEvents:
    """What happened to your account: sign-ins, wrong passwords, changes, grants. The latest first."""
    found = await _page(deps, user_id=str(caller.user_id), limit=limit, cursor=cursor)
    return SecurityEvents(events=[security_event(one) for one in found.documents], cursor=found.cursor)


@router.post("/internal/audit", include_in_schema=False, dependencies=[Depends(operating)])
async def read_audit(body: AuditRequest, deps: DepsOf) -> AuditLines:
    """Lines of the log for operators, whose looking is a line itself."""
    if body.kind is not None and body.kind not in KINDS:
        raise Problem(422, "unknown-kind", f"There is no such kind; there are {', '.join(KINDS)}.")
    looked = audit.line("audit-read", deps.clock(), user_id=body.user_id, by=body.by)
    await deps.store.documents.put_many([looked])
    found = await _page(
        deps, user_id=body.user_id, kind=body.kind, since=body.since, limit=body.limit, cursor=body.cursor
    )
    lines = [AuditLine(**_shown(one), user_id=one.user_id, by=one.by) for one in found.documents]
    return AuditLines(lines=lines, cursor=found.cursor)


async def _page(deps: Deps, **which: Any) -> Page[Line]:
    try:
        return await audit.page(deps.store.documents, **which)
    except ValueError as error:
        raise bad_cursor() from error


def security_event(line: Line) -> SecurityEvent:
    """The line as the user whom it is about sees it."""
    return SecurityEvent(**_shown(line))


def _shown(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in SecurityEvent.model_fields}
