"""Five clean labels that differ in layout, wording and font, with what is printed on them per 100 g."""

from dataclasses import dataclass
from decimal import Decimal

from infra.local.labels import DEMO_LABEL, Label

FIELDS = ("energy_kcal", "protein_g", "carbohydrate_g", "sugar_g", "fat_g", "salt_g")


@dataclass(frozen=True)
class KnownLabel:
    """A label and the truth, in the order of `FIELDS`."""

    name: str
    label: Label
    truth: tuple[str, ...]

    @property
    def expected(self) -> dict[str, Decimal]:
        return dict(zip(FIELDS, map(Decimal, self.truth), strict=True))


LABELS = (
    KnownLabel("demo", DEMO_LABEL, ("372", "11.2", "61", "14.5", "6.8", "0.13")),
    KnownLabel(
        "two-columns",
        Label(
            title="Nutrition Facts",
            columns=("per 100 g", "per 30 g serving"),
            rows=(
                ("Energy", "1890 kJ", "567 kJ"),
                ("", "451 kcal", "135 kcal"),
                ("Fat", "18.4 g", "5.5 g"),
                (" of which saturates", "8.1 g", "2.4 g"),
                ("Carbohydrate", "63.5 g", "19.1 g"),
                (" of which sugars", "28.0 g", "8.4 g"),
                ("Fibre", "3.1 g", "0.9 g"),
                ("Protein", "6.7 g", "2.0 g"),
                ("Salt", "0.85 g", "0.26 g"),
            ),
            size_px=30,
            width_px=960,
            weight_px=0.6,
        ),
        ("451", "6.7", "63.5", "28.0", "18.4", "0.85"),
    ),
    KnownLabel(
        "german",
        Label(
            product="Bergkäse 45 % Fett i. Tr.",
            title="Durchschnittliche Nährwerte",
            columns=("pro 100 g",),
            rows=(
                ("Brennwert", "1.665 kJ / 402 kcal"),
                ("Fett", "33,0 g"),
                (" davon gesättigte Fettsäuren", "21,4 g"),
                ("Kohlenhydrate", "< 0,5 g"),
                (" davon Zucker", "< 0,1 g"),
                ("Eiweiß", "26,5 g"),
                ("Salz", "1,75 g"),
            ),
            size_px=28,
            width_px=760,
            rules=False,
            width=0.85,
        ),
        ("402", "26.5", "0.5", "0.1", "33.0", "1.75"),
    ),
    KnownLabel(
        "leaders",
        Label(
            product="Tomato Soup",
            title="TYPICAL VALUES",
            columns=("Per 100g",),
            rows=(
                ("Energy", "243kJ/58kcal"),
                ("Protein", "1.3g"),
                ("Carbohydrate", "7.9g"),
                ("of which sugars", "5.2g"),
                ("Fat", "2.1g"),
                ("of which saturates", "0.3g"),
                ("Fibre", "0.8g"),
                ("Sodium", "240mg"),
            ),
            size_px=32,
            width_px=720,
            spacing=1.9,
            leader=".",
            rules=False,
            framed=False,
            slant=0.2,
        ),
        ("58", "1.3", "7.9", "5.2", "2.1", "0.60"),
    ),
    KnownLabel(
        "serving-first",
        Label(
            title="Nutrition",
            columns=("Per 50g bar", "Per 100g", "%RI*"),
            rows=(
                ("Energy kJ", "1045 kJ", "2090 kJ", "12%"),
                ("Energy kcal", "250 kcal", "500 kcal", "12%"),
                ("Fat", "12.6 g", "25.2 g", "18%"),
                ("Saturates", "4.2 g", "8.4 g", "21%"),
                ("Carbohydrate", "24.5 g", "49.0 g", "9%"),
                ("Sugars", "15.3 g", "30.6 g", "17%"),
                ("Protein", "8.2 g", "16.4 g", "16%"),
                ("Salt", "0.31 g", "0.62 g", "5%"),
            ),
            size_px=30,
            width_px=1000,
            pixel_font=True,
        ),
        ("500", "16.4", "49.0", "30.6", "25.2", "0.62"),
    ),
)
