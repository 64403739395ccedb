"""The diary, read by its owner."""

import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.nutrition.foods import total, unknown
from services.nutrition.store import Store
from shared.callers import Caller
from shared.clock import FullDate
from shared.events.nutrition import DiaryEntry, Nutrients
from shared.identity import require


class Diary(BaseModel):
    """A day's entries with their totals, which are the exact sums of what the entries know."""

    date: datetime.date
    entries: list[DiaryEntry]
    totals: Nutrients
    incomplete: list[str] = Field(description="Nutrients that an entry does not know; their totals are lower bounds")


def create_router(store: Store) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["nutrition"])

    @router.get("/v1/diary/{date}")
    async def get_diary(date: FullDate, caller: Annotated[Caller, require("diary:read")]) -> Diary:
        """The user's diary of one local date; a day without entries is empty."""
        entries = await store.entries_of_day(caller.user_id or "", date)
        parts = [entry.amounts for entry in entries]
        return Diary(
            date=date,
            entries=[entry.view() for entry in entries],
            totals=Nutrients(**dict(total(parts).items())),
            incomplete=list(unknown(parts)),
        )

    return router
