"""Sealing secrets: what opens, what never does, and where the keys may come from."""

import logging
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.secrets import (
    SHORTEST,
    CannotOpen,
    Keys,
    KeysRefused,
    Secrets,
    UnknownKey,
    key_id,
    open_secrets,
    parse_keys,
    read_keys,
    secrets_from_file,
)
from shared.settings import ServiceSettings

OLD, NEW = "11" * 32, "22" * 32
PLACE: dict[str, Any] = {"collection": "endpoints", "field": "secret", "document_id": "e1", "user_id": "u1"}
PLAIN = b"correct horse battery staple"


def secrets(text: str = OLD) -> Secrets:
    keys = parse_keys(text, "test")
    return Secrets(lambda: keys)


def key_file(folder: Path, text: str = OLD, mode: int = 0o600) -> Path:
    path = folder / "secrets.key"
    path.write_text(text)
    path.chmod(mode)
    return path


@given(st.binary(max_size=512), st.fixed_dictionaries({name: st.text() for name in PLACE}), st.sampled_from([OLD, NEW]))
def test_what_was_sealed_opens_in_its_place(plain: bytes, place: dict[str, Any], key: str) -> None:
    sealed = secrets(key).seal(plain, **place)
    assert secrets(f"{OLD} {NEW}").open(sealed, **place) == plain
    assert len(sealed) == len(plain) + SHORTEST


def test_what_was_sealed_by_the_first_release_opens() -> None:
    sealed = bytes.fromhex(
        "018b62961450c66720046db2ef540d467ac15ec4e3a6416a413c313b1afeced7c69c28a52ac1001da7db492b8cf86563dd000102"
        "030405060708090a0b246da469a086b63be52ee5f8d4c91a0cf7a2e246895b2c08591789e02ad47afe495ad683eb1b0599bd91b3ae"
    )
    assert secrets(OLD).open(sealed, **PLACE) == PLAIN


def test_the_same_secret_is_never_sealed_alike() -> None:
    one, other = secrets().seal(PLAIN, **PLACE), secrets().seal(PLAIN, **PLACE)
    # The wrapped data key, the nonce and the ciphertext.
    assert all(one[part] != other[part] for part in (slice(9, 49), slice(49, 61), slice(61, None)))
    assert PLAIN not in one


@pytest.mark.parametrize("name", list(PLACE))
def test_a_secret_of_another_place_is_refused(name: str) -> None:
    sealed = secrets().seal(PLAIN, **PLACE)
    with pytest.raises(CannotOpen, match="another place"):
        secrets().open(sealed, **(PLACE | {name: "other"}))


def test_names_that_read_alike_side_by_side_are_different_places() -> None:
    cuts = [
        dict(zip(PLACE, parts, strict=True))
        for parts in (
            ("ab", "c", "d", "e"),
            ("a", "bc", "d", "e"),
            ("a", "b", "cd", "e"),
            ("abcde", "", "", ""),
            ("", "", "", "abcde"),
            ("a", "b|c", "d", "e"),
            ("a|b", "c", "d", "e"),
            ("a\0b", "c", "d", "e"),
            ("a", "b\0c", "d", "e"),
        )
    ]
    for one, other in combinations(cuts, 2):
        sealed = secrets().seal(PLAIN, **one)
        assert secrets().open(sealed, **one) == PLAIN
        with pytest.raises(CannotOpen):
            secrets().open(sealed, **other)


@given(st.lists(st.text(), min_size=4, max_size=4), st.lists(st.text(), min_size=4, max_size=4))
def test_two_places_share_no_secret(one: list[str], other: list[str]) -> None:
    sealed = secrets().seal(PLAIN, **dict(zip(PLACE, one, strict=True)))
    place = dict(zip(PLACE, other, strict=True))
    if one == other:
        assert secrets().open(sealed, **place) == PLAIN
    else:
        with pytest.raises(CannotOpen):
            secrets().open(sealed, **place)


def test_every_damaged_bit_is_noticed() -> None:
    sealed = secrets().seal(PLAIN, **PLACE)
    for position in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CannotOpen) as refused:
            secrets().open(bytes(damaged), **PLACE)
        assert isinstance(refused.value, UnknownKey) == (8 <= position < 72)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 60, 61, SHORTEST - 1, SHORTEST, SHORTEST + 3])
def test_cut_bytes_are_refused(length: int) -> None:
    sealed = secrets().seal(PLAIN, **PLACE)[:length]
    with pytest.raises(CannotOpen):
        secrets().open(sealed, **PLACE)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(junk: bytes) -> None:
    for bytes_ in (junk, b"\x01" + junk):
        with pytest.raises(CannotOpen):
            secrets().open(bytes_, **PLACE)


