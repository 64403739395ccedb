"""From OCR lines with boxes to the rows of a nutrition table: names, amounts and column headings in reading order."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line as the OCR gave it: its text, the four corners of its box in pixels, and a score from 0 to 1."""

    text: str
    box: tuple[Point, Point, Point, Point]
    score: float


@dataclass(frozen=True)
class Cell:
    """A line made upright: `x0` to `x1`, the middle `y` and the height, in pixels."""

    text: str
    x0: float
    x1: float
    y: float
    height: float
    score: float

    def part(self, start: int, end: int) -> tuple[float, float]:
        """Where the characters from `start` to `end` lie, were all equally wide."""
        width = (self.x1 - self.x0) / max(len(self.text), 1)
        return self.x0 + start * width, self.x0 + end * width


@dataclass(frozen=True)
class Name:
    """A nutrient's name; `units` are the energy units it carries, as in "Energy (kJ/kcal)"."""

    nutrient: str
    units: tuple[str, ...]
    x0: float
    score: float


@dataclass(frozen=True)
class Printed:
    """A printed amount. `unit` is "" where none is printed; `at_most` for "< 0.5"."""

    value: Decimal
    unit: str
    at_most: bool
    x0: float
    x1: float
    score: float


@dataclass(frozen=True)
class Column:
    """A heading: amounts below it are per `basis` grams (None: a serving of unknown weight) or percentages."""

    basis: Decimal | None
    percent: bool
    volume: bool
    x0: float
    x1: float

    def distance(self, amount: Printed) -> float:
        """How far an amount is from standing below: left, right or centred, whichever fits best."""
        left, right = amount.x0 - self.x0, amount.x1 - self.x1
        return min(abs(left), abs(right), abs(left + right) / 2)


Token = Name | Printed

# Small print loses the dots of its i: "Proteln", "Flbre".
NAMES = re.compile(
    r"""(?P<other>(?:mono|poly|mehrfach|einfach)\W?(?:uns?aturat|unges)\w*(?:\s+fett?\w*)?|trans\W?fett?\w*|trans\s+fat
          |added\s+sugars?|zugesetzte\w*\s+zucker|polyols?|mehrwertige\w*\s+alkohole|starch|st.{1,2}rke
          |vitamin\w*|calcium|iron|eisen|magnesium|potassium|kalium|zin[ck]|iod\w*|cholesterol|cholesterin|omega)
      |(?P<saturates>saturat\w*(?:\s+fat\w*)?|ges.{1,3}ttigt\w*(?:\s+fetts\w*)?|fetts\S{0,3}uren)
      |(?P<energy>energ(?:y|[il]e)\w*|brennwert|calories|kalorien)
      |(?P<carbohydrate>(?:total\s+)?carbohydrates?|(?:total\s+)?carbs?\b|koh[il]en\w{0,2}hydrate?)
      |(?P<sugar>sugars?|zucker)\b
      |(?P<fat>(?:total\s+)?\bfats?\b|\bfett\b)
      |(?P<fibre>(?:dietary\s+)?f[il]b(?:re|er)s?|ballast\w+)
      |(?P<protein>prote[il]ns?|e[il]we[il]\S{0,2})
      |(?P<salt>\bsa[il]t\b|\bsa[il]z\b)
      |(?P<sodium>sod[il]um|natr[il]um)""",
    re.IGNORECASE | re.VERBOSE,
)
NUMBER = r"\d{1,3}(?:[ .,]\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)?"
# A lone 9 behind a gap is a misread g: "25.2 9".
UNIT = r"kj|kcal|cal|mg|mcg|[µμu]g|g|ml|%|(?<=\s)9(?=\s|$)"
AMOUNT = re.compile(
    rf"(?P<less>[<≤])?\s*(?<![A-Za-z\d.,])(?P<number>{NUMBER})\s*(?P<unit>{UNIT})?(?![A-Za-z\d])", re.IGNORECASE
)
ENERGY_PAIR = re.compile(r"(?P<kj>\d[\d., ]*?)\s*/\s*(?P<kcal>\d[\d., ]*?)\s*(?:kj\s*/\s*kcal)?\s*$", re.IGNORECASE)
TOUCHING, OVERLAPPING = 0.1, 0.25  # in heights of the line
MAX_DIGITS = 6
TOO_MUCH = Decimal(999_999)
ENERGY_UNIT = re.compile(r"\b(kj|kcal)\b", re.IGNORECASE)
HEADING = re.compile(
    r"""(?P<basis>\b(?:per|pro|je|par)\s*(?P<number>\d{1,4})\s*(?P<unit>g|ml|9)(?:\b|(?=bar|serving|portion|riegel))
          (?:\s*(?:serving|bar|portion|riegel))?)
      |^\s*(?P<hundred>100)\s*(?P<hundred_unit>g|ml)(?:\s+(?:contains?|enthalten|enth.{0,2}lt))?\s*:?\s*$
      |(?P<serving>\b(?:per|pro|je|par)\s+(?:serving|portion|bar|riegel|st.{1,2}ck|slice|scheibe|glas|can)\b
          (?:\s*\(?(?P<weight>\d{1,3}(?:[.,]\d)?)\s*g\)?)?)
      |(?P<percent>\S?\s?\b(?:RI|NRV|RDA|GDA)\b\S*|%\s*(?:daily|DV\b))""",
    re.IGNORECASE | re.VERBOSE,
)


