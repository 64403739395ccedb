"""What users are given of nutrition's documents when they ask for everything."""

from typing import Any

from services.nutrition.store import ENTRIES, FOODS, HOMES, Entry, Food
from shared.events.nutrition import DiaryEntry, Nutrients
from shared.export import OWN_PARTS
from shared.exported import Contents, File, NotExported, rows


def _food(food: Food) -> dict[str, Any]:
    return {
        "food_id": food.id,
        "name": food.name,
        "gtin": food.gtin,
        "per_100g": Nutrients(**dict(food.per_100g.items())).model_dump(mode="json"),
        "provenance": food.provenance,
        "created_at": food.created_at,
        "note": food.note,
    }


def _entry(entry: Entry) -> DiaryEntry:
    return entry.view()


CONTENTS: Contents = (
    File("foods.jsonl", "Your foods, with nutrients per 100 g", (FOODS,), rows(FOODS, _food, "user")),
    File("diary.jsonl", "What you ate, with the nutrients of each entry", (ENTRIES,), rows(ENTRIES, _entry, "day")),
    NotExported(HOMES, "a copy of the home zone in profile.jsonl"),
    OWN_PARTS,
)
