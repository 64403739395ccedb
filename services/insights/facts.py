"""A first insight into a day: a pack of facts, a text with slots, and the check that no other number gets in."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from services.insights.ledger import Balance, DayInput

# Facts that moved less say nothing new.
MATERIAL_SHARE = Decimal("0.1")
UNITS: dict[str, str] = {"{steps}": "steps", "/min": "beats per minute", "kcal": "kcal"}
_SLOT = re.compile(r"\{\{fact:([a-z_]+)\}\}")
_NUMERAL = re.compile(r"\d(?:[\d.,]*\d)?")

# Each sentence is used when all facts it names are there, and no sentence before it told of the same.
SENTENCES: tuple[str, ...] = (
    "You took {{fact:steps}}, and your devices measured {{fact:energy_active}} of active energy.",
    "You took {{fact:steps}}.",
    "Your devices measured {{fact:energy_active}} of active energy.",
    "Your heart averaged {{fact:heart_rate_mean}}, and {{fact:heart_rate_low}} at its calmest.",
    "You logged {{fact:intake}} of food against an estimated {{fact:expenditure}} spent.",
    "You logged {{fact:intake}} of food.",
)
TITLES: tuple[tuple[str, str], ...] = (
    ("intake", "What you ate and what you spent"),
    ("steps", "How much you moved"),
    ("energy_active", "How much you moved"),
    ("heart_rate_mean", "How your heart beat"),
)


class FactValue(msgspec.Struct, frozen=True):
    """A number a text may speak of: over `window`, from `n` samples, lines or entries."""

    id: str
    value: Decimal
    unit: str
    window: str
    n: int


class Text(msgspec.Struct, frozen=True):
    """An insight's words, slots filled."""

    title: str
    text: str


def facts_of(measured: DayInput | None, balance: Balance) -> tuple[FactValue, ...]:
    """The facts of one day, in whole units."""
    facts: list[FactValue] = []
    counts = measured.n if measured is not None else {}
    for id, unit, metric in (
        ("steps", "{steps}", "steps"),
        ("energy_active", "kcal", "energy_active"),
        ("heart_rate_mean", "/min", "heart_rate"),
        ("heart_rate_low", "/min", "heart_rate"),
    ):
        value: Decimal | None = getattr(measured, id, None)
        # No device measured a number that only follows from others, and the texts say "measured".
        derived = id == "energy_active" and measured is not None and measured.active_derived
        if value is not None and not derived:
            facts.append(FactValue(id, _whole(value), unit, "day", counts.get(metric, 0)))
    for id, direction, total in (
        ("intake", "in", balance.intake_kcal),
        ("expenditure", "out", balance.expenditure_kcal),
    ):
        lines = sum(line.direction == direction for line in balance.lines)
        if lines:
            facts.append(FactValue(id, _whole(total), "kcal", "day", lines))
    return tuple(facts)


def facts_hash(facts: Sequence[FactValue]) -> str:
    """The same for the same facts."""
    return hashlib.sha256(msgspec.json.encode(sorted(facts, key=lambda fact: fact.id))).hexdigest()


def is_news(told: Mapping[str, Decimal], facts: Sequence[FactValue]) -> bool:
    """Whether `facts` differ materially from the values told before: another set, or one moved by a tenth."""
    if {fact.id for fact in facts} != set(told):
        return bool(facts)
    return any(abs(fact.value - told[fact.id]) > MATERIAL_SHARE * abs(told[fact.id]) for fact in facts)


def written(facts: Sequence[FactValue]) -> Text | None:
    """The deterministic text about these facts; None when there is nothing to say."""
    by_id = {fact.id: fact for fact in facts}
    chosen: list[str] = []
    spoken: set[str] = set()
    for sentence in SENTENCES:
        slots = set(_SLOT.findall(sentence))
        if slots <= set(by_id) and not slots & spoken:
            chosen.append(sentence)
            spoken |= slots
    if not chosen:
        return None
    title = next(title for id, title in TITLES if id in spoken)
    return Text(title, filled(" ".join(chosen), by_id))


def filled(template: str, facts: Mapping[str, FactValue]) -> str:
    """`template` with each slot as number and unit. Raises KeyError for a slot without its fact."""
    return _SLOT.sub(lambda slot: f"{shown(facts[slot[1]])} {UNITS[facts[slot[1]].unit]}", template)


def shown(fact: FactValue) -> str:
    """The fact's number as people read it."""
    return f"{fact.value:,}"


def unfounded(text: str, facts: Sequence[FactValue]) -> list[str]:
    """The numerals of `text` that are no fact's number."""
    known = {shown(fact) for fact in facts}
    return [numeral for numeral in _NUMERAL.findall(text) if numeral not in known]


def _whole(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1), ROUND_HALF_EVEN)