def rows_of(lines: Sequence[Line]) -> list[list[Cell]]:
    """The lines as rows from top to bottom, cells from left to right; a small tilt of the picture is undone."""
    cells = sorted(_upright(lines), key=lambda cell: cell.y)
    rows: list[list[Cell]] = []
    for cell in cells:
        row = rows[-1] if rows else []
        if row and abs(cell.y - sum(c.y for c in row) / len(row)) < 0.5 * min(
            cell.height, median(c.height for c in row)
        ):
            row.append(cell)
        else:
            rows.append([cell])
    return [_joined(sorted(row, key=lambda cell: cell.x0)) for row in rows]


def _joined(row: list[Cell]) -> list[Cell]:
    """Fragments whose boxes touch become one cell: "12.6" and "g", "Per" and "50 g"."""
    joined = row[:1]
    for cell in row[1:]:
        last = joined[-1]
        gap = (cell.x0 - last.x1) / max(cell.height, 1.0)
        if gap > TOUCHING:
            joined.append(cell)
            continue
        # Boxes that overlap by a letter read it twice: "15.3" and "3g".
        twice = gap < -OVERLAPPING and len(cell.text) > 1 and last.text[-1:] == cell.text[:1]
        text = f"{last.text} {cell.text[twice:]}"
        score = min(last.score, cell.score)
        joined[-1] = Cell(cleaned(text), last.x0, max(last.x1, cell.x1), last.y, last.height, score)
    return joined


def _upright(lines: Sequence[Line]) -> list[Cell]:
    # Long lines know the tilt best; three median-long ones suffice to outvote a stray box.
    by_width = sorted(lines, key=lambda line: math.dist(line.box[0], line.box[1]), reverse=True)[:9]
    tilt = median([_slope(line) for line in by_width]) if by_width else 0.0
    sine, cosine = math.sin(-tilt), math.cos(-tilt)
    cells: list[Cell] = []
    for line in lines:
        points = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in line.box]
        xs, ys = [x for x, _ in points], sorted(y for _, y in points)
        top, bottom = (ys[0] + ys[1]) / 2, (ys[2] + ys[3]) / 2
        cells.append(Cell(cleaned(line.text), min(xs), max(xs), (top + bottom) / 2, bottom - top, line.score))
    return cells


def _slope(line: Line) -> float:
    (x0, y0), (x1, y1) = line.box[0], line.box[1]
    return math.atan2(y1 - y0, x1 - x0)


