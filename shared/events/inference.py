"""What was read from pictures."""

from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shared.events.event import Event, UtcTime


class NutrientReading(BaseModel, frozen=True):
    """One nutrient as read: the amount per 100 g in the field's unit, and how sure the reading is, 0 to 1."""

    amount: Decimal
    confidence: float


class LabelReading(BaseModel, frozen=True):
    """A label's numbers per 100 g. Energy in kcal, everything else in grams."""

    energy_kcal: NutrientReading | None = None
    protein_g: NutrientReading | None = None
    carbohydrate_g: NutrientReading | None = None
    sugar_g: NutrientReading | None = None
    fat_g: NutrientReading | None = None
    salt_g: NutrientReading | None = None


class ReadingMode(BaseModel, frozen=True):
    """Which model read the picture: its name, the SHA-256 over its weights, and whether it was a fallback."""

    model: str
    weights_sha256: str
    fallback: bool


class PhotoRead(Event, frozen=True):
    """A picture was read. `grams`, `eaten_at` and `local_date` travel along from the submission."""

    type: Literal["photo.read"] = "photo.read"
    user_id: str
    photo_id: str
    reading: LabelReading
    warnings: tuple[str, ...] = ()
    mode: ReadingMode
    name: str | None = None
    gtin: str | None = None
    grams: Decimal | None = None
    eaten_at: UtcTime | None = None
    local_date: date | None = None


class PhotoRejected(Event, frozen=True):
    """A picture could not be read; `reason` is a stable code, `detail` says what to do."""

    type: Literal["photo.rejected"] = "photo.rejected"
    user_id: str
    photo_id: str
    reason: str
    detail: str
