"""What became of a user's batches."""

import asyncio
import re
import time
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from services.ingest.moments import Moment
from services.ingest.records import Receipt
from services.ingest.series_store import Reads
from services.ingest.waiting import Waiting
from shared.callers import Caller
from shared.clock import Clock
from shared.errors import Problem
from shared.identity import require
from shared.problems import RESPONSES
from shared.service import stop_event

WAIT = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)(s|ms)?", re.ASCII)
LONGEST_WAIT_S = 10
# Another process may have stored it, of which nobody tells this one.
LOOK_EVERY_S = 0.1
MAX_RECEIPTS = 1_000
# A list of receipts names so many refused records of each; the receipt alone names them all.
REFUSED_LISTED = 100
# Several processes complete receipts; one that is completed earlier may be seen later, but not by so much.
SETTLED = timedelta(minutes=1)


class RefusedAnswer(BaseModel):
    """A record that was not stored: its place in the batch sent, and why."""

    index: int
    code: str


class ReceiptAnswer(BaseModel):
    """What became of a batch. `stored` means on disk: the sender may delete its copy."""

    receipt_id: str = Field(examples=["rcp_6rq4nnt2jx6xaz3m7u5dfwkqpy3o7v2c4b5shyq"])
    state: Literal["stored", "failed"]
    received: int
    stored: int
    duplicates: int
    corrections: int
    deleted: int = Field(description="Deletions carried out, and those that found nothing to delete")
    refused: list[RefusedAnswer]
    refused_count: int = Field(description="All refused records; a list of receipts names the first 100 of each")
    reason: str | None = Field(description="Why the whole batch failed")
    completed_at: datetime


class ReceiptList(BaseModel):
    """Completed receipts, oldest first. With a `cursor` there are more; without, ask again with `since`."""

    receipts: list[ReceiptAnswer]
    cursor: str | None
    next_since: datetime | None = Field(
        description="Where to begin the next time. It may repeat receipts of the last minute, and skips none."
    )


def create_router(reads: Reads, waiting: Waiting, clock: Clock) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get("/v1/receipts/{receipt_id}")
    async def get_receipt(
        receipt_id: str,
        request: Request,
        caller: Annotated[Caller, require("samples:read")],
        wait: Annotated[
            str, Query(max_length=16, description="Answer when it is completed, at the latest after `2s` or `500ms`")
        ] = "0",
    ) -> ReceiptAnswer:
        """What became of a batch. 404 while it is not decided, and for somebody else's."""
        found = await _waited_for(
            reads, waiting, receipt_id, caller.user_id or "", wait_seconds(wait), stop_event(request.app)
        )
        if found is None:
            raise Problem(404, "not-found", "There is no such receipt, or its batch is not stored yet.")
        return shown(found, len(found.refused))

    @router.get("/v1/receipts")
    async def list_receipts(
        caller: Annotated[Caller, require("samples:read")],
        since: Annotated[
            Moment | None, Query(description="RFC 3339 with an offset, + escaped as %2B; none = all")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_RECEIPTS)] = 100,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> ReceiptList:
        """The caller's completed receipts, oldest first."""
        try:
            page = await reads.receipts(caller.user_id or "", since, limit, cursor)
        except ValueError as error:
            raise Problem(422, "invalid-cursor", "Send a cursor as it was answered, or none.") from error
        newest = page.documents[-1].completed_at if page.documents else since
        return ReceiptList(
            receipts=[shown(one, REFUSED_LISTED) for one in page.documents],
            cursor=page.cursor,
            next_since=min(newest, clock() - SETTLED) if newest is not None else None,
        )

    return router


async def _waited_for(
    reads: Reads, waiting: Waiting, receipt_id: str, user_id: str, wait_s: float, stopping: asyncio.Event
) -> Receipt | None:
    """The receipt, looked for until it is there or the time is over."""
    found = await reads.receipt(receipt_id, user_id)
    if found is not None or not wait_s or (event := waiting.join(receipt_id)) is None:
        return found
    deadline = time.monotonic() + wait_s
    try:
        while True:
            event.clear()
            found = await reads.receipt(receipt_id, user_id)
            left = deadline - time.monotonic()
            if found is not None or left <= 0 or stopping.is_set():
                return found
            try:
                async with asyncio.timeout(min(left, LOOK_EVERY_S)):
                    await event.wait()
            except TimeoutError:
                continue
    finally:
        waiting.leave(receipt_id, event)


def wait_seconds(text: str) -> float:
    """`2`, `2s` or `500ms` in seconds. Raises `Problem` 422 for what is none, or longer than 10 s."""
    found = WAIT.fullmatch(text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found is not None else -1
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise Problem(422, "invalid-wait", f"Write wait as 2s or 500ms, at most {LONGEST_WAIT_S}s.")
    return seconds


def shown(receipt: Receipt, most_refused: int) -> ReceiptAnswer:
    """The receipt as its sender sees it."""
    return ReceiptAnswer(
        receipt_id=receipt.id,
        state="failed" if receipt.state == "failed" else "stored",
        received=receipt.received,
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        corrections=receipt.corrections,
        deleted=receipt.deleted,
        refused=[RefusedAnswer(index=index, code=code) for index, code in receipt.refused[:most_refused]],
        refused_count=len(receipt.refused),
        reason=receipt.reason,
        completed_at=receipt.completed_at,
    )
