"""Keys: signing keys and their sets, the files of a fresh system, and partners' keys."""

import json
import stat
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from services.auth.keys import key_id, read_key_file
from shared.keys import generate_key_files, is_api_key, load_jwks, load_private_jwk, new_api_key, public_jwks

KEY = OKPKey.generate_key("Ed25519", auto_kid=True)


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


@pytest.mark.parametrize(
    "junk", ["", "mmt_", "mmt_short", "MMT_" + "A" * 36, "A" * 40, "mmt_" + "A" * 37, "mmt_" + "é" * 36]
)
def test_junk_is_no_key(junk: str) -> None:
    assert not is_api_key(junk)


def test_what_is_stored_of_a_key_is_its_sha256() -> None:
    # The known answer of FIPS 180-4; whoever holds a key stays known by it.
    assert key_id("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_key_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "demo.key"
    key = new_api_key()
    file.write_text(key + "\n")
    assert read_key_file(file) == key
    file.write_text("mmt_nonsense\n")
    with pytest.raises(ValueError, match="no partner key"):
        read_key_file(file)


def test_a_set_gives_public_halves_and_takes_only_our_kind() -> None:
    document = public_jwks([KEY])
    assert "d" not in document["keys"][0]
    assert document["keys"][0]["kid"] == KEY.thumbprint()
    document["keys"].append({"kty": "oct", "k": "c2VjcmV0"})
    assert len(load_jwks(document).keys) == 1
    with pytest.raises(ValueError, match="not a JWK set"):
        load_jwks({"keys": "none"})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_key_files(tmp_path / "keys")
    return tmp_path / "keys"


def test_key_files_are_private_and_made_once(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert set(before) == {
        "internal.jwk",
        "internal-jwks.json",
        "receipts.key",
        "auth.jwk",
        "auth-pepper.key",
        "secrets.key",
        "demo-partner.key",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys.iterdir())
    assert len(bytes.fromhex((keys / "receipts.key").read_text())) == 32
    generate_key_files(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_a_public_key_is_not_taken_for_a_private_one(keys: Path) -> None:
    path = keys / "public.jwk"
    path.write_text(json.dumps(public_jwks([KEY])["keys"][0]))
    with pytest.raises(ValueError, match="not an Ed25519 private key"):
        load_private_jwk(path)
