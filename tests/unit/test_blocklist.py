"""Passwords that guessers try first, in the forms that people give them; and those that pass."""

import secrets
import sys
from types import FrameType

import pytest

from services.auth.blocklist import is_common

OWN = ("ada.lovelace-1815@example.org", "ada.lovelace-1815")


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "Password123456789",
        "P@ssw0rd!P@ssw0rd!",
        "qwertyuiopasdfgh",
        "1qaz2wsx3edc4rfv",
        "123456789012345",
        "987654321098765",
        "aaaaaaaaaaaaaaa",
        "abcxyzabcxyzabcxyz",
        "abcdefghijklmnop",
        "iloveyou1234567890",
        "Liverpool2024!!!",
        "correct horse battery staple",
        "thequickbrownfox",
        "MyMacroTracker2026!",
        "my macro tracker 1",
        "Ada.Lovelace-1815",
        "l0velace!l0velace!",
        "............... .",
        "\uff50assword\uff50assword",
    ],
)
def test_refused(password: str) -> None:
    assert is_common(password, OWN)


@pytest.mark.parametrize(
    "password",
    [
        "violet tractor hums at noon",
        "dragon monkey football sunshine",
        "the analytical engine weaves",
        "kürbissuppe mit zimt",
        "голубой трактор поёт",
        "葡萄美酒夜光杯欲飲琵琶馬上催",
        "x7#Qp!9vLm2$Rt8",
    ],
)
def test_taken(password: str) -> None:
    assert not is_common(password, OWN)


def test_what_a_password_manager_makes_is_taken() -> None:
    assert not any(is_common(secrets.token_urlsafe(16), OWN) for _ in range(2000))


@pytest.mark.parametrize(
    "password", ["\ufdfa\u3300\u33a5" * 113 + "x", "".join(map(str, range(370)))], ids=["ligatures", "digits"]
)
def test_of_a_kilobyte_only_the_beginning_is_looked_at(password: str) -> None:
    calls = 0

    def count(_frame: FrameType, event: str, _what: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        common = is_common(password, OWN)
    finally:
        sys.setprofile(before)
    assert not common
    assert calls < 15_000
