"""Energy from formulas, in exact decimals: resting energy, and walking where no device measured it.

Weight is not known yet. It is taken as that of a body mass index of 22, the middle of the healthy range, and every
line that rests on it says so.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

ASSUMED_BMI = Decimal(22)
ASSUMED_HEIGHT_CM = Decimal(170)
# A walking step is about 0.414 of the body's height; pedometers commonly take 0.413 for women and 0.415 for men.
STEP_PER_HEIGHT = Decimal("0.414")
# ACSM's walking equation without its resting part: 0.1 mL of oxygen per kg and metre, at 5 kcal a litre.
WALKING_KCAL_PER_KG_M = Decimal("0.0005")


@dataclass(frozen=True)
class Body:
    """What is known of a user's body."""

    sex: Literal["female", "male"] | None = None
    birth_date: date | None = None
    height_cm: Decimal | None = None


@dataclass(frozen=True)
class Estimate:
    """Kilocalories, and what they rest on in a sentence without numbers of the user."""

    energy_kcal: Decimal
    note: str


def assumed_weight_kg(height_cm: Decimal) -> Decimal:
    """The weight of that height at the assumed body mass index."""
    return ASSUMED_BMI * (height_cm / 100) ** 2


def age_on(day: date, birth_date: date) -> int:
    """Whole years on that day, never below 0."""
    had_birthday = (day.month, day.day) >= (birth_date.month, birth_date.day)
    return max(0, day.year - birth_date.year - (0 if had_birthday else 1))


def resting_energy(body: Body, day: date) -> Estimate | None:
    """A whole day at rest: Mifflin and St Jeor (1990), 10 kg + 6.25 cm - 5 years + 5 for men or - 161 for women.

    None without sex, birth date and height; never negative.
    """
    if body.sex is None or body.birth_date is None or body.height_cm is None:
        return None
    energy = (
        10 * assumed_weight_kg(body.height_cm)
        + Decimal("6.25") * body.height_cm
        - 5 * age_on(day, body.birth_date)
        + (5 if body.sex == "male" else -161)
    )
    return Estimate(
        max(Decimal(0), energy), "Mifflin-St Jeor for the whole day; weight estimated from height at BMI 22"
    )


def walking_energy(steps: Decimal, body: Body) -> Estimate:
    """What that many steps cost beyond resting."""
    height = body.height_cm if body.height_cm is not None else ASSUMED_HEIGHT_CM
    metres = steps * STEP_PER_HEIGHT * height / 100
    known = "" if body.height_cm is not None else "; height unknown, 170 cm taken"
    return Estimate(
        metres * assumed_weight_kg(height) * WALKING_KCAL_PER_KG_M,
        f"estimated from steps (ACSM walking equation); weight estimated from height at BMI 22{known}",
    )
