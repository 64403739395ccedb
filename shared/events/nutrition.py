"""The diary's entries."""

from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shared.events.event import Event, UtcTime


class Nutrients(BaseModel, frozen=True):
    """Amounts in kcal and grams; `None` means unknown, never zero."""

    energy_kcal: Decimal | None = None
    protein_g: Decimal | None = None
    carbohydrate_g: Decimal | None = None
    sugar_g: Decimal | None = None
    fat_g: Decimal | None = None
    salt_g: Decimal | None = None


class DiaryEntry(BaseModel, frozen=True):
    """A diary entry in full, its numbers frozen at the time it was made."""

    entry_id: str
    revision: int
    date: date
    eaten_at: UtcTime
    food_id: str
    food_name: str
    grams: Decimal
    nutrients: Nutrients


class EntryCreated(Event, frozen=True):
    """A diary entry arose."""

    type: Literal["entry.created"] = "entry.created"
    user_id: str
    entry: DiaryEntry


class EntryUpdated(Event, frozen=True):
    """A diary entry changed; `entry` is what it is now."""

    type: Literal["entry.updated"] = "entry.updated"
    user_id: str
    entry: DiaryEntry


class EntryDeleted(Event, frozen=True):
    """A diary entry is gone; the tombstone keeps id, date and revision."""

    type: Literal["entry.deleted"] = "entry.deleted"
    user_id: str
    entry_id: str
    date: date
    revision: int
