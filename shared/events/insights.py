"""Energy ledgers, and texts about them."""

from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shared.events.event import Event


class LedgerLine(BaseModel, frozen=True):
    """One source of energy, in or out, in kcal; `note` says what it rests on."""

    source: str
    direction: Literal["in", "out"]
    energy_kcal: Decimal
    note: str = ""


class LedgerUpdated(Event, frozen=True):
    """A day's energy ledger in full. Totals are the sums of the lines."""

    type: Literal["ledger.updated"] = "ledger.updated"
    user_id: str
    date: date
    revision: int
    lines: tuple[LedgerLine, ...]
    intake_kcal: Decimal
    expenditure_kcal: Decimal
    balance_kcal: Decimal
    missing: tuple[str, ...] = ()


class Fact(BaseModel, frozen=True):
    """A number an insight may speak of."""

    id: str
    value: Decimal
    unit: str
    window: str
    n: int


class InsightCreated(Event, frozen=True):
    """A text about the user's own numbers, with the facts behind it."""

    type: Literal["insight.created"] = "insight.created"
    user_id: str
    insight_id: str
    date: date
    title: str
    text: str
    facts: tuple[Fact, ...]
    mode: Literal["deterministic", "model"]
