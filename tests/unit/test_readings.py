"""OCR lines to numbers, on recordings of what the model read and on written tables."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.readings import Reading, read_label
from services.inference.table import Line, cleaned, number
from tests.labels import LABELS, KnownLabel

RECORDED = Path(__file__).parent / "ocr"


def recorded(name: str) -> list[Line]:
    lines = json.loads((RECORDED / f"{name}.json").read_text())
    return [Line(line["text"], tuple(tuple(point) for point in line["box"]), line["score"]) for line in lines]


def written(table: str, *, tilt: float = 0.0, score: float = 0.99) -> list[Line]:
    """Lines of a table drawn with one character per 10 by 20 px; cells are apart by two spaces or more."""
    lines: list[Line] = []
    for row, text in enumerate(table.strip("\n").splitlines()):
        column = 0
        for cell in text.split("  "):
            if cell.strip():
                x0, x1 = column * 10.0, (column + len(cell)) * 10.0
                y0, y1 = row * 30.0, row * 30.0 + 20.0
                corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
                box = tuple((x - tilt * y, y + tilt * x) for x, y in corners)
                lines.append(Line(cell.strip(), box, score))
            column += len(cell) + 2
    return lines


def values(reading: Reading | None) -> dict[str, Decimal]:
    assert reading is not None
    return {name: amount.value for name, amount in reading.amounts.items()}


@pytest.mark.parametrize("known", LABELS, ids=lambda known: known.name)
def test_reads_every_field_of_the_recorded_labels(known: KnownLabel) -> None:
    reading = read_label(recorded(known.name))
    assert values(reading) == known.expected
    assert reading is not None
    assert all(amount.confidence > 0.7 for amount in reading.amounts.values())


@pytest.mark.parametrize(
    ("recording", "known"),
    [
        pytest.param("serving-first-blur1", LABELS[4], id="blurred: a heading is not read"),
        pytest.param("serving-first-persp", LABELS[4], id="from the side: fragments that touch"),
        pytest.param("two-columns-half", LABELS[1], id="half as large: an i reads as l"),
    ],
)
def test_reads_what_a_worse_picture_gave(recording: str, known: KnownLabel) -> None:
    assert values(read_label(recorded(recording))) == known.expected


def test_names_the_product() -> None:
    reading = read_label(recorded("demo"))
    assert reading is not None
    assert reading.name == "Crunchy Oat Muesli"
    assert reading.warnings == ()


PLAIN = """
                    per 100 g
Energy              1565 kJ / 372 kcal
Fat                 6.8 g
of which saturates  1.2 g
Carbohydrate        61 g
of which sugars     14.5 g
Protein             11.2 g
Salt                0.13 g
"""
TRUTH = dict(zip(("energy_kcal", "protein_g", "carbohydrate_g", "sugar_g", "fat_g", "salt_g"),
                 map(Decimal, ("372", "11.2", "61", "14.5", "6.8", "0.13")), strict=True))  # fmt: skip


def test_order_of_the_lines_does_not_matter() -> None:
    assert values(read_label(written(PLAIN)[::-1])) == TRUTH


@pytest.mark.parametrize("tilt", [-0.07, 0.05])
def test_a_tilted_picture_keeps_its_rows(tilt: float) -> None:
    assert values(read_label(written(PLAIN, tilt=tilt))) == TRUTH


def test_a_paragraph_without_a_table() -> None:
    lines = written("""
Nutrition per 100 g: Energy 1565 kJ/372 kcal, Fat 6.8 g, of which
saturates 1.2 g, Carbohydrate 61 g, of which sugars 14.5 g, Protein
11.2 g, Salt 0.13 g
""")
    assert values(read_label(lines)) == TRUTH


def test_units_in_the_names() -> None:
    reading = read_label(
        written("""
                    100 g
Energy (kJ/kcal)    1565/372
Fat (g)             6.8
Carbohydrate (g)    61
of which sugars (g)   14.5
Protein (g)         11.2
Salt (g)            0.13
""")
    )
    assert values(reading) == TRUTH


def test_only_a_serving_of_known_weight_is_scaled() -> None:
    reading = read_label(
        written("""
                per 50 g
