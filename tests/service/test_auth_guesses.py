"""Who guesses at passwords and codes, how far they get, and that they lock nobody out."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.auth import enrolment
from shared.errors import Problem
from tests.service.account_holder import EMAIL, OTHER, PASSWORD, Ada, auth_of
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, MovableClock()) as one:
        yield one


def evaluated(answers: list[Any]) -> int:
    assert {answer.status_code for answer in answers} <= {401, 429}
    return sum(1 for answer in answers if answer.status_code == 401)


async def _problems(attempts: Iterable[Awaitable[str]]) -> list[Problem]:
    results = await asyncio.gather(*attempts, return_exceptions=True)
    return [result for result in results if isinstance(result, Problem)]


async def test_ten_thousand_guesses_from_a_thousand_addresses_get_nowhere_and_lock_nobody_out(ada: Ada) -> None:
    assert (await ada.sign_in()).status_code == 200  # from home, once before
    deps = ada.service.app.state.deps
    addresses = [f"203.0.{number // 250}.{number % 250}" for number in range(1000)]
    refused: list[Problem] = []
    for part in range(0, 10_000, 200):
        guesses = (enrolment.sign_in(deps, EMAIL, "guess", None, addresses[n % 1000]) for n in range(part, part + 200))
        refused += await _problems(guesses)
    codes = Counter(problem.code for problem in refused)
    assert codes.keys() <= {"wrong-credentials", "too-many-attempts"}
    assert codes.total() == 10_000
    assert codes["wrong-credentials"] <= 100
    assert all(int(problem.headers["Retry-After"]) >= 1 for problem in refused if problem.status == 429)
    assert problem(await ada.sign_in("203.0.113.200")) == (429, "too-many-attempts")
    assert (await ada.sign_in()).status_code == 200


async def test_after_a_hundred_failures_only_a_letter_or_home_helps(ada: Ada) -> None:
    await ada.sign_in()
    count = 0
    for number in range(200):
        ada.clock.ahead += timedelta(minutes=31)
        count += evaluated([await ada.sign_in(f"203.0.113.{number}", password="guess")])
    assert count == 100
    assert problem(await ada.sign_in("203.0.113.250")) == (429, "too-many-attempts")
    await ada.ask_for_reset()
    assert (await ada.reset(await ada.reset_token())).status_code == 204
    assert (await ada.sign_in("203.0.113.250", password=OTHER)).status_code == 200


async def test_guesses_are_counted_for_unknown_addresses_too(ada: Ada) -> None:
    answers = [await ada.sign_in(f"203.0.113.{n}", email="eve@example.org", password="guess") for n in range(30)]
    assert evaluated(answers) == 20


async def test_guesses_survive_a_restart(tmp_path: Path) -> None:
    clock = MovableClock()
    async with auth_of(tmp_path, clock) as ada:
        for number in range(30):
            await ada.sign_in(f"203.0.113.{number}", password="guess")
    async with auth_of(tmp_path, clock) as ada:
        assert problem(await ada.sign_in("203.0.113.99", password="guess")) == (429, "too-many-attempts")


async def test_one_network_does_not_spray_many_accounts(ada: Ada) -> None:
    emails = [f"person{number}@example.org" for number in range(150)]
    answers = [await ada.sign_in(f"2001:db8::{n:x}", email=one, password="guess") for n, one in enumerate(emails)]
    assert 100 <= evaluated(answers) <= 110


async def test_a_familiar_network_has_a_bound_of_its_own(ada: Ada) -> None:
    await ada.sign_in()
    assert evaluated([await ada.sign_in(password="guess") for _ in range(20)]) == 10


async def test_codes_are_guessed_no_more_than_passwords(ada: Ada) -> None:
    await ada.with_second_factor()
    codes = [f"{number:06}" for number in range(60)]
    answers = [await ada.sign_in("203.0.113.1", second_factor=code) for code in codes]
    assert evaluated(answers) == 20


async def test_right_sign_ins_cost_nothing(ada: Ada) -> None:
    answers = [await ada.sign_in(f"203.0.113.{number}") for number in range(30)]
    assert {answer.status_code for answer in answers} == {200}


async def test_a_strangers_success_forgets_none_of_an_accounts_failures(
    ada: Ada, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever addresses fall: here all of them into one slot."""
    monkeypatch.setattr("services.auth.guesses.SLOTS", 1)
    eve, headers = {"email": "eve@example.org", "password": PASSWORD}, ada.service.headers(key="eve")
    assert (await ada.service.http.post("/v1/users", json=eve, headers=headers)).status_code == 201
    count = 0
    for number in range(120):
        ada.clock.ahead += timedelta(minutes=31)
        count += evaluated([await ada.sign_in(f"203.0.113.{number}", password="guess")])
        if number % 20 == 0:
            assert (await ada.sign_in("203.0.113.250", email="eve@example.org")).status_code == 200
    assert count == 100


async def test_sign_ins_side_by_side_pass_while_passwords_are_hashed_anew(
    ada: Ada, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ada.sign_in()
    monkeypatch.setattr(ada.service.app.state.deps.passwords, "needs_rehash", lambda _: True)
    answers = await asyncio.gather(*(ada.sign_in() for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
