"""What users read of their days."""

from datetime import date, datetime
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from services.ingest.store import Store
from shared.clock import FullDate
from shared.errors import Problem
from shared.events import DayMetric
from shared.identity import Caller, require
from shared.problems import RESPONSES

router = APIRouter(responses=RESPONSES)


class DayAnswer(BaseModel):
    """One local day. `revision` counts up with every change; `zone` is the user's zone on that day."""

    date: date
    zone: str
    revision: int
    updated_at: datetime
    metrics: dict[str, DayMetric]


def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


Stored = Annotated[Store, Depends(_store)]


@router.get("/v1/days/{date}")
async def get_day(date: FullDate, store: Stored, caller: Annotated[Caller, require("days:read")]) -> DayAnswer:
    """The user's numbers of one local day."""
    day = await store.day(caller.user_id or "", date)
    if day is None:
        raise Problem(404, "not-found", "Nothing is known of this day yet; send its samples to POST /v1/batches.")
    return DayAnswer(
        date=day.day,
        zone=day.zone,
        revision=day.revision,
        updated_at=day.updated_at,
        metrics={
            name: DayMetric(unit=one.unit, count=one.count, sum=one.sum, min=one.min, max=one.max, mean=one.mean)
            for name, one in day.metrics.items()
        },
    )
