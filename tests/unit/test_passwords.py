"""Passwords: hashing off the event loop, equal work for nobody's password, bounds."""

import asyncio
from collections.abc import Generator

import pytest
from argon2 import PasswordHasher

from services.auth.passwords import LANES, MEMORY_KIB, PASSES, Passwords, check_acceptable
from shared.errors import Problem

LONG = "correct horse battery"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def passwords() -> Generator[Passwords]:
    one = Passwords(hasher=QUICK)
    yield one
    one.close()


async def test_the_right_password_passes(passwords: Passwords) -> None:
    stored = await passwords.hash(LONG)
    assert await passwords.verify(stored, LONG)
    assert not await passwords.verify(stored, LONG + "!")
    assert stored != await passwords.hash(LONG)


async def test_nobodys_password_never_passes(passwords: Passwords) -> None:
    assert not await passwords.verify(None, LONG)
    assert not await passwords.verify(None, "the hash of nobody's password")
    assert not await passwords.verify("not a hash", LONG)


async def test_an_unknown_user_costs_a_whole_hash() -> None:
    counted = CountingHasher()
    one = Passwords(hasher=counted)
    stored = await one.hash(LONG)
    await one.verify(None, LONG)  # makes the dummy once
    counted.verified = 0
    await one.verify(stored, "wrong password here")
    await one.verify(None, "wrong password here")
    assert counted.verified == 2
    one.close()


class CountingHasher(PasswordHasher):
    """Counts the slow comparisons."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:
        self.verified += 1
        return super().verify(hash, password)


async def test_the_shipped_parameters_are_owasps_minimum() -> None:
    one = Passwords()
    stored = await one.hash(LONG)
    assert stored.startswith(f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$")
    assert not one.needs_rehash(stored)
    assert one.needs_rehash(QUICK.hash(LONG))
    one.close()


async def test_too_many_at_once_are_told_to_come_back() -> None:
    one = Passwords(threads=1, queue=1, hasher=QUICK)
    results = await asyncio.gather(*(one.hash(LONG) for _ in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Problem)]
    assert len(refused) == 3
    assert {problem.status for problem in refused} == {503}
    assert await one.hash(LONG)
    one.close()


def refusal(password: str) -> str | None:
    """Why we do not take it, None where we do."""
    try:
        check_acceptable(password)
    except Problem as problem:
        return problem.code
    return None


@pytest.mark.parametrize(
    ("password", "code"),
    [("x" * 14, "password-too-short"), ("é" * 600, "password-too-long"), ("x" * 15 + "\ud800", "password-not-text")],
)
def test_bounds(password: str, code: str) -> None:
    assert refusal(password) == code


@pytest.mark.parametrize("password", ["violet hums noon", "violette fée 🦊 " * 50, "pass phrase with spaces"])
def test_length_alone_counts(password: str) -> None:
    assert refusal(password) is None
    assert refusal(password[:14]) == "password-too-short"


@pytest.mark.parametrize("password", ["mizzle+9", "tür7/ñor"])
def test_eight_characters_stand_beside_a_second_factor(password: str) -> None:
    check_acceptable(password, two_factors=True)
    with pytest.raises(Problem) as refused:
        check_acceptable(password)
    assert refused.value.code == "password-too-short"
    with pytest.raises(Problem):
        check_acceptable(password[:7], two_factors=True)


@pytest.mark.parametrize("password", ["violet\thums noon", "violet hums noon\n", "violet hums\x00noon"])
def test_control_characters_are_refused(password: str) -> None:
    with pytest.raises(Problem) as refused:
        check_acceptable(password)
    assert refused.value.code == "password-not-printable"


async def test_a_password_is_hashed_whole(passwords: Passwords) -> None:
    stored = await passwords.hash("a" * 1023 + "b")
    assert not await passwords.verify(stored, "a" * 1023 + "c")
    assert not await passwords.verify(stored, "a" * 1023)


async def test_keyboards_that_compose_differently_agree(passwords: Passwords) -> None:
    stored = await passwords.hash("une id\u00e9e de passage")
    assert await passwords.verify(stored, "une ide\u0301e de passage")
    # Unlike NFKC: a ligature is no "fi".
    assert not await passwords.verify(await passwords.hash("\ufb01ne and long enough"), "fine and long enough")


async def test_half_a_surrogate_pair_is_a_wrong_password(passwords: Passwords) -> None:
    assert not await passwords.verify(await passwords.hash(LONG), "\ud800" * 20)
