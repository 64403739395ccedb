"""Partners' keys: checksum, file, and what is stored."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.keys import key_id, read_key_file
from shared.keys import is_api_key, new_api_key


def test_a_new_key_has_form_and_checksum() -> None:
    key = new_api_key()
    assert key.startswith("mmt_")
    assert len(key) == 40
    assert is_api_key(key)
    assert key != new_api_key()


@given(st.integers(4, 39), st.sampled_from("0aZ-é"))
def test_a_mistyped_character_is_seen(place: int, typed: str) -> None:
    key = "mmt_" + "A" * 30 + _checksum_of("A" * 30)
    assert is_api_key(key)
    changed = key[:place] + typed + key[place + 1 :]
    assert changed == key or not is_api_key(changed)


def _checksum_of(body: str) -> str:
    """The CRC32 in base 62, written again from its definition."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    value = zlib.crc32(body.encode())
    return "".join(digits[value // 62**place % 62] for place in range(5, -1, -1))


@pytest.mark.parametrize("junk", ["", "mmt_", "mmt_short", "MMT_" + "A" * 36, "A" * 40, "mmt_" + "A" * 37])
def test_junk_is_no_key(junk: str) -> None:
    assert not is_api_key(junk)


def test_the_stored_id_is_a_hash() -> None:
    key = new_api_key()
    assert key_id(key) == key_id(key)
    assert len(key_id(key)) == 64
    assert key[4:] not in key_id(key)


def test_a_key_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "demo.key"
    key = new_api_key()
    file.write_text(key + "\n")
    assert read_key_file(file) == key
    file.write_text("mmt_nonsense\n")
    with pytest.raises(ValueError, match="no partner key"):
        read_key_file(file)
