"""Draws nutrition labels: the demo's photo, Triton's probe and the tests' pictures come from here.

Fonts: the two that Pillow carries, so that a bare machine needs none, with weight, width and slant varied.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

PROBE_TEXT = "123"
BLACK, WHITE, GREY = (20, 20, 20), (255, 255, 255), (120, 120, 120)


ROW_NAMES = {
    "fat_g": "Fat",
    "carbohydrate_g": "Carbohydrate",
    "sugar_g": " of which sugars",
    "protein_g": "Protein",
    "salt_g": "Salt",
}


@cache
def render_probe(height_px: int) -> bytes:
    """A PNG of one short line whose text is `PROBE_TEXT`."""
    image = Image.new("RGB", (height_px * 3, height_px), WHITE)
    font = ImageFont.load_default(height_px * 0.7)
    ImageDraw.Draw(image).text((height_px * 0.4, height_px * 0.08), PROBE_TEXT, BLACK, font)
    return _png(image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Label:
    """A label to draw. A row is its name and one text per column; names starting with a space are indented.

    `size_px` is the text's height, `leader` fills the gap between name and number, `rules` draws lines between rows.
    `weight_px` thickens the strokes, `width` and `slant` stretch and lean the letters, `pixel_font` takes Pillow's
    bitmap font instead of Aileron.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    size_px: int = 26
    width_px: int = 640
    spacing: float = 1.6
    leader: str = ""
    rules: bool = True
    framed: bool = True
    product: str = ""
    weight_px: float = 0
    width: float = 1.0
    slant: float = 0.0
    pixel_font: bool = False


# What the demo photographs; per 100 g.
DEMO_LABEL = Label(
    product="Crunchy Oat Muesli",
    title="Nutrition information",
    columns=("per 100 g",),
    rows=(
        ("Energy", "1565 kJ / 372 kcal"),
        ("Fat", "6.8 g"),
        (" of which saturates", "1.2 g"),
        ("Carbohydrate", "61 g"),
        (" of which sugars", "14.5 g"),
        ("Fibre", "8.4 g"),
        ("Protein", "11.2 g"),
        ("Salt", "0.13 g"),
    ),
)


def label_of(values: Mapping[str, str], product: str = "Crunchy Oat Muesli") -> Label:
    """A plain label with these amounts per 100 g, named as in the API: energy_kcal, fat_g, carbohydrate_g, …"""
    rows = [(name, f"{values[field]} g") for field, name in ROW_NAMES.items() if field in values]
    if "energy_kcal" in values:
        energy_kj = round(float(values["energy_kcal"]) * 4.184)
        rows.insert(0, ("Energy", f"{energy_kj} kJ / {values['energy_kcal']} kcal"))
    return Label(product=product, title="Nutrition information", columns=("per 100 g",), rows=tuple(rows))


def render_label(label: Label | Mapping[str, str] = DEMO_LABEL, *, image_format: str = "PNG") -> bytes:
    """The label as encoded picture (PNG or JPEG), black on white; amounts alone get a plain label."""
    if not isinstance(label, Label):
        label = label_of(label)
    step = round(label.size_px * label.spacing)
    margin = label.size_px
    lines = len(label.rows) + 2 + bool(label.product)
    image = Image.new("RGB", (label.width_px, lines * step + 2 * margin), WHITE)
    draw = ImageDraw.Draw(image)
    y = margin
    for heading in filter(None, (label.product, label.title)):
        _place(image, _word(heading, label, round(label.size_px * 1.25)), margin, y)
        y += step
    _row(image, label, y, ("", *label.columns))
    for row in label.rows:
        y += step
        if label.rules:
            draw.line((margin, y - step * 0.15, label.width_px - margin, y - step * 0.15), GREY, 1)
        _row(image, label, y, row)
    if label.framed:
        inset = margin // 3
        draw.rectangle((inset, inset, image.width - inset, image.height - inset), None, BLACK, 2)
    if image_format == "PNG":
        return _png(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=92)
    return buffer.getvalue()


def _row(image: Image.Image, label: Label, y: int, row: Sequence[str]) -> None:
    """Name left, one right-aligned text per column."""
    name, *values = row
    margin = label.size_px
    left = margin + (label.size_px if name.startswith(" ") else 0)
    end = left + _place(image, _word(name.strip(), label, label.size_px), left, y)
    column_px = (label.width_px - 2 * margin) * 0.58 / len(label.columns)
    for place, value in enumerate(reversed(values)):
        word = _word(value, label, label.size_px)
        start = round(label.width_px - margin - place * column_px - word.width)
        _place(image, word, start, y)
        if label.leader and name and place == len(values) - 1:
            one = _word(label.leader * 10, label, label.size_px).width / 10
            count = int((start - end - label.size_px) / one)
            _place(image, _word(label.leader * max(count, 0), label, label.size_px), end + label.size_px // 3, y)


def _place(image: Image.Image, word: Image.Image, x: int, y: int) -> int:
    image.paste(BLACK, (x, y), word)
    return word.width


def _word(text: str, label: Label, size_px: int) -> Image.Image:
    """One text as a mask, its letters shaped as the label wants them."""
    if not text:
        return Image.new("L", (1, 1))
    font = ImageFont.load_default_imagefont() if label.pixel_font else ImageFont.load_default(size_px)
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    height = 11 if label.pixel_font else round(size_px * 1.35)
    lean = round(height * label.slant)
    mask = Image.new("L", (round(probe.textlength(text, font)) + lean + 2, height))
    ImageDraw.Draw(mask).text((1, 0), text, 255, font, stroke_width=0 if label.pixel_font else label.weight_px)
    if label.pixel_font:
        factor = size_px / 10
        mask = mask.resize((round(mask.width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    if label.slant:
        shear = (1, label.slant, -lean, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
    return mask.resize((max(1, round(mask.width * label.width)), mask.height), Image.Resampling.BICUBIC)
