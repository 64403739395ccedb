"""A day's energy ledger: one line per source, nothing counted twice, totals that are the sums of the lines."""

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec

from services.insights.energy import Body, resting_energy, walking_energy

# A line is told to a tenth of a kilocalorie; totals add up what is told.
STEP_KCAL = Decimal("0.1")


class DayInput(msgspec.Struct, frozen=True):
    """What one revision of the user's day says. Rates per minute, energy in kcal; None = not measured.

    `n` counts the samples behind each number. `active_derived`: active energy is the rest of a total.
    """

    revision: int
    steps: Decimal | None = None
    energy_active: Decimal | None = None
    heart_rate_mean: Decimal | None = None
    heart_rate_low: Decimal | None = None
    n: dict[str, int] = {}
    active_derived: bool = False


class EntryInput(msgspec.Struct, frozen=True):
    """One revision of a diary entry; a deleted or moved one stays, so that older revisions are refused."""

    revision: int
    energy_kcal: Decimal | None = None
    gone: bool = False


class Line(msgspec.Struct, frozen=True):
    """One source of energy, in or out, in kcal."""

    source: str
    direction: Literal["in", "out"]
    energy_kcal: Decimal
    note: str = ""


class Balance(msgspec.Struct, frozen=True):
    """The ledger's lines and what they lack; totals follow from the lines."""

    lines: tuple[Line, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def intake_kcal(self) -> Decimal:
        """The sum of what came in."""
        return self._sum("in")

    @property
    def expenditure_kcal(self) -> Decimal:
        """The sum of what went out."""
        return self._sum("out")

    @property
    def balance_kcal(self) -> Decimal:
        """Intake less expenditure."""
        return self.intake_kcal - self.expenditure_kcal

    def _sum(self, direction: str) -> Decimal:
        return sum((line.energy_kcal for line in self.lines if line.direction == direction), Decimal("0.0"))


def balance(day: date, body: Body, measured: DayInput | None, entries: Mapping[str, EntryInput]) -> Balance:
    """The ledger of that day.

    Activity is either what devices measured or what the steps suggest, never both: measured active energy contains
    the walking. `missing` names what would make the ledger better: profile, weight, activity, intake, entry_energy.
    """
    lines: list[Line] = []
    missing: list[str] = []
    resting = resting_energy(body, day)
    if resting is not None:
        lines.append(_line("resting", "out", resting.energy_kcal, resting.note))
    missing.append("weight" if resting is not None else "profile")
    if measured is not None and measured.energy_active is not None:
        note = "devices' total energy less basal energy" if measured.active_derived else "measured by devices"
        lines.append(_line("energy_active", "out", measured.energy_active, note))
    elif measured is not None and measured.steps is not None:
        walking = walking_energy(measured.steps, body)
        lines.append(_line("steps", "out", walking.energy_kcal, walking.note))
    else:
        missing.append("activity")
    eaten = {id: entry for id, entry in sorted(entries.items()) if not entry.gone}
    for id, entry in eaten.items():
        if entry.energy_kcal is not None:
            lines.append(_line(f"entry:{id}", "in", entry.energy_kcal, "diary entry"))
    if not eaten:
        missing.append("intake")
    elif any(entry.energy_kcal is None for entry in eaten.values()):
        missing.append("entry_energy")
    return Balance(tuple(lines), tuple(missing))


def _line(source: str, direction: Literal["in", "out"], energy_kcal: Decimal, note: str) -> Line:
    return Line(source, direction, energy_kcal.quantize(STEP_KCAL, ROUND_HALF_EVEN), note)
