"""What users read of their samples: receipts and days."""

from datetime import date, datetime
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from services.ingest.store import Store
from shared.clock import FullDate
from shared.errors import Problem
from shared.events import DayMetric
from shared.identity import Caller, require
from shared.problems import RESPONSES

router = APIRouter(responses=RESPONSES)


class RefusedAnswer(BaseModel):
    """A record that was not stored: its place in the batch sent, and why."""

    index: int
    code: str


class ReceiptAnswer(BaseModel):
    """What became of a batch. `stored` means on disk: the sender may delete its copy."""

    receipt_id: str
    state: Literal["stored", "failed"]
    received: int
    stored: int
    duplicates: int
    corrections: int
    refused: list[RefusedAnswer]
    reason: str | None
    completed_at: datetime


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


@router.get("/v1/receipts/{receipt_id}")
async def get_receipt(
    receipt_id: str, store: Stored, caller: Annotated[Caller, require("samples:read")]
) -> ReceiptAnswer:
    """What became of a batch. 404 while it is not decided, and for somebody else's."""
    receipt = (await store.receipts([receipt_id])).get(receipt_id)
    if receipt is None or receipt.user_id != caller.user_id:
        raise Problem(404, "not-found", "There is no such receipt, or its batch is not stored yet.")
    return ReceiptAnswer(
        receipt_id=receipt.id,
        state="failed" if receipt.state == "failed" else "stored",
        received=receipt.received,
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        corrections=receipt.corrections,
        refused=[RefusedAnswer(index=index, code=code) for index, code in receipt.refused],
        reason=receipt.reason,
        completed_at=receipt.completed_at,
    )


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
