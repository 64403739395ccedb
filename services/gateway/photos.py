"""What can be said of a picture by its first bytes: format, size in pixels, and whether its end is missing.

Nothing is decoded here; that happens in inference, in a process of its own.
"""

import hashlib
from dataclasses import dataclass

from shared.errors import Problem

MAX_PIXELS = 40_000_000
CONTENT_TYPES = ("image/jpeg", "image/png", "image/webp")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Pictures have some dozen segments before their size, with a large profile some hundred. 10 MiB of empty ones would
# hold up everybody for a second.
MAX_JPEG_STEPS = 4096
# Start-of-frame markers carry the size; C4, C8 and CC are tables in the same range.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Picture:
    """A picture's format and its size in pixels, as its header says."""

    content_type: str
    width: int
    height: int


def inspect(data: bytes, declared: str) -> Picture:
    """The picture in `data`, which the client calls `declared`.

    Raises:
        Problem: 415 for a format off the list, 422 for a truncated or too large picture.
    """
    content_type = _format(data)
    if content_type is None or content_type != declared:
        found = f"its bytes are {content_type}" if content_type else "its bytes are none of these"
        raise Problem(
            415,
            "unsupported-picture",
            f"Send a JPEG, PNG or WebP picture as it is, with its Content-Type. This one says {declared}; {found}.",
        )
    size = {"image/png": _png, "image/jpeg": _jpeg, "image/webp": _webp}[content_type](data)
    if size is None or 0 in size:
        raise Problem(422, "truncated-picture", "The picture is cut off or damaged. Send the whole file again.")
    width, height = size
    if width * height > MAX_PIXELS:
        raise Problem(
            422,
            "picture-too-large",
            f"The picture has {width} x {height} pixels; send at most {MAX_PIXELS // 10**6} MP.",
        )
    return Picture(content_type, width, height)


def digest(data: bytes) -> str:
    """SHA-256 in hex, part of the object's key."""
    return hashlib.sha256(data).hexdigest()


def _format(data: bytes) -> str | None:
    if data.startswith(PNG_MAGIC):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    if len(data) < 33 or data[12:16] != b"IHDR" or b"IEND" not in data[-64:]:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    if data.rfind(b"\xff\xd9") < 0:
        return None
    at = 2
    for _ in range(MAX_JPEG_STEPS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or marker == 0xDA:
            return None
        at += 2 + length
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None
