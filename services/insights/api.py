"""What users read of their energy: ledgers and insights."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from services.insights.store import Insight, Ledger, Store
from shared.callers import Caller
from shared.clock import FullDate
from shared.errors import Problem
from shared.events.insights import Fact, LedgerLine
from shared.identity import require
from shared.problems import RESPONSES

router = APIRouter(responses=RESPONSES)


class LedgerAnswer(BaseModel):
    """A day's energy ledger. Totals are the exact sums of the lines; `missing` says what would make it better."""

    date: date
    revision: int
    updated_at: datetime
    lines: list[LedgerLine]
    intake_kcal: Decimal
    expenditure_kcal: Decimal
    balance_kcal: Decimal
    missing: list[str]


class InsightAnswer(BaseModel):
    """A text about the user's own numbers; every number in it is one of `facts`."""

    insight_id: str
    date: date
    created_at: datetime
    title: str
    text: str
    facts: list[Fact]
    mode: Literal["deterministic", "model"]


class InsightsAnswer(BaseModel):
    """Insights, newest first. `next_cursor` continues, null at the end."""

    insights: list[InsightAnswer]
    next_cursor: str | None


def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


Stored = Annotated[Store, Depends(_store)]


@router.get("/v1/ledger/{date}")
async def get_ledger(date: FullDate, store: Stored, caller: Annotated[Caller, require("ledger:read")]) -> LedgerAnswer:
    """The user's energy of one local day, in and out."""
    ledger = await store.ledger(caller.user_id or "", date)
    if ledger is None or ledger.revision == 0:
        raise Problem(
            404, "not-found", "Nothing is known of this day's energy yet; send samples or a photo of what was eaten."
        )
    return ledger_answer(ledger)


@router.get("/v1/insights")
async def list_insights(
    store: Stored,
    caller: Annotated[Caller, require("insights:read")],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> InsightsAnswer:
    """The user's insights, newest first."""
    try:
        page = await store.insights(caller.user_id or "", limit, cursor)
    except ValueError as error:
        raise Problem(400, "invalid-cursor", "Use the next_cursor of an answer, or none to start.") from error
    return InsightsAnswer(
        insights=[insight_answer(one) for one in page.documents],
        next_cursor=page.cursor,
    )


def ledger_answer(ledger: Ledger) -> LedgerAnswer:
    """The ledger as its user sees it."""
    return LedgerAnswer(
        date=ledger.day,
        revision=ledger.revision,
        updated_at=ledger.updated_at,
        lines=[
            LedgerLine(source=line.source, direction=line.direction, energy_kcal=line.energy_kcal, note=line.note)
            for line in ledger.balance.lines
        ],
        intake_kcal=ledger.balance.intake_kcal,
        expenditure_kcal=ledger.balance.expenditure_kcal,
        balance_kcal=ledger.balance.balance_kcal,
        missing=list(ledger.balance.missing),
    )


def insight_answer(one: Insight) -> InsightAnswer:
    """The insight as its user sees it."""
    return InsightAnswer(
        insight_id=one.id,
        date=one.day,
        created_at=one.created_at,
        title=one.title,
        text=one.text,
        facts=[Fact(id=fact.id, value=fact.value, unit=fact.unit, window=fact.window, n=fact.n) for fact in one.facts],
        mode="model" if one.mode == "model" else "deterministic",
    )
