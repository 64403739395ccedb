"""What the gateway refuses of a picture before anybody decodes it."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.gateway.entry import patience_s
from services.gateway.photos import CONTENT_TYPES, inspect
from services.gateway.routes import PHOTOS
from shared.errors import Problem


def picture(kind: str, size: tuple[int, int] = (37, 21), **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    "image/jpeg": picture("JPEG"),
    "image/png": picture("PNG"),
    "image/webp": picture("WEBP"),
}


def refusal(data: bytes, declared: str) -> Problem:
    with pytest.raises(Problem) as refused:
        inspect(data, declared)
    return refused.value


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_the_size_is_read_from_the_head(content_type: str) -> None:
    found = inspect(PICTURES[content_type], content_type)
    assert (found.content_type, found.width, found.height) == (content_type, 37, 21)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (picture("JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff" * 500), "image/jpeg"),
        (picture("WEBP", lossless=True), "image/webp"),
        (picture("WEBP", exif=b"Exif\0\0II*\0" + b"\0" * 40), "image/webp"),
        (picture("PNG") + b"trailing", "image/png"),
        (picture("JPEG") + b"trailing", "image/jpeg"),
    ],
)
def test_unusual_but_whole_pictures_pass(data: bytes, content_type: str) -> None:
    assert (inspect(data, content_type).width, inspect(data, content_type).height) == (37, 21)


def test_a_picture_of_nothing_but_segments_is_not_looked_through() -> None:
    head, rest = PICTURES["image/jpeg"][:2], PICTURES["image/jpeg"][2:]
    for empty in (b"\xff", b"\xff\xe1\x00\x02"):
        assert inspect(head + empty * 500 + rest, "image/jpeg").width == 37
        assert refusal(head + empty * 5000 + rest, "image/jpeg").code == "truncated-picture"


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_truncated_picture_is_422(content_type: str) -> None:
    whole = PICTURES[content_type]
    for length in (len(whole) // 2, len(whole) - 12, 14):
        problem = refusal(whole[:length], content_type)
        assert (problem.status, problem.code) == (422, "truncated-picture")


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (picture("GIF"), "image/gif"),
        (picture("BMP"), "image/png"),
        (picture("TIFF"), "image/jpeg"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png"),
        (b"%PDF-1.7", "image/jpeg"),
        (b"", "image/jpeg"),
        (PICTURES["image/png"], "image/jpeg"),
    ],
)
def test_what_is_off_the_list_is_415(data: bytes, declared: str) -> None:
    problem = refusal(data, declared)
    assert (problem.status, problem.code) == (415, "unsupported-picture")


def test_the_largest_picture_may_come_over_a_bad_mobile_uplink() -> None:
    assert patience_s(PHOTOS.max_body) * 250_000 / 8 > PHOTOS.max_body


def test_a_pixel_bomb_is_refused_by_its_head() -> None:
    bomb = bytearray(PICTURES["image/png"])
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    assert refusal(bytes(bomb), "image/png").code == "picture-too-large"
    bomb[16:24] = bytes(8)
    assert refusal(bytes(bomb), "image/png").code == "truncated-picture"


@given(st.sampled_from(CONTENT_TYPES), st.binary(max_size=64), st.integers(0, 200), st.integers(0, 300))
def test_damage_never_raises_anything_but_a_problem(kind: str, noise: bytes, place: int, length: int) -> None:
    whole = PICTURES[kind]
    data = (whole[:place] + noise + whole[place + len(noise) :])[: length + 12]
    try:
        inspect(data, kind)
    except Problem as problem:
        assert problem.status in (415, 422)  # noqa: PT017 (what is not damaged enough passes)
