from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.nutrition.diary import local_date, plan_entry
from services.nutrition.foods import (
    NUTRIENTS,
    Amounts,
    amounts_per_100g,
    food_id,
    note_of,
    portion,
    provenance_of,
    total,
    unknown,
)
from shared.errors import Rejected
from shared.events.inference import LabelReading, NutrientReading, PhotoRead, ReadingMode

AT = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
amounts = st.builds(
    Amounts,
    **{name: st.none() | st.decimals(0, 900, places=1, allow_nan=False) for name in NUTRIENTS},
)


def photo_read(energy: str | None = "372", grams: str | None = "40", **changed: object) -> PhotoRead:
    field = None if energy is None else NutrientReading(amount=Decimal(energy), confidence=0.9)
    salt = NutrientReading(amount=Decimal("0.02"), confidence=0.5)
    values: dict[str, object] = {
        "event_id": "e",
        "occurred_at": AT,
        "user_id": "u",
        "photo_id": "p",
        "reading": LabelReading(energy_kcal=field, salt_g=salt),
        "mode": ReadingMode(model="label_ocr", weights_sha256="0" * 64, fallback=False),
        "grams": None if grams is None else Decimal(grams),
    }
    return PhotoRead.model_validate(values | changed)


def test_numbers_are_frozen_per_portion():
    plan = plan_entry(photo_read(), "UTC")
    assert plan is not None
    assert plan.amounts.energy_kcal == Decimal("148.8")
    assert plan.amounts.salt_g == Decimal("0.01")
    assert plan.amounts.protein_g is None
    assert plan.food_name == "Label photo"


def test_the_same_photo_gives_the_same_ids():
    first, again = plan_entry(photo_read(), "UTC"), plan_entry(photo_read(event_id="other"), "UTC")
    assert first is not None
    assert again is not None
    assert first.entry_id == again.entry_id
    assert food_id(photo_read()) == food_id(photo_read(event_id="other"))
    assert food_id(photo_read()) != first.entry_id


def test_no_entry_without_grams_or_energy():
    assert plan_entry(photo_read(grams=None), "UTC") is None
    assert plan_entry(photo_read(energy=None), "UTC") is None
    assert note_of(photo_read(energy=None)) is not None
    assert note_of(photo_read(energy=None, grams=None)) is None
    assert note_of(photo_read()) is None


@pytest.mark.parametrize("grams", ["0", "-1", "100001"])
def test_impossible_portions_are_rejected(grams: str):
    with pytest.raises(Rejected, match="grams"):
        plan_entry(photo_read(grams=grams), "UTC")


def test_the_day_is_the_events_else_the_one_at_home():
    eaten = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
    days = [
        plan_entry(photo_read(local_date=date(2026, 2, 27), eaten_at=eaten), "Pacific/Auckland"),
        plan_entry(photo_read(eaten_at=eaten), "Pacific/Auckland"),
        plan_entry(photo_read(eaten_at=eaten), "UTC"),
        plan_entry(photo_read(), "Europe/Berlin"),
    ]
    assert [plan and plan.date for plan in days] == [
        date(2026, 2, 27),
        date(2026, 3, 2),
        date(2026, 3, 1),
        date(2026, 3, 2),
    ]


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "\0"])
def test_an_unknown_zone_counts_as_utc(zone: str):
    assert local_date(AT, zone) == date(2026, 3, 1)


def test_provenance_names_the_photo_the_model_and_each_confidence():
    provenance = provenance_of(photo_read())
    assert provenance.photo_id == "p"
    assert provenance.model == "label_ocr"
    assert provenance.confidences == {"energy_kcal": 0.9, "salt_g": 0.5}
    assert amounts_per_100g(photo_read().reading).energy_kcal == Decimal(372)


@given(amounts, st.decimals("0.1", 5000, places=1))
def test_portions_are_within_half_a_step(per_100g: Amounts, grams: Decimal):
    for (name, share), (_, amount) in zip(portion(per_100g, grams).items(), per_100g.items(), strict=True):
        assert (share is None) == (amount is None), name
        if share is not None and amount is not None:
            assert abs(share - amount * grams / 100) <= Decimal("0.05")


@given(st.lists(amounts, max_size=6))
def test_totals_are_the_exact_sums_of_what_is_known(parts: list[Amounts]):
    sums = total(parts)
    for name in NUTRIENTS:
        known = [amount for part in parts if (amount := getattr(part, name)) is not None]
        assert getattr(sums, name) == (sum(known, Decimal(0)) if known or not parts else None)
        assert (name in unknown(parts)) == (len(known) < len(parts))
