"""ZIP archives written and joined as streams (APPNOTE 6.3: data descriptors, ZIP64): a member is never held whole.

The standard library's writer wants a file to write to and cannot take over members that were packed elsewhere.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

_VERSION = 45  # ZIP64
# Sizes follow the data; names are UTF-8.
_FLAGS = 0x0808
_DEFLATED = 8
_UNIX_FILE = (3 << 8 | _VERSION, 0o100600 << 16)
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_64 = struct.Struct("<2H2Q")
_DESCRIPTOR = struct.Struct("<4sL2Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A member as the directory lists it: sizes and `offset`, where it begins in its stream, in bytes."""

    name: str
    at: tuple[int, int]
    crc: int
    packed: int
    size: int
    offset: int


class Packer:
    """Turns data into the bytes of members, one after the other: `begin`, `feed` some times, `end`."""

    def __init__(self, at: datetime) -> None:
        """`at`: the time that members bear; to two seconds, as the format has it."""
        self._at = (at.hour << 11 | at.minute << 5 | at.second // 2, at.year - 1980 << 9 | at.month << 5 | at.day)
        self._offset = self._begun_at = self._size = self._packed = self._crc = 0
        self._name = ""
        self._deflater = zlib.compressobj()
        self.members: list[Member] = []

    @property
    def offset(self) -> int:
        """How many bytes were given out."""
        return self._offset

    def begin(self, name: str) -> bytes:
        """Begin a member."""
        self._name, self._begun_at = name, self._offset
        self._size = self._packed = self._crc = 0
        self._deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        text = name.encode()
        numbers = (_VERSION, _FLAGS, _DEFLATED, *self._at, 0, _LARGE, _LARGE, len(text), _LOCAL_64.size)
        return self._given(_LOCAL.pack(b"PK\3\4", *numbers) + text + _LOCAL_64.pack(1, 16, 0, 0))

    def feed(self, data: bytes) -> bytes:
        """More of the member's data."""
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)
        return self._taken(self._deflater.compress(data))

    def end(self) -> bytes:
        """End the member."""
        rest = self._taken(self._deflater.flush())
        sizes = (self._crc, self._packed, self._size)
        self.members.append(Member(self._name, self._at, *sizes, self._begun_at))
        return rest + self._given(_DESCRIPTOR.pack(b"PK\7\10", *sizes))

    def _taken(self, packed: bytes) -> bytes:
        self._packed += len(packed)
        return self._given(packed)

    def _given(self, data: bytes) -> bytes:
        self._offset += len(data)
        return data


def moved(members: Iterable[Member], by: int) -> list[Member]:
    """The members of a stream that begins so many bytes later."""
    return [msgspec.structs.replace(one, offset=one.offset + by) for one in members]


def directory(members: Sequence[Member], start: int) -> bytes:
    """What stands behind all members, which take `start` bytes; it makes them an archive."""
    entries = b"".join(map(_entry, members))
    count, size = len(members), len(entries)
    large = b""
    if count >= _MANY or size >= _LARGE or start >= _LARGE:
        rest = _END_64.size - 12
        large = _END_64.pack(b"PK\6\6", rest, _UNIX_FILE[0], _VERSION, 0, 0, count, count, size, start)
        large += _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    short = min(count, _MANY)
    end = _END.pack(b"PK\5\6", 0, 0, short, short, min(size, _LARGE), min(start, _LARGE), 0)
    return entries + large + end


def _entry(member: Member) -> bytes:
    numbers = (member.size, member.packed, member.offset)
    large = [one for one in numbers if one >= _LARGE]
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    size, packed, offset = (min(one, _LARGE) for one in numbers)
    name = member.name.encode()
    made_by, attributes = _UNIX_FILE
    head = (made_by, _VERSION, _FLAGS, _DEFLATED, *member.at, member.crc, packed, size)
    return _CENTRAL.pack(b"PK\1\2", *head, len(name), len(extra), 0, 0, 0, attributes, offset) + name + extra
