"""A user's samples over time, and what each was before."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from services.ingest.metrics import METRICS, Metric
from services.ingest.moments import Moment, micros, moment
from services.ingest.points import Mark, Question, behind, lines, mark_of
from services.ingest.series_store import Reads
from services.ingest.timeseries import STEPS, Resolution, Table, Wanted
from shared.errors import Problem
from shared.identity import Caller, require
from shared.problems import RESPONSES

NDJSON = "application/x-ndjson"
MAX_POINTS = 10_000
EXAMPLES: list[Any] = [
    {
        "metric": "heart_rate",
        "unit": "/min",
        "resolution": "15m",
        "from": "2026-03-01T07:00:00Z",
        "to": "2026-03-01T07:30:00Z",
        "points": [
            {
                "start": "2026-03-01T07:00:00Z",
                "end": "2026-03-01T07:15:00Z",
                "count": 15,
                "min": 58.0,
                "max": 71.0,
                "mean": 63.2,
            }
        ],
        "cursor": None,
    }
]


class Point(BaseModel):
    """A sample (`value`, `device`), or a window with its numbers: `sum` of intervals; `min`, `max`, `mean` of readings.

    Only the members that apply are there. Windows without samples are left out.
    """

    start: datetime = Field(description="At the sample's own offset, in UTC where that is unknown; windows in UTC")
    end: datetime | None = Field(default=None, description="Not there for a reading at one moment")
    date: str | None = Field(default=None, description="The local day, with resolution=1d")
    value: float | None = None
    device: str | None = Field(default=None, description="Of samples, and of windows with merged=false")
    count: int | None = Field(default=None, description="Samples that took part")
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None


class Timeseries(BaseModel):
    """Points in order of their start. With a `cursor` there are more."""

    metric: str
    unit: str
    resolution: Resolution
    since: datetime = Field(alias="from")
    to: datetime
    points: list[Point]
    cursor: str | None


@dataclass(frozen=True)
class Range:
    """The query parameters that choose a metric and a stretch of time."""

    metric: Metric
    from_us: int
    to_us: int


async def chosen_range(
    metric: Annotated[str, Query(max_length=64, examples=["heart_rate"])],
    since: Annotated[Moment, Query(alias="from", description="RFC 3339, included; write + as %2B")],
    to: Annotated[Moment, Query(description="RFC 3339, not included")],
) -> Range:
    """The range asked for, exactly.

    Raises:
        Problem: 422, no such metric or no such range.
    """
    known = METRICS.get(metric)
    if known is None:
        raise Problem(422, "unknown-metric", "This metric is not known; docs/metrics.md lists all names.")
    if known.kind == "session":
        raise Problem(422, "not-a-series", f"Read GET /v1/sessions?type={known.name}: it consists of sessions.")
    if micros(since) >= micros(to):
        raise Problem(422, "empty-range", "`from` must lie before `to`; it is included and `to` is not.")
    if micros(since) < 0:
        raise Problem(422, "before-1970", "Nothing is kept of the time before 1970; choose a later `from`.")
    return Range(known, micros(since), micros(to))


Chosen = Annotated[Range, Depends(chosen_range)]


def create_router(reads: Reads) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get(
        "/v1/timeseries",
        response_model=Timeseries,
        responses={
            200: {
                "content": {
                    "application/json": {"examples": {"windows": {"value": EXAMPLES[0]}}},
                    NDJSON: {"schema": {"$ref": "#/components/schemas/Point"}},
                }
            }
        },
    )
    async def get_timeseries(
        caller: Annotated[Caller, require("samples:read")],
        chosen: Chosen,
        resolution: Annotated[Resolution, Query(description="raw: samples as sent; 1d: the user's local days")] = "raw",
        device: Annotated[str | None, Query(max_length=128, description="Samples of this device alone")] = None,
        merged: Annotated[
            bool | None,
            Query(
                description="Interval metrics of several devices as one truth, as in days; false: each device for "
                "itself. Windows are merged unless told otherwise, raw samples are not; merged raw samples come as "
                "the pieces that count."
            ),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Points a page; a stream has no pages")] = 1_000,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """A metric over [from, to), never more. `Accept: application/x-ndjson` streams all of it, a point a line."""
        user_id = caller.user_id or ""
        if merged is None:
            merged = resolution != "raw"
        wanted = Wanted(
            metric=chosen.metric.name,
            interval=chosen.metric.kind == "interval",
            from_us=chosen.from_us,
            to_us=chosen.to_us,
            step_us=STEPS.get(resolution),
            merged=merged,
            ranking=await reads.ranking(user_id),
        )
        question = Question(
            (wanted.metric, str(chosen.from_us), str(chosen.to_us), resolution, device or "", str(merged))
        )
        mark = _mark(question, cursor)
        tables = reads.points(user_id, wanted, device, mark.key if mark is not None else None)
        if NDJSON in accept.lower():
            return StreamingResponse(_stream(tables, wanted, mark), media_type=NDJSON)
        page, following = await _page(tables, wanted, mark, question, limit)
        return Response(_document(chosen, resolution, page, following), media_type="application/json")

    return router


def _mark(question: Question, cursor: str | None) -> Mark | None:
    try:
        return question.mark(cursor) if cursor is not None else None
    except ValueError as error:
        raise Problem(
            422, "invalid-cursor", "Send a cursor as it was answered, with the same parameters, or none."
        ) from error


async def _stream(tables: AsyncGenerator[Table], wanted: Wanted, mark: Mark | None) -> AsyncIterator[str]:
    async with aclosing(tables):
        async for table in tables:
            found = lines(table if mark is None else behind(table, mark, wanted), wanted)
            if found:
                yield "\n".join(found) + "\n"


async def _page(
    tables: AsyncGenerator[Table], wanted: Wanted, mark: Mark | None, question: Question, limit: int
) -> tuple[list[str], str | None]:
    """The first `limit` points, and the cursor behind them if there are more."""
    given: list[str] = []
    last: Mark | None = None
    async with aclosing(tables):
        async for table in tables:
            if mark is not None:
                table = behind(table, mark, wanted)
            if not len(table.rows):
                continue
            room = limit - len(given)
            if not room:
                return given, question.cursor(last) if last is not None else None
            given += lines(Table(table.rows[:room], table.devices), wanted)
            last = mark_of(table, min(room, len(table.rows)) - 1, wanted, question.fingerprint)
            if len(table.rows) > room:
                return given, question.cursor(last)
    return given, None


def _document(chosen: Range, resolution: Resolution, page: list[str], cursor: str | None) -> bytes:
    head = {
        "metric": chosen.metric.name,
        "unit": chosen.metric.unit,
        "resolution": resolution,
        "from": moment(chosen.from_us),
        "to": moment(chosen.to_us),
    }
    return b"".join(
        (
            msgspec.json.encode(head)[:-1],
            b',"points":[',
            ",".join(page).encode(),
            b'],"cursor":',
            msgspec.json.encode(cursor),
            b"}",
        )
    )
