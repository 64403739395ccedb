"""What a nutrition label says per 100 g, out of OCR lines: pure, and honest about what it is unsure of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from services.inference.table import (
    Cell,
    Column,
    Line,
    Name,
    Printed,
    columns_of,
    rows_of,
    tokens_of,
)

FIELDS = ("energy_kcal", "protein_g", "carbohydrate_g", "sugar_g", "fat_g", "salt_g")
KJ_PER_KCAL = Decimal("4.184")
SALT_PER_SODIUM = Decimal("2.5")
HUNDRED = Decimal(100)
MIN_FIELDS = 3
MAX_NAME = 80
ENERGY_UNITS = ("kj", "kcal")
HEADLINES = (
    "nutri",
    "hrwert",
    "typical",
    "average",
    "durchschnitt",
    "values",
    "angaben",
    "facts",
    "ingredients",
    "zutaten",
)


@dataclass(frozen=True)
class Amount:
    """An amount per 100 g (kcal or grams) and how sure the reading is, 0 to 1; `at_most` for "< 0.5 g"."""

    value: Decimal
    confidence: float
    at_most: bool = False

    def doubted(self, factor: float) -> "Amount":
        """The same with less confidence."""
        return replace(self, confidence=round(self.confidence * factor, 3))


@dataclass(frozen=True)
class Reading:
    """What was read: amounts by field name (only those found), stable warning codes, the product's name if seen."""

    amounts: dict[str, Amount]
    warnings: tuple[str, ...] = ()
    name: str | None = None


@dataclass
class Row:
    """A nutrient's name and the amounts that belong to it."""

    name: Name
    amounts: list[Printed] = field(default_factory=list[Printed])


def read_label(lines: Sequence[Line]) -> Reading | None:
    """The label's numbers, or None when fewer than three of the six fields were found: no label in the picture."""
    rows = rows_of(lines)
    columns = [column for row in rows for column in columns_of(row)]
    table = assign(rows)
    basis, warnings = choose_basis(columns)
    found: dict[str, Amount] = {}
    for row in table:
        chosen = [amount for amount in row.amounts if _nearest(columns, amount) in (basis, None)]
        if basis is not None:
            # A heading that was not read leaves its amounts to the next one: the nearest is the one below it.
            chosen.sort(key=basis.distance)
        _take(found, row.name, chosen or (row.amounts if len(columns) <= 1 else []))
    amounts, noted = per_hundred(found, basis)
    amounts, doubts = check(amounts)
    known = {name: amounts[name] for name in FIELDS if name in amounts}
    if len(known) < MIN_FIELDS:
        return None
    factor = 1.0 if basis and basis.basis == HUNDRED else 0.8
    known = {name: amount.doubted(factor) for name, amount in known.items()}
    return Reading(known, (*warnings, *noted, *doubts), product_name(rows))


def assign(rows: Iterable[Sequence[Cell]]) -> list[Row]:
    """Every amount to the name before it in its row, else to the row above: more energy, or a wrapped value."""
    table: list[Row] = []
    above: Row | None = None
    for cells in rows:
        current: Row | None = None
        for token in tokens_of(cells):
            if isinstance(token, Name):
                current = Row(token)
                table.append(current)
            elif current is not None:
                _attach(current, token)
            elif above is not None and (token.unit in ENERGY_UNITS or not above.amounts):
                _attach(above, token)
        above = current or above
    return table


def _attach(row: Row, amount: Printed) -> None:
    """Energy takes kJ and kcal, everything else masses; a bare number fits both."""
    energy = row.name.nutrient == "energy"
    if amount.unit in ("", "%") or (amount.unit in ENERGY_UNITS) == energy:
        row.amounts.append(amount)


def choose_basis(columns: Sequence[Column]) -> tuple[Column | None, list[str]]:
    """The column to read: per 100 g, else per 100 ml, else a serving of known weight; None when there is no heading."""
    hundred = [column for column in columns if column.basis == HUNDRED]
    if hundred:
        best = min(hundred, key=lambda column: column.volume)
        return best, ["per-100-ml"] if best.volume else []
    servings = [column for column in columns if column.basis is not None]
    if servings:
        return servings[0], ["scaled-from-serving"]
    return None, ["assumed-per-100-g"]


def _nearest(columns: Sequence[Column], amount: Printed) -> Column | None:
    return min(columns, key=lambda column: column.distance(amount), default=None)


def _take(found: dict[str, Amount], name: Name, amounts: Sequence[Printed]) -> None:
    """The first amount of each unit, one with a unit before a bare one; the first row of a name wins."""
    if name.nutrient in ("other", ""):
        return
    for index, amount in enumerate(sorted((a for a in amounts if a.unit != "%"), key=lambda a: not a.unit)):
        value, key = amount.value, name.nutrient
        if name.nutrient == "energy":
            hints = name.units or ("kcal",)
            key = amount.unit or hints[min(index, len(hints) - 1)]
        elif amount.unit == "mg":
            value = value / 1000
        elif amount.unit not in ("", "g"):
            continue
        found.setdefault(key, Amount(value, round(min(amount.score, name.score), 3), amount.at_most))


