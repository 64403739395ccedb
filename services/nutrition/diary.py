"""When a photo becomes a diary entry, on which day, and with which numbers."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from services.nutrition.foods import NAMELESS, Amounts, amounts_per_100g, portion
from shared.errors import Rejected
from shared.events.inference import PhotoRead
from shared.ids import derived_id

MAX_GRAMS = Decimal(100_000)


@dataclass(frozen=True)
class PlannedEntry:
    """A diary entry that a photo asks for; its numbers are frozen here."""

    entry_id: str
    date: date
    eaten_at: datetime
    food_name: str
    grams: Decimal
    amounts: Amounts


def plan_entry(event: PhotoRead, home_zone: str) -> PlannedEntry | None:
    """The entry that the photo makes: none without grams, or when the label's energy could not be read.

    Raises:
        Rejected: the portion is not a weight that can be eaten.
    """
    if event.grams is None or event.reading.energy_kcal is None:
        return None
    if not event.grams.is_finite() or not 0 < event.grams <= MAX_GRAMS:
        raise Rejected("grams-out-of-range", "grams must be above 0 and at most 100,000")
    eaten_at = event.eaten_at or event.occurred_at
    return PlannedEntry(
        entry_id=derived_id(event.photo_id, "entry"),
        date=event.local_date or local_date(eaten_at, home_zone),
        eaten_at=eaten_at,
        food_name=event.name or NAMELESS,
        grams=event.grams,
        amounts=portion(amounts_per_100g(event.reading), event.grams),
    )


def local_date(moment: datetime, home_zone: str) -> date:
    """The calendar day of `moment` in the user's home zone; UTC when that zone is not known."""
    try:
        return moment.astimezone(ZoneInfo(home_zone)).date()
    except (KeyError, ValueError, OSError):
        return moment.astimezone(UTC).date()