def cleaned(text: str) -> str:
    """Compatibility forms folded, leaders of dots gone, and O, l, I inside numbers made digits."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[.·•…_]{2,}", " ", text)
    text = re.sub(r"\b[Oo](?=[.,]\d)|(?<=\d)[Oo](?=[\d.,]|\s*(?:g|kJ|kcal)\b)|(?<=\d[.,])[Oo]", "0", text)
    text = re.sub(r"(?<=[\d.,])[lI](?=\d|\s*(?:g|kJ|kcal)\b)", "1", text)
    return re.sub(r"(?<=\d)([.,])\s(?=\d)|(?<=\d)\s([.,])(?=\d)", lambda found: found[1] or found[2], text)


def columns_of(row: Sequence[Cell]) -> list[Column]:
    """The headings in a row."""
    columns: list[Column] = []
    for cell in row:
        for found in HEADING.finditer(cell.text):
            number = found["number"] or found["hundred"] or found["weight"]
            unit = (found["unit"] or found["hundred_unit"] or "g").lower()
            basis = Decimal(number.replace(",", ".")) if number else None
            x0, x1 = cell.part(*found.span())
            columns.append(Column(basis or None, found["percent"] is not None, unit == "ml", x0, x1))
    return columns


def tokens_of(row: Sequence[Cell]) -> list[Token]:
    """Names and amounts of a row in reading order, headings left out."""
    tokens: list[Token] = []
    for cell in row:
        text = HEADING.sub(lambda found: " " * len(found[0]), cell.text)
        tokens += sorted([*_names(cell, text), *_amounts(cell, text)], key=lambda token: token.x0)
    return tokens


def _names(cell: Cell, text: str) -> list[Name]:
    found = list(NAMES.finditer(text))
    names: list[Name] = []
    ends = [following.start() for following in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=False):
        behind = text[match.end() : end]
        hint = ["kcal"] if match[0].lower() in ("calories", "kalorien") else []
        # Only units without a number before them: "Energy kJ", not "Energy 1565 kJ".
        hint += [] if re.search(r"\d", behind) else [unit.lower() for unit in ENERGY_UNIT.findall(behind)]
        names.append(Name(match.lastgroup or "", tuple(hint), cell.part(*match.span())[0], cell.score))
    return names


def _amounts(cell: Cell, text: str) -> list[Printed]:
    pair = ENERGY_PAIR.search(text)
    if pair:
        spans = [(pair[unit], unit, pair.span(unit)) for unit in ("kj", "kcal")]
        return [Printed(number(value, unit), unit, False, *cell.part(*span), cell.score) for value, unit, span in spans]
    amounts: list[Printed] = []
    for found in AMOUNT.finditer(text):
        unit = (found["unit"] or "").lower().replace("9", "g").replace("cal", "kcal").replace("kkcal", "kcal")
        value = number(found["number"], unit)
        amounts.append(Printed(value, unit, bool(found["less"]), *cell.part(*found.span()), cell.score))
    return amounts


def number(text: str, unit: str) -> Decimal:
    """A printed number: decimal point or comma, thousands apart by point, comma or space.

    "1.565" is a thousand and more of kJ, kcal or mg, and a fraction of grams.
    """
    text = text.strip(" .,").replace(" ", "")
    if "." in text and "," in text:
        thousands = "," if text.rindex(".") > text.rindex(",") else "."
        text = text.replace(thousands, "")
    head, _, tail = text.replace(",", ".").partition(".")
    if "." in tail or (len(tail) == 3 and head != "0" and unit in ("kj", "kcal", "mg")):
        head, tail = head + tail.replace(".", ""), ""
    # Bar codes and lot numbers: whatever they mean, it is more than any label says.
    return Decimal(f"{head}.{tail[:6]}" if tail else head) if len(head) <= MAX_DIGITS else TOO_MUCH
