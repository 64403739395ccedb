"""A user's sleeps and workouts."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.ingest.metrics import STREAMS
from services.ingest.moments import local_moment
from services.ingest.ranges import From, To, bounds
from services.ingest.records import Session
from services.ingest.series_store import Reads
from shared.callers import Caller
from shared.errors import Problem
from shared.events.gateway import StageColumns, StreamColumns
from shared.identity import require
from shared.problems import RESPONSES

MAX_SESSIONS = 100


class StageAnswer(BaseModel):
    """A stretch of a sleep."""

    stage: str = Field(examples=["deep"])
    start: datetime
    end: datetime


class StreamAnswer(BaseModel):
    """A workout's numbers over time, in seconds after `start`."""

    name: str = Field(examples=["heart_rate"])
    unit: str = Field(examples=["/min"])
    start: datetime
    offsets_s: list[float]
    values: list[float]


class SessionAnswer(BaseModel):
    """A sleep or a workout as its device told it."""

    session_id: str
    type: Literal["sleep", "workout"]
    device: str
    kind: str = Field(description="The device's kind", examples=["watch"])
    start: datetime
    end: datetime
    sport: str | None = Field(description="Of a workout", examples=["run"])
    source_version: int = Field(description="The source's own version of it, 0 where it has none")
    totals: dict[str, float] = Field(examples=[{"energy_active_kcal": 412.0, "distance_m": 8_040.0}])
    stages: list[StageAnswer]
    streams: list[str] = Field(description="Names of the streams; GET /v1/sessions/{session_id} has their numbers")


class SessionDetail(SessionAnswer):
    """A sleep or a workout with its streams."""

    streams: list[StreamAnswer]  # pyright: ignore[reportIncompatibleVariableOverride]


class SessionList(BaseModel):
    """Sessions in order of the hour they end in. With a `cursor` there may be more."""

    sessions: list[SessionAnswer]
    cursor: str | None


def create_router(reads: Reads) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get("/v1/sessions")
    async def list_sessions(
        caller: Annotated[Caller, require("samples:read")],
        since: From,
        to: To,
        type: Annotated[Literal["sleep", "workout"] | None, Query()] = None,
        device: Annotated[str | None, Query(max_length=128)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_SESSIONS)] = 50,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> SessionList:
        """The sleeps and workouts that overlap [from, to), each as its device told it. Days have them merged."""
        from_us, to_us = bounds(since, to)
        found: list[SessionAnswer] = []
        try:
            while True:
                page = await reads.sessions(caller.user_id or "", from_us, to_us, limit - len(found), cursor)
                found += [
                    SessionAnswer(**_told(one), streams=[stream.name for stream in one.streams])
                    for one in page.documents
                    if not one.deleted
                    and one.start_us < to_us
                    and one.end_us > from_us
                    and type in (None, one.type)
                    and device in (None, one.device_id)
                ]
                cursor = page.cursor
                if cursor is None or len(found) >= limit:
                    return SessionList(sessions=found, cursor=cursor)
        except ValueError as error:
            raise Problem(422, "invalid-cursor", "Send a cursor as it was answered, or none.") from error

    @router.get("/v1/sessions/{session_id}")
    async def get_session(session_id: str, caller: Annotated[Caller, require("samples:read")]) -> SessionDetail:
        """One sleep or workout with its streams."""
        user_id = caller.user_id or ""
        found = await reads.session(document_id(session_id, user_id))
        if found is None or found.user_id != user_id or found.deleted:
            raise Problem(404, "not-found", "There is no such session.")
        return detail(found)

    return router


def detail(session: Session) -> SessionDetail:
    """The session with its streams."""
    streams = [_stream(one, session.offset_minutes) for one in session.streams]
    return SessionDetail(**_told(session), streams=streams)


def public_id(session: Session) -> str:
    """The session's document id without its user."""
    own = session.id.removeprefix(f"{session.user_id}/")
    return base64.urlsafe_b64encode(own.encode()).decode().rstrip("=")


def document_id(session_id: str, user_id: str) -> str:
    """The document id behind a public id; one of no document for what is none of ours."""
    try:
        own = base64.b64decode(session_id + "=" * (-len(session_id) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return f"{user_id}/{own}"


def _told(session: Session) -> dict[str, Any]:
    offset = session.offset_minutes
    return {
        "session_id": public_id(session),
        "type": session.type,
        "device": session.device_id,
        "kind": session.device_kind,
        "start": local_moment(session.start_us, offset),
        "end": local_moment(session.end_us, offset),
        "sport": session.sport or None,
        "source_version": session.source_version,
        "totals": session.totals,
        "stages": _stages(session.stages, offset) if session.stages is not None else [],
    }


def _stages(stages: StageColumns, offset: int) -> list[StageAnswer]:
    start, end = (np.frombuffer(column, "<i8").tolist() for column in (stages.start_us, stages.end_us))
    return [
        StageAnswer(stage=name, start=local_moment(one, offset), end=local_moment(other, offset))
        for one, other, name in zip(start, end, stages.stage, strict=True)
    ]


def _stream(stream: StreamColumns, offset: int) -> StreamAnswer:
    at = np.frombuffer(stream.at_us, "<i8")
    known = STREAMS.get(stream.name)
    start = int(at[0]) if len(at) else 0
    return StreamAnswer(
        name=stream.name,
        unit=known.unit if known is not None else "",
        start=local_moment(start, offset),
        offsets_s=((at - start) / 1_000_000).tolist(),
        values=np.frombuffer(stream.value, "<f8").tolist(),
    )