Energy          186 kcal
Fat             3.4 g
Carbohydrate    30.5 g
Protein         5.6 g
""")
    )
    assert values(reading) == {
        "energy_kcal": 372, "fat_g": Decimal("6.8"), "carbohydrate_g": 61, "protein_g": Decimal("11.2")
    }  # fmt: skip
    assert reading is not None
    assert reading.warnings == ("scaled-from-serving",)
    assert reading.amounts["fat_g"].confidence < 0.8


def test_without_a_heading_per_100_g_is_assumed_and_said() -> None:
    reading = read_label(written(PLAIN.replace("per 100 g", "")))
    assert values(reading) == TRUTH
    assert reading is not None
    assert reading.warnings == ("assumed-per-100-g",)


def test_sodium_becomes_salt_and_kilojoules_become_kilocalories() -> None:
    reading = read_label(
        written("""
            per 100 g
Brennwert   1.557 kJ
Fett        6,8 g
Eiweiß      11,2 g
Natrium     52 mg
""")
    )
    assert values(reading)["energy_kcal"] == 372
    assert values(reading)["salt_g"] == Decimal("0.13")
    assert reading is not None
    assert reading.warnings == ("energy-from-kj", "salt-from-sodium")


@pytest.mark.parametrize(
    ("printed", "misread", "warning"),
    [
        ("372 kcal", "872 kcal", "energy-units-disagree"),
        ("14.5 g", "74.5 g", "more-sugar_g-than-carbohydrate_g"),
        ("61 g", "91 g", "more-than-100-g"),
        ("61 g", "6.1 g", "energy-does-not-match-nutrients"),
        ("1.2 g", "12.2 g", "more-saturates_g-than-fat_g"),
        ("11.2 g", "112 g", "out-of-range:protein_g"),
    ],
)
def test_a_misread_digit_is_noticed(printed: str, misread: str, warning: str) -> None:
    reading = read_label(written(PLAIN.replace(printed, misread)))
    assert reading is not None
    assert warning in reading.warnings


def test_less_than_is_the_printed_bound_and_said() -> None:
    reading = read_label(written(PLAIN.replace("0.13 g", "< 0.01 g")))
    assert values(reading)["salt_g"] == Decimal("0.01")
    assert reading is not None
    assert reading.warnings == ("at-most:salt_g",)


@pytest.mark.parametrize(
    "lines", [[], written("Best before  12.05.2027\nKeep cool and dry at 7 g"), written("Energy drink")]
)
def test_no_label(lines: list[Line]) -> None:
    assert read_label(lines) is None


NOISE = st.text("0123456789.,/ <>%gkKJcalmuµO\u0660²½:", max_size=14)
WORDS = st.sampled_from(
    ["Energy", "kJ", "kcal", "Fat", "davon Zucker", "Salz", "per 100 g", "per 0 g", "pro Portion (30 g)"]
)


@given(
    st.lists(st.tuples(st.one_of(NOISE, WORDS, st.builds("{} {}".format, WORDS, NOISE)), *[st.integers(0, 900)] * 4))
)
def test_no_text_breaks_it(cells: list[tuple[str, int, int, int, int]]) -> None:
    lines = [Line(text, ((x, y), (x + w, y), (x + w, y + h), (x, y + h)), 0.9) for text, x, y, w, h in cells]
    reading = read_label(lines)
    for amount in reading.amounts.values() if reading else ():
        assert 0 <= amount.value <= 905
        assert 0 <= amount.confidence <= 1


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("1.565", "kj", "1565"), ("1,565", "kj", "1565"), ("1 565", "kj", "1565"), ("1.565,5", "kj", "1565.5"),
        ("0.125", "g", "0.125"), ("1.250", "g", "1.250"), ("6,8", "g", "6.8"), ("0,500", "mg", "0.500"),
        ("61", "g", "61"),
    ],
)  # fmt: skip
def test_numbers(text: str, unit: str, expected: str) -> None:
    assert number(text, unit) == Decimal(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O.5 g", "0.5 g"),
        ("1O g", "10 g"),
        ("1l g", "11 g"),
        ("Fat......3 g", "Fat 3 g"),
        ("6. 8 g", "6.8 g"),
        ("Oil", "Oil"),
    ],
)
def test_repairs_of_letters_in_numbers(text: str, expected: str) -> None:
    assert cleaned(text) == expected
