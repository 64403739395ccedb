"""Whether auth and the gateway mean the same issuer."""

import asyncio
import json

import pytest

from services.gateway.issuer import Issuer
from services.gateway.proxy import Answer, Unanswered

HERE, THERE = "https://example.org/auth", "https://example.com/auth"


class Auth:
    """Answers as told, and counts."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def ask(self) -> Answer:
        self.asked += 1
        answer = self.answers.pop(0)
        if answer is None:
            raise Unanswered("auth")
        return answer


def named(issuer: str) -> Answer:
    return Answer(200, {}, json.dumps({"issuer": issuer}).encode())


async def test_the_same_name_is_asked_for_once() -> None:
    auth = Auth(named(HERE))
    issuer = Issuer(HERE, auth.ask)
    assert [await issuer.agrees() for _ in range(3)] == [True] * 3
    assert auth.asked == 1


async def test_another_name_is_said_once_with_the_setting_and_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    issuer = Issuer(HERE, Auth(named(THERE), named(THERE), named(HERE)).ask)
    assert [await issuer.agrees() for _ in range(3)] == [False, False, True]
    (said,) = caplog.records
    assert said.getMessage() == f"TOKEN_ISSUER is {HERE} here and {THERE} at auth: no token is good at this gateway"


async def test_an_auth_that_hangs_is_not_waited_for() -> None:
    async def hang() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(5):
        assert await Issuer(HERE, hang).agrees()


@pytest.mark.parametrize("answer", [None, Answer(503, {}, b"{}"), Answer(200, {}, b"no json"), Answer(200, {}, b"{}")])
async def test_an_auth_that_says_nothing_of_it_is_no_reason(answer: Answer | None) -> None:
    assert await Issuer(HERE, Auth(answer).ask).agrees()
