"""What a photo of a label says about a food: amounts per 100 g and where they come from."""

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from shared.events.inference import LabelReading, NutrientReading, PhotoRead
from shared.ids import derived_id

NAMELESS = "Label photo"
ENERGY_STEP = Decimal("0.1")  # kcal
# Grams: a portion often holds less than 0.1 g of salt.
MASS_STEP = Decimal("0.01")
WITHOUT_ENERGY = "the label's energy could not be read, so no diary entry was made"
NUTRIENTS = ("energy_kcal", "protein_g", "carbohydrate_g", "sugar_g", "fat_g", "salt_g")


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """Energy in kcal, the rest in grams; None means unknown, never zero."""

    energy_kcal: Decimal | None = None
    protein_g: Decimal | None = None
    carbohydrate_g: Decimal | None = None
    sugar_g: Decimal | None = None
    fat_g: Decimal | None = None
    salt_g: Decimal | None = None

    def items(self) -> list[tuple[str, Decimal | None]]:
        """Each nutrient's name with its amount."""
        return [(name, getattr(self, name)) for name in NUTRIENTS]


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a food's numbers come from: the picture, who read it, and how sure each field is, 0 to 1."""

    photo_id: str
    model: str
    weights_sha256: str
    fallback: bool
    confidences: dict[str, float]
    warnings: tuple[str, ...] = ()


def food_id(event: PhotoRead) -> str:
    """The id of the food that this photo makes, the same on every repeat."""
    return derived_id(event.photo_id, "food")


def amounts_per_100g(reading: LabelReading) -> Amounts:
    """The label's numbers as read."""
    return Amounts(**{name: None if field is None else field.amount for name, field in _fields(reading)})


def provenance_of(event: PhotoRead) -> Provenance:
    """Where the numbers of this photo's food come from."""
    return Provenance(
        photo_id=event.photo_id,
        model=event.mode.model,
        weights_sha256=event.mode.weights_sha256,
        fallback=event.mode.fallback,
        confidences={name: field.confidence for name, field in _fields(event.reading) if field is not None},
        warnings=event.warnings,
    )


def note_of(event: PhotoRead) -> str | None:
    """Why a photo that was meant for the diary makes a food only."""
    return WITHOUT_ENERGY if event.grams is not None and event.reading.energy_kcal is None else None


def portion(per_100g: Amounts, grams: Decimal) -> Amounts:
    """What `grams` of the food hold: energy rounded to 0.1 kcal, the rest to 0.01 g."""
    return Amounts(
        **{
            name: _share(amount, grams, ENERGY_STEP if name == "energy_kcal" else MASS_STEP)
            for name, amount in per_100g.items()
        }
    )


def total(parts: Iterable[Amounts]) -> Amounts:
    """The exact sums of what is known; None where no part knows the nutrient, 0 where there are no parts."""
    known = list(parts)
    sums: dict[str, Decimal] = {} if known else dict.fromkeys(NUTRIENTS, Decimal(0))
    for part in known:
        for name, amount in part.items():
            if amount is not None:
                sums[name] = sums.get(name, Decimal(0)) + amount
    return Amounts(**sums)


def unknown(parts: Iterable[Amounts]) -> tuple[str, ...]:
    """The nutrients that at least one part does not know, so their total is a lower bound."""
    missing = {name for part in parts for name, amount in part.items() if amount is None}
    return tuple(name for name in NUTRIENTS if name in missing)


def _fields(reading: LabelReading) -> list[tuple[str, NutrientReading | None]]:
    return [(name, getattr(reading, name)) for name in NUTRIENTS]


def _share(amount: Decimal | None, grams: Decimal, step: Decimal) -> Decimal | None:
    if amount is None:
        return None
    return (amount * grams / 100).quantize(step, rounding=ROUND_HALF_EVEN)