def per_hundred(found: dict[str, Amount], basis: Column | None) -> tuple[dict[str, Amount], list[str]]:
    """Fields named as in the API, with `kj`, `fibre_g`, `saturates_g` and `sodium_g` kept for the checks."""
    weight = basis.basis if basis and basis.basis else HUNDRED
    scaled = {name: _scaled(amount, weight) for name, amount in found.items()}
    amounts = {
        (name if name == "kj" else "energy_kcal" if name == "kcal" else f"{name}_g"): a for name, a in scaled.items()
    }
    notes: list[str] = []
    if "energy_kcal" not in amounts and "kj" in amounts:
        kj = amounts["kj"]
        amounts["energy_kcal"] = replace(kj, value=(kj.value / KJ_PER_KCAL).quantize(Decimal(1)))
        notes.append("energy-from-kj")
    if "salt_g" not in amounts and "sodium_g" in amounts:
        sodium = amounts["sodium_g"]
        amounts["salt_g"] = replace(sodium, value=(sodium.value * SALT_PER_SODIUM).quantize(Decimal("0.01")))
        notes.append("salt-from-sodium")
    notes += [f"at-most:{name}" for name in FIELDS if name in amounts and amounts[name].at_most]
    return amounts, notes


def _scaled(amount: Amount, weight: Decimal) -> Amount:
    if weight == HUNDRED:
        return amount
    return replace(amount, value=(amount.value * HUNDRED / weight).quantize(Decimal("0.01")))


def check(amounts: dict[str, Amount]) -> tuple[dict[str, Amount], list[str]]:
    """Known relations between the numbers; what breaks one loses confidence, the impossible is dropped."""
    amounts = dict(amounts)
    doubts: list[str] = []
    for name in [name for name, amount in amounts.items() if amount.value > _largest(name)]:
        del amounts[name]
        doubts.append(f"out-of-range:{name}")
    for code, involved in _broken(amounts):
        doubts.append(code)
        for name in involved & amounts.keys():
            amounts[name] = amounts[name].doubted(0.7)
    return amounts, doubts


def _largest(name: str) -> int:
    return {"energy_kcal": 905, "kj": 3800}.get(name, 100)


def _broken(amounts: dict[str, Amount]) -> Iterable[tuple[str, set[str]]]:
    """Pairs of a warning code and the fields in doubt."""
    value = {name: amount.value for name, amount in amounts.items()}
    kcal, kj = value.get("energy_kcal"), value.get("kj")
    if kcal is not None and kj is not None and abs(kj / KJ_PER_KCAL - kcal) > 3 + kcal / 25:
        yield "energy-units-disagree", {"energy_kcal"}
    for part, whole in (("sugar_g", "carbohydrate_g"), ("saturates_g", "fat_g")):
        if part in value and whole in value and value[part] > value[whole] + Decimal("0.1"):
            yield f"more-{part}-than-{whole}", {part, whole}
    salt, sodium = value.get("salt_g"), value.get("sodium_g")
    if salt is not None and sodium is not None and abs(sodium * SALT_PER_SODIUM - salt) > Decimal("0.05") + salt / 10:
        yield "salt-does-not-match-sodium", {"salt_g"}
    macros = {"fat_g", "carbohydrate_g", "protein_g"}
    if macros <= value.keys():
        if sum(value[name] for name in macros) > 105:
            yield "more-than-100-g", macros
        if kcal is not None and not _atwater(amounts, kcal):
            yield "energy-does-not-match-nutrients", {"energy_kcal", *macros}


def _atwater(amounts: dict[str, Amount], kcal: Decimal) -> bool:
    """Whether 4·carbohydrate + 4·protein + 9·fat + 2·fibre gives the energy, within 15 % or 12 kcal."""
    factors = {"carbohydrate_g": 4, "protein_g": 4, "fat_g": 9, "fibre_g": 2}
    known = [(amounts[name], factor) for name, factor in factors.items() if name in amounts]
    most = sum(amount.value * factor for amount, factor in known)
    least = sum(amount.value * factor for amount, factor in known if not amount.at_most)
    slack = max(Decimal(12), kcal * 15 / 100)
    return least - slack <= kcal <= most + slack


def product_name(rows: Sequence[Sequence[Cell]]) -> str | None:
    """The tallest line above the table that is no heading of it; None when there is none."""
    above: list[Cell] = []
    for cells in rows:
        tokens = tokens_of(cells)
        if any(isinstance(token, Name) for token in tokens) and any(isinstance(token, Printed) for token in tokens):
            break
        above += [] if columns_of(cells) else cells
    words = [
        cell
        for cell in above
        if sum(letter.isalpha() for letter in cell.text) >= 3
        and not any(word in cell.text.lower() for word in HEADLINES)
        and not tokens_of([cell])
    ]
    if not words:
        return None
    # Heights within a fifth are one font size: then the upper line wins.
    tallest = max(cell.height for cell in words)
    return next(cell.text for cell in words if cell.height >= 0.8 * tallest)[:MAX_NAME].strip()
