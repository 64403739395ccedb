"""What nutrition keeps: foods, diary entries with their events inside, and where users live."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from services.nutrition.foods import Amounts, Provenance
from shared.documents import Collection, Document, Documents, Duplicate, Index
from shared.erased import Declared, Personal
from shared.erasure import TOMBSTONES
from shared.events.nutrition import DiaryEntry, Nutrients
from shared.export import PARTS, PERSONAL_PARTS
from shared.outbox import OUTBOX_INDEX, Outboxed

DEFAULT_ZONE = "UTC"


class Food(Document, frozen=True, kw_only=True):
    """A user's food per 100 g. `note` says why a photo meant for the diary made a food only."""

    user_id: str
    name: str
    gtin: str | None
    per_100g: Amounts
    provenance: Provenance
    created_at: datetime
    note: str | None = None


class Entry(Outboxed, frozen=True, kw_only=True):
    """A diary entry; its amounts never change when the food does."""

    user_id: str
    revision: int
    date: date
    eaten_at: datetime
    food_id: str
    food_name: str
    grams: Decimal
    amounts: Amounts

    def view(self) -> DiaryEntry:
        """The entry as others see it."""
        return DiaryEntry(
            entry_id=self.id,
            revision=self.revision,
            date=self.date,
            eaten_at=self.eaten_at,
            food_id=self.food_id,
            food_name=self.food_name,
            grams=self.grams,
            nutrients=Nutrients(**dict(self.amounts.items())),
        )


class Home(Document, frozen=True, kw_only=True):
    """Where a user lives, from the newest revision seen of the user."""

    revision: int
    zone: str


OF_USER = Index("user", ("user_id",))
FOODS: Collection[Food] = Collection("foods", Food, (OF_USER,))
ENTRIES: Collection[Entry] = Collection("entries", Entry, (Index("day", ("user_id", "date", "eaten_at")), OUTBOX_INDEX))
HOMES: Collection[Home] = Collection("homes", Home)
PERSONAL: tuple[Declared, ...] = (
    Personal(FOODS, ("user",)),
    Personal(ENTRIES, ("day",)),
    Personal(HOMES),
    PERSONAL_PARTS,
)
COLLECTIONS: tuple[Collection[Any], ...] = (FOODS, ENTRIES, HOMES, PARTS, TOMBSTONES)


class Store:
    """The queries and writes of this service; each raises Unavailable("database")."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def home_zone(self, user_id: str) -> str:
        """The user's home zone; UTC until something is known."""
        home = await self._documents.get(HOMES, user_id)
        return home.zone if home is not None else DEFAULT_ZONE

    async def keep_home(self, user_id: str, revision: int, zone: str) -> None:
        """Keep the user's home zone unless a newer revision is known."""
        known = await self._documents.get(HOMES, user_id)
        if known is None:
            await self._documents.put(HOMES, Home(id=user_id, revision=revision, zone=zone))
        elif known.revision < revision:
            await self._documents.put(HOMES, msgspec.structs.replace(known, revision=revision, zone=zone))

    async def add_food(self, food: Food) -> None:
        """Store the food; a repeat changes nothing."""
        try:
            await self._documents.insert(FOODS, food)
        except Duplicate:
            return

    async def food(self, food_id: str) -> Food | None:
        """The food of that id."""
        return await self._documents.get(FOODS, food_id)

    async def add_entry(self, entry: Entry) -> None:
        """Store the entry with its event inside; a repeat changes nothing."""
        try:
            await self._documents.insert(ENTRIES, entry)
        except Duplicate:
            return

    async def entries_of_day(self, user_id: str, day: date) -> list[Entry]:
        """The day's entries in the order they were eaten."""
        entries: list[Entry] = []
        cursor: str | None = None
        while True:
            page = await self._documents.find(ENTRIES, "day", (user_id, day), limit=200, cursor=cursor)
            entries += page.documents
            cursor = page.cursor
            if cursor is None:
                return entries
