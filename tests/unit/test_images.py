"""The front door: hostile and broken pictures end as a reason, clean ones as pixels only."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from services.inference import images
from services.inference.images import DETAILS, clean_picture
from shared.errors import Rejected, Unavailable


def photo(image_format: str = "JPEG", size: tuple[int, int] = (300, 200), **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims any size and whose data is a deflated desert."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


async def reason_of(encoded: bytes) -> str:
    with pytest.raises(Rejected) as refused:
        await clean_picture(encoded)
    assert refused.value.detail == DETAILS[refused.value.reason]
    return refused.value.reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
async def test_three_formats_pass(image_format: str) -> None:
    clean = Image.open(io.BytesIO(await clean_picture(photo(image_format))))
    assert (clean.format, clean.size, clean.mode) == ("JPEG", (300, 200), "RGB")


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "BMP", "PPM", "ICO"])
async def test_other_formats_are_refused(image_format: str) -> None:
    assert await reason_of(photo(image_format, (64, 64))) == "unsupported-picture"


@pytest.mark.parametrize("encoded", [b"", b"not a picture", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>"])
async def test_no_picture_is_refused(encoded: bytes) -> None:
    assert await reason_of(encoded) in {"unsupported-picture", "damaged-picture", "truncated-picture"}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
async def test_truncated_is_refused(image_format: str, share: float) -> None:
    whole = photo(image_format)
    assert await reason_of(whole[: int(len(whole) * share)]) in {"truncated-picture", "damaged-picture"}


async def test_a_bomb_is_refused_by_its_header() -> None:
    assert await reason_of(png_claiming(60_000, 60_000)) == "picture-too-large"


async def test_the_largest_picture_allowed_stays_within_the_limits() -> None:
    image = Image.new("RGBA", (8000, 5000), (255, 255, 255, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    assert Image.open(io.BytesIO(await clean_picture(buffer.getvalue()))).size == (2000, 1250)


async def test_a_text_chunk_bomb_does_no_harm() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 50_000_000, zip=True)
    assert await reason_of(photo("PNG", pnginfo=info)) == "damaged-picture"


async def test_too_small_is_refused() -> None:
    assert await reason_of(photo(size=(300, 8))) == "picture-too-small"


async def test_metadata_and_trailing_bytes_are_gone() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    exif.get_ifd(0x8825)[1] = "N"
    dirty = photo(exif=exif, comment=b"SECRET-COMMENT", icc_profile=b"SECRET-PROFILE") + b"PK\x03\x04SECRET-ARCHIVE"
    assert b"SECRET" in dirty
    clean = await clean_picture(dirty)
    assert b"SECRET" not in clean
    assert b"PK\x03\x04" not in clean
    opened = Image.open(io.BytesIO(clean))
    assert len(opened.getexif()) == 0
    assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


async def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert Image.open(io.BytesIO(await clean_picture(photo(exif=exif)))).size == (200, 300)


async def test_transparency_becomes_white_and_large_becomes_smaller() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (3000, 1000), (0, 0, 0, 0)).save(buffer, "PNG")
    clean = Image.open(io.BytesIO(await clean_picture(buffer.getvalue())))
    assert clean.size == (2000, 667)
    assert clean.getpixel((5, 5)) == (255, 255, 255)


async def test_a_child_that_is_told_to_end_makes_the_picture_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    door = tmp_path / "door.py"
    door.write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    monkeypatch.setattr(images, "FRONT_DOOR", door)
    with pytest.raises(Unavailable):
        await clean_picture(photo())


async def test_a_child_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WALL_S", 0.001)
    assert await reason_of(photo()) == "picture-too-demanding"