def test_a_spliced_data_key_is_refused() -> None:
    one, other = secrets().seal(PLAIN, **PLACE), secrets().seal(b"another", **PLACE)
    for part in (slice(9, 49), slice(49, 61), slice(61, None)):
        spliced = bytearray(one)
        spliced[part] = other[part]
        with pytest.raises(CannotOpen):
            secrets().open(bytes(spliced), **PLACE)


def test_a_key_that_is_gone_is_named_by_its_id() -> None:
    sealed = secrets(OLD).seal(PLAIN, **PLACE)
    with pytest.raises(UnknownKey, match=key_id(sealed).hex()):
        secrets(NEW).open(sealed, **PLACE)


def test_the_newest_key_seals_and_all_of_them_open() -> None:
    old, both = secrets(OLD), secrets(f"{NEW}\n{OLD}\n")
    sealed = old.seal(PLAIN, **PLACE)
    assert (old.is_stale(sealed), both.is_stale(sealed)) == (False, True)
    assert both.open(sealed, **PLACE) == PLAIN
    again = both.seal(PLAIN, **PLACE)
    assert not both.is_stale(again)
    assert secrets(NEW).open(again, **PLACE) == PLAIN


def test_what_is_no_sealed_secret_is_not_called_stale() -> None:
    with pytest.raises(CannotOpen):
        secrets().is_stale(b"plain")


def test_keys_are_read_in_order_and_comments_left_out() -> None:
    text = f"# of March\n{NEW}\n\n{OLD.upper()}  # of January\n"
    assert list(parse_keys(text, "test").by_id.values()) == [bytes.fromhex(NEW), bytes.fromhex(OLD)]
    assert parse_keys(f"{NEW},{OLD}", "test").by_id == parse_keys(text, "test").by_id


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("# only words\n", "holds no key"),
        (OLD + "\n" + NEW[:-2], "line 2: a key is 64 hex digits"),
        ("zz" * 32, "line 1: a key is 64 hex digits"),
        (OLD + NEW, "line 1: a key is 64 hex digits"),
        (f"{OLD}\n{OLD.upper()}", "line 2: this key is there twice"),
    ],
)
def test_wrong_keys_are_refused_without_showing_them(text: str, why: str) -> None:
    with pytest.raises(KeysRefused, match=why) as refused:
        parse_keys(text, "SECRETS_KEYS")
    assert "SECRETS_KEYS" in str(refused.value)
    assert not any(word in str(refused.value) for word in ("11" * 8, "22" * 8, "zz" * 8))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeysRefused, match="chmod 600"):
        read_keys(key_file(tmp_path, mode=mode))


def test_only_a_text_file_that_is_there_holds_keys(tmp_path: Path) -> None:
    with pytest.raises(KeysRefused, match="not there; put it back from your backup"):
        read_keys(tmp_path / "none.key")
    with pytest.raises(KeysRefused, match="Is a directory"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeysRefused, match="is not a file"):
        read_keys(tmp_path / "pipe")
    path = key_file(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeysRefused, match="not a text"):
        read_keys(path)


def test_the_variable_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_KEY_PATH", str(key_file(tmp_path, OLD)))
    sealed = open_secrets(ServiceSettings()).seal(PLAIN, **PLACE)
    assert secrets(OLD).open(sealed, **PLACE) == PLAIN
    monkeypatch.setenv("SECRETS_KEYS", f"{NEW},{OLD}")
    settings = ServiceSettings()
    assert open_secrets(settings).is_stale(sealed)
    assert NEW not in repr(settings)
    monkeypatch.setenv("SECRETS_KEYS", "short")
    with pytest.raises(KeysRefused, match=r"^SECRETS_KEYS"):
        open_secrets(ServiceSettings())


def test_keys_do_not_show_in_logs() -> None:
    assert "1111" not in repr(Keys({b"1" * 8: bytes.fromhex(OLD)}))


def test_a_key_added_to_the_file_counts_at_once(tmp_path: Path) -> None:
    ours = secrets_from_file(path := key_file(tmp_path))
    sealed = ours.seal(PLAIN, **PLACE)
    path.write_text(f"{NEW}\n{OLD}\n")
    assert ours.is_stale(sealed)
    assert ours.open(ours.seal(PLAIN, **PLACE), **PLACE) == ours.open(sealed, **PLACE) == PLAIN


def test_a_file_broken_meanwhile_leaves_the_keys_there_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = secrets_from_file(path := key_file(tmp_path))
    sealed = ours.seal(PLAIN, **PLACE)
    path.write_text("half a key")
    assert ours.open(sealed, **PLACE) == PLAIN
    path.unlink()
    assert ours.open(sealed, **PLACE) == ours.open(ours.seal(PLAIN, **PLACE), **PLACE) == PLAIN
    said = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert ["64 hex digits" in said[0], "not there" in said[1], len(said)] == [True, True, 2]
    key_file(tmp_path, NEW)
    with pytest.raises(UnknownKey):
        ours.open(sealed, **PLACE)
