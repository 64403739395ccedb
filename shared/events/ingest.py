"""What became of batches, and what the days say now."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from shared.events.event import Event


class ReceiptSummary(BaseModel, frozen=True):
    """What became of one batch: each record is stored, a duplicate, a correction, deleted, or refused with a reason."""

    receipt_id: str
    state: Literal["stored", "failed"]
    received: int
    stored: int
    duplicates: int
    corrections: int = 0
    deleted: int = 0
    refused: tuple[tuple[int, str], ...] = ()
    reason: str | None = None


class ReceiptsCompleted(Event, frozen=True):
    """All receipts of one user that one joint write completed."""

    type: Literal["receipts.completed"] = "receipts.completed"
    user_id: str
    receipts: tuple[ReceiptSummary, ...]


class DayMetric(BaseModel, frozen=True):
    """One metric's day. Interval metrics and sessions have a `sum`; instant ones have `min`, `max`, `mean`.

    `parts` divides the sum: sleep by stage, workouts by sport; they add up to it. `derived` marks a number that no
    device sent but that follows from others (total energy from active and basal).
    """

    unit: str
    count: int
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    parts: dict[str, float] = Field(default_factory=dict[str, float])
    derived: bool = False


class DayUpdated(Event, frozen=True):
    """A revision of a day that is still open."""

    type: Literal["day.updated"] = "day.updated"
    user_id: str
    date: date
    zone: str
    revision: int
    metrics: dict[str, DayMetric]


class DayRecomputed(Event, frozen=True):
    """A revision of a day that had ended: late data or a correction, with what it said before."""

    type: Literal["day.recomputed"] = "day.recomputed"
    user_id: str
    date: date
    zone: str
    revision: int
    metrics: dict[str, DayMetric]
    previous: dict[str, DayMetric]
    reason: str
