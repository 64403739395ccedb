"""Archives that are written as streams, and joined without unpacking, read like any other."""

import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.zipped import Member, Packer, directory, moved

AT = datetime(2026, 3, 1, 8, 30, 4, tzinfo=UTC)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\0"), min_size=1, max_size=20)
FILES = st.dictionaries(NAMES, st.lists(st.binary(max_size=200), max_size=4), max_size=5)
GIB = 2**30


def packed(files: Mapping[str, list[bytes]]) -> tuple[bytes, list[Member]]:
    packer, given = Packer(AT), b""
    for name, parts in files.items():
        given += packer.begin(name) + b"".join(map(packer.feed, parts)) + packer.end()
    assert packer.offset == len(given)
    return given, packer.members


@given(FILES, FILES)
def test_joined_streams_hold_what_each_held(one: dict[str, list[bytes]], other: dict[str, list[bytes]]) -> None:
    other = {f"other/{name}": parts for name, parts in other.items()}
    (first, of_first), (second, of_second) = packed(one), packed(other)
    both = first + second
    whole = both + directory([*of_first, *moved(of_second, len(first))], len(both))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        found = {info.filename: archive.read(info) for info in archive.infolist()}
        assert all(info.date_time == (2026, 3, 1, 8, 30, 4) for info in archive.infolist())
    assert found == {name: b"".join(parts) for name, parts in (one | other).items()}


def test_a_member_beyond_4_gib_is_found(tmp_path: Path) -> None:
    given, members = packed({"late.txt": [b"after five GiB"]})
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.seek(5 * GIB)
        file.write(given)
        file.write(directory(moved(members, 5 * GIB), 5 * GIB + len(given)))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("late.txt") == b"after five GiB"


def test_sizes_beyond_4_gib_are_told() -> None:
    huge = Member("huge", (0, 33), 0, 6 * GIB, 7 * GIB, 5 * GIB)
    with zipfile.ZipFile(io.BytesIO(directory([huge], 0))) as archive:
        (info,) = archive.infolist()
    assert (info.compress_size, info.file_size, info.header_offset) == (6 * GIB, 7 * GIB, 5 * GIB)


@pytest.mark.parametrize("count", [0xFFFE, 0xFFFF, 0x10001])
def test_more_members_than_the_old_format_counts(count: int) -> None:
    members = [Member(f"{number}", (0, 33), 0, 0, 0, 0) for number in range(count)]
    with zipfile.ZipFile(io.BytesIO(directory(members, 0))) as archive:
        assert len(archive.infolist()) == count
