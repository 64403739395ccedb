"""Exports over HTTP: asking for one, looking how far it is, downloading it. The gateway is the only caller."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from services.auth.export_documents import SERVICES, Export, Part
from services.auth.exports import Exports, is_over
from shared.callers import Caller
from shared.errors import Problem
from shared.identity import require

router = APIRouter()

ZIP = "application/zip"
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}, "description": "The archive"}
}
Id = Annotated[str, Path(max_length=64)]


class ServiceProgress(BaseModel):
    """What one service has given: so many files with so many rows, packed into so many bytes."""

    service: str
    state: Literal["waiting", "ready"]
    files: int
    rows: int
    size_bytes: int


class ExportState(BaseModel):
    """How far an export is. Once it is `ready`, `file` is where it can be downloaded until `expires_at`.

    `problem` says why it `failed`, and what to do. `link` is this export, asked for again.
    """

    export_id: str = Field(examples=["exp_5f0c1e3d9a7b4c2e8d6f1a0b3c5e7d9f"])
    state: Literal["running", "ready", "failed", "expired"]
    asked_at: datetime
    ready_at: datetime | None
    expires_at: datetime | None
    problem: str | None
    services: list[ServiceProgress]
    link: str
    file: str | None


def _exports_of(request: Request) -> Exports:
    """What `app.py` built."""
    return request.app.state.exports


ExportsOf = Annotated[Exports, Depends(_exports_of)]
# Partners never have these scopes, granted or not.
Reader = Annotated[Caller, require("profile:read")]
Writer = Annotated[Caller, require("profile:write")]


@router.post("/v1/me/exports", status_code=202, tags=["accounts"])
async def ask_for_export(exports: ExportsOf, caller: Writer) -> ExportState:
    """Have everything that we hold of you put into a ZIP archive. While one is being made, it is the answer.

    Needs a sign-in of at most 10 minutes ago, else 403 `sign-in-again`. At most three a day.
    """
    return _state(exports, await exports.ask(str(caller.user_id), caller.session_id))


@router.get("/v1/me/export", tags=["accounts"])
async def newest_export(exports: ExportsOf, caller: Reader) -> ExportState:
    """How far your newest export is, and where it can be downloaded."""
    export = await exports.newest(str(caller.user_id))
    if export is None:
        raise Problem(404, "not-found", "You have not asked for an export. POST /v1/me/exports makes one.")
    return _state(exports, export)


@router.get("/v1/me/exports/{export_id}", tags=["accounts"])
async def see_export(export_id: Id, exports: ExportsOf, caller: Reader) -> ExportState:
    """How far one of your exports is."""
    return _state(exports, await _own(exports, export_id, caller))


@router.get("/v1/me/exports/{export_id}/file", tags=["accounts"], response_class=StreamingResponse, responses=FILE)
async def download_export(export_id: Id, exports: ExportsOf, caller: Reader) -> StreamingResponse:
    """The archive, for 24 hours after it was ready; README.txt in it explains the rest.

    409 `export-not-ready` before, 410 `export-lost` if a part of it is gone.
    """
    export = await _own(exports, export_id, caller)
    if export.state == "failed":
        raise Problem(410, "export-lost", export.problem)
    if export.state == "running":
        raise Problem(
            409,
            "export-not-ready",
            f"This export is being made; GET /v1/me/exports/{export.id} says how far it is.",
            headers={"Retry-After": "5"},
        )
    if is_over(export, exports.deps.clock()):
        raise Problem(404, "not-found", "This export is no longer kept. Ask for a new one by POST /v1/me/exports.")
    archive = await exports.archive(export)
    name = f"mymacrotracker-export-{export.asked_at:%Y-%m-%d}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(archive.size_bytes)}
    return StreamingResponse(archive.parts, media_type=ZIP, headers=headers)


async def _own(exports: Exports, export_id: str, caller: Caller) -> Export:
    export = await exports.found(export_id, str(caller.user_id))
    if export is None:
        raise Problem(404, "not-found", "You have no such export; GET /v1/me/export shows your newest.")
    return export


def _state(exports: Exports, export: Export) -> ExportState:
    over = is_over(export, exports.deps.clock())
    link = f"/v1/me/exports/{export.id}"
    return ExportState(
        export_id=export.id,
        state="expired" if over else export.state,
        asked_at=export.asked_at,
        ready_at=export.ready_at,
        expires_at=export.expires_at,
        problem=export.problem or None,
        services=[_progress(service, export.parts.get(service)) for service in SERVICES],
        link=link,
        file=f"{link}/file" if export.state == "ready" and not over else None,
    )


def _progress(service: str, part: Part | None) -> ServiceProgress:
    files = part.files if part is not None else ()
    return ServiceProgress(
        service=service,
        state="waiting" if part is None else "ready",
        files=len(files),
        rows=sum(one.rows for one in files),
        size_bytes=part.size_bytes if part is not None else 0,
    )
