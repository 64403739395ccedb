"""Draws nutrition labels: the demo's photo, Triton's probe and the tests' pictures come from here.

Fonts: Pillow's bundled Aileron, so that a bare machine needs none; other fonts are passed in by path.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

PROBE_TEXT = "123"
BLACK, WHITE, GREY = (20, 20, 20), (255, 255, 255), (120, 120, 120)


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
    font_path: str | None = None
    product: str = ""


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


def render_label(label: Label = DEMO_LABEL, *, image_format: str = "JPEG") -> bytes:
    """The label as encoded picture (JPEG or PNG), black on white."""
    step = round(label.size_px * label.spacing)
    margin = label.size_px
    lines = len(label.rows) + 2 + bool(label.product)
    image = Image.new("RGB", (label.width_px, lines * step + 2 * margin), WHITE)
    draw = ImageDraw.Draw(image)
    font, bold = _font(label, label.size_px), _font(label, round(label.size_px * 1.25))
    y = margin
    for heading in filter(None, (label.product, label.title)):
        draw.text((margin, y), heading, BLACK, bold)
        y += step
    _row(draw, label, font, y, ("", *label.columns))
    for row in label.rows:
        y += step
        if label.rules:
            draw.line((margin, y - step * 0.15, label.width_px - margin, y - step * 0.15), GREY, 1)
        _row(draw, label, font, y, row)
    if label.framed:
        draw.rectangle((margin // 3, margin // 3, image.width - margin // 3, image.height - margin // 3), None, BLACK, 2)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"quality": 92} if image_format == "JPEG" else {}))
    return buffer.getvalue()


def _font(label: Label, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(label.font_path, size_px) if label.font_path else ImageFont.load_default(size_px)


def _row(
    draw: ImageDraw.ImageDraw,
    label: Label,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    y: float,
    row: Sequence[str],
) -> None:
    """Name left, one right-aligned text per column."""
    name, *values = row
    margin = label.size_px
    left = margin + (label.size_px if name.startswith(" ") else 0)
    draw.text((left, y), name.strip(), BLACK, font)
    end = left + draw.textlength(name.strip(), font)
    column_px = (label.width_px - 2 * margin) * 0.58 / len(label.columns)
    for place, value in enumerate(reversed(values)):
        right = label.width_px - margin - place * column_px
        start = right - draw.textlength(value, font)
        draw.text((start, y), value, BLACK, font)
        if label.leader and name and place == len(values) - 1:
            dots = int((start - end - label.size_px) / draw.textlength(label.leader, font))
            draw.text((end + label.size_px / 3, y), label.leader * max(dots, 0), BLACK, font)
