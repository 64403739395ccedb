"""What messages about users say: the models of their `data`, which change apart from the events inside.

Every `data` says whose it is, its number in that user's sequence, the trace that caused it and where to read more.
Decimals are strings.
"""

from datetime import date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field


class Public(BaseModel):
    """Parts of messages: frozen, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class PublicData(Public):
    """What every message says. `sequence` counts the user's messages from 1 without gaps."""

    user_id: str
    sequence: int = Field(default=0, ge=0)
    trace_id: str = ""
    link: str = Field(description="Path of the resource that this is about")


class Refused(Public):
    """A record that was not stored: its place in the batch, and why."""

    index: int
    code: str


class Receipt(Public):
    """What became of one batch. `refused` shows the first 20."""

    receipt_id: str
    state: str
    received: int
    stored: int
    duplicates: int
    corrections: int
    deleted: int
    refused_count: int
    refused: tuple[Refused, ...]
    reason: str | None
    link: str


class ReceiptsCompletedData(PublicData):
    """Batches that were stored, or failed for good."""

    receipts: tuple[Receipt, ...]


class DayMetric(Public):
    """One metric's day; interval metrics and sessions have `sum`, the others `min`, `max`, `mean`.

    `parts` divides the sum: sleep by stage, workouts by sport. `derived`: no device sent this number, it follows from
    others.
    """

    unit: str
    count: int
    sum: float | None
    min: float | None
    max: float | None
    mean: float | None
    parts: dict[str, float]
    derived: bool


class DayUpdatedData(PublicData):
    """A revision of a day that is still open."""

    date: date
    zone: str
    revision: int
    metrics: dict[str, DayMetric]


class DayRecomputedData(DayUpdatedData):
    """A revision of a day that had ended, with what it said before and why it changed."""

    previous: dict[str, DayMetric]
    reason: str


class LedgerLine(Public):
    """One source of energy, in or out."""

    source: str
    direction: str
    energy_kcal: Decimal
    note: str


class LedgerUpdatedData(PublicData):
    """A day's energy ledger; totals are the sums of the lines."""

    date: date
    revision: int
    lines: tuple[LedgerLine, ...]
    intake_kcal: Decimal
    expenditure_kcal: Decimal
    balance_kcal: Decimal
    missing: tuple[str, ...]


class Nutrients(Public):
    """Amounts in kcal and grams; null means unknown, never zero."""

    energy_kcal: Decimal | None
    protein_g: Decimal | None
    carbohydrate_g: Decimal | None
    sugar_g: Decimal | None
    fat_g: Decimal | None
    salt_g: Decimal | None


class DiaryEntry(Public):
    """A diary entry with the numbers frozen when it was made."""

    entry_id: str
    revision: int
    date: date
    eaten_at: datetime
    food_id: str
    food_name: str
    grams: Decimal
    nutrients: Nutrients


class EntryData(PublicData):
    """A diary entry that arose or changed, as it is now."""

    entry: DiaryEntry


class EntryDeletedData(PublicData):
    """A diary entry that is gone."""

    entry_id: str
    date: date
    revision: int


class NutrientReading(Public):
    """An amount per 100 g, and how sure the reading is, 0 to 1."""

    amount: Decimal
    confidence: float


class LabelReading(Public):
    """A label's numbers per 100 g: energy in kcal, the rest in grams."""

    energy_kcal: NutrientReading | None
    protein_g: NutrientReading | None
    carbohydrate_g: NutrientReading | None
    sugar_g: NutrientReading | None
    fat_g: NutrientReading | None
    salt_g: NutrientReading | None


class ReadingMode(Public):
    """Which model and weights read the picture, and whether it was a fallback."""

    model: str
    weights_sha256: str
    fallback: bool


class PhotoReadData(PublicData):
    """A picture of a label was read."""

    photo_id: str
    reading: LabelReading
    warnings: tuple[str, ...]
    mode: ReadingMode
    name: str | None
    gtin: str | None


class PhotoRejectedData(PublicData):
    """A picture could not be read; `detail` says what to do."""

    photo_id: str
    reason: str
    detail: str


class Fact(Public):
    """A number behind an insight."""

    id: str
    value: Decimal
    unit: str
    window: str
    n: int


class InsightCreatedData(PublicData):
    """A text about the user's own numbers, with the facts behind it."""

    insight_id: str
    date: date
    title: str
    text: str
    facts: tuple[Fact, ...]
    mode: str
