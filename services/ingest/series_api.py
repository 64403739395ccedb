"""A user's samples over time, and what each was before."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from services.ingest.moments import moment
from services.ingest.points import Mark, Question, behind, encoded, mark_of
from services.ingest.priorities import Ranking
from services.ingest.ranges import Chosen, Range
from services.ingest.series_store import Reads
from services.ingest.timeseries import STEPS, Resolution, Table, Wanted
from services.ingest.zones import ZoneHistory
from shared.callers import Caller
from shared.errors import Problem
from shared.identity import require
from shared.problems import RESPONSES

NDJSON = "application/x-ndjson"
MAX_POINTS = 10_000
# Some 40 stages a night; they are put in order at once.
MOST_SLEEP_US = 366 * STEPS["1d"]
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
FOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"examples": {"windows": {"value": EXAMPLES[0]}}},
            NDJSON: {"schema": {"$ref": "#/components/schemas/Point"}},
        }
    }
}


class Point(BaseModel):
    """A sample (`value`, `device`), or a window with its numbers: `sum` of intervals; `min`, `max`, `mean` of readings.

    Only the members that apply are there. Windows without samples are left out.
    """

    start: datetime = Field(description="At the sample's own offset, in UTC where that is unknown; windows in UTC")
    end: datetime | None = Field(default=None, description="Not there for a reading at one moment")
    date: str | None = Field(default=None, description="The local day, with resolution=1d")
    value: float | None = None
    stage: str | None = Field(default=None, description="Instead of a value: what this stretch of a sleep was")
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


def create_router(reads: Reads) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get("/v1/timeseries", response_model=Timeseries, responses=FOUND)
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
        merged = resolution != "raw" if merged is None else merged
        wanted = await _wanted(reads, user_id, chosen, resolution, merged)
        question = Question(
            (wanted.metric, str(chosen.from_us), str(chosen.to_us), resolution, device or "", str(merged))
        )
        mark = _mark(question, cursor)
        if wanted.metric == "sleep":
            tables = reads.stages(user_id, wanted, device)
        else:
            tables = reads.points(user_id, wanted, device, mark.key if mark is not None else None)
        if NDJSON in accept.lower():
            return StreamingResponse(_stream(tables, wanted, mark), media_type=NDJSON)
        page, following = await _page(tables, wanted, mark, question, limit)
        return Response(_document(chosen, resolution, page, following), media_type="application/json")

    return router


async def _wanted(reads: Reads, user_id: str, chosen: Range, resolution: Resolution, merged: bool) -> Wanted:
    """What the parameters ask for, with what of the user's own it rests on. Raises Problem for what no session has."""
    metric = chosen.metric
    if metric.kind == "session":
        _check_session(chosen, resolution, merged)
    return Wanted(
        metric=metric.name,
        interval=metric.kind == "interval" or metric.name == "sleep",
        from_us=chosen.from_us,
        to_us=chosen.to_us,
        step_us=STEPS.get(resolution),
        merged=merged,
        ranking=await reads.ranking(user_id) if merged else Ranking(),
        zones=await reads.zones(user_id) if resolution == "1d" else ZoneHistory(),
    )


def _check_session(chosen: Range, resolution: Resolution, merged: bool) -> None:
    if chosen.metric.name == "workout":
        raise Problem(422, "not-a-series", "Workouts are sessions: read GET /v1/sessions?type=workout.")
    if resolution != "raw" or merged:
        raise Problem(422, "not-a-number", "Sleep has stages, no values: ask for resolution=raw, or read GET /v1/days.")
    if chosen.to_us - chosen.from_us > MOST_SLEEP_US:
        raise Problem(422, "range-too-long", "Ask for the stages of at most 366 days at a time.")


def _mark(question: Question, cursor: str | None) -> Mark | None:
    try:
        return question.mark(cursor) if cursor is not None else None
    except ValueError as error:
        raise Problem(
            422, "invalid-cursor", "Send a cursor as it was answered, with the same parameters, or none."
        ) from error


async def _stream(tables: AsyncGenerator[Table], wanted: Wanted, mark: Mark | None) -> AsyncIterator[bytes]:
    async with aclosing(tables):
        async for table in tables:
            found = encoded(table if mark is None else behind(table, mark, wanted), wanted, b"\n")
            if found:
                yield found


async def _page(
    tables: AsyncGenerator[Table], wanted: Wanted, mark: Mark | None, question: Question, limit: int
) -> tuple[bytes, str | None]:
    """The first `limit` points with commas between them, and the cursor behind them if there are more."""
    given: list[bytes] = []
    last: Mark | None = None
    room = limit
    async with aclosing(tables):
        async for table in tables:
            if mark is not None:
                table = behind(table, mark, wanted)
            count = len(table.rows)
            if not count:
                continue
            if not room:
                return b"".join(given)[:-1], question.cursor(last) if last is not None else None
            given.append(encoded(table.only(slice(room)), wanted, b","))
            last = mark_of(table, min(room, count) - 1, wanted, question.fingerprint)
            if count > room:
                return b"".join(given)[:-1], question.cursor(last)
            room -= count
    return b"".join(given)[:-1], None


def _document(chosen: Range, resolution: Resolution, page: bytes, cursor: str | None) -> bytes:
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
            page,
            b'],"cursor":',
            msgspec.json.encode(cursor),
            b"}",
        )
    )
