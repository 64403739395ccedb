"""The collections of the contract tests, shared with the processes they start."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec

from shared.documents import Claimable, Collection, Document, Index


class Meal(Enum):
    LUNCH = "lunch"
    DINNER = "dinner"


class Part(msgspec.Struct, frozen=True):
    grams: Decimal
    weighed_at: datetime


class Entry(Document, frozen=True, kw_only=True):
    """One field of every kind."""

    user_id: str = "u1"
    eaten_at: datetime | None = None
    position: int = 0
    slug: str | None = None
    local_date: date | None = None
    grams: Decimal | None = None
    photo: bytes = b""
    food: UUID | None = None
    meal: Meal | None = None
    done: bool = False
    kcal: float = 0.0
    tags: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    by_hour: dict[int, Decimal] = msgspec.field(default_factory=dict)
    by_source: dict[str, Part] = msgspec.field(default_factory=dict)


ENTRIES = Collection(
    "entries",
    Entry,
    indexes=(
        Index("by_time", ("user_id", "eaten_at")),
        Index("by_position", ("user_id", "local_date", "position")),
        Index("slug", ("user_id", "slug"), unique=True),
        Index("done", ("done", "kcal")),
    ),
)


class Task(Claimable, frozen=True, kw_only=True):
    queue: str = "q"


TASKS = Collection("tasks", Task, indexes=(Index("due", ("due_at",)), Index("by_queue", ("queue", "due_at"))))

ALL = (ENTRIES, TASKS)
