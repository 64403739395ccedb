"""Sessions as they run: signing in, exchanging tokens, replays, signing out, and what the others are told."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.auth import sessions
from services.auth.sessions import CUTOFFS, SESSIONS, Session
from services.auth.tokens import RefreshToken, RefreshTokens
from shared import topics
from shared.callers import SCOPES, Caller
from shared.documents import Documents
from shared.errors import Problem
from shared.events.auth import SessionRevoked
from tests.polling import eventually
from tests.service.auth_edges import auth_in, problem
from tests.service.gateway_edges import MovableClock
from tests.service.running import Running

ACCOUNT = {"email": "ada@example.org", "password": "fourteen teal herons march"}


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with auth_in(tmp_path, clock=clock, listen=(topics.REVOCATIONS,)) as one:
        made = await one.http.post("/v1/users", json=ACCOUNT, headers=one.headers(key="k"))
        assert made.status_code == 201
        yield one


async def sign_in(service: Running, **more: Any) -> dict[str, Any]:
    answer = await service.http.post("/v1/tokens", json=ACCOUNT | more, headers=service.headers())
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refresh(service: Running, token: str) -> Any:
    return await service.http.post("/v1/tokens/refresh", json={"refresh_token": token}, headers=service.headers())


async def revoke(service: Running, token: str) -> Any:
    return await service.http.post("/v1/tokens/revoke", json={"refresh_token": token}, headers=service.headers())


def claims(answer: dict[str, Any]) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(answer["access_token"].split(".")[1] + "=="))


def headers(service: Running, answer: dict[str, Any], user_id: str | None = None) -> dict[str, str]:
    """What the gateway sends for the holder of this access token."""
    caller = Caller(user_id or claims(answer)["sub"], None, frozenset(SCOPES), claims(answer)["sid"])
    return {"Authorization": f"Bearer {service.signer.token(caller, 'auth')}"}


async def listed(service: Running, answer: dict[str, Any]) -> dict[str, Any]:
    return (await service.http.get("/v1/me/sessions", headers=headers(service, answer))).json()


REFUSED = (401, "invalid-refresh-token")


async def told(service: Running, count: int) -> list[SessionRevoked]:
    values = service.published[topics.REVOCATIONS.name]
    await eventually(lambda: len(values) >= count)
    return [SessionRevoked.model_validate_json(value) for value in values]


def documents(service: Running) -> Documents:
    return service.app.state.deps.store.documents


async def stored(service: Running, answer: dict[str, Any]) -> Session:
    session = await documents(service).get(SESSIONS, answer["session_id"])
    assert session is not None
    return session


async def test_signing_in_starts_a_session(service: Running) -> None:
    answer = await sign_in(service, device="Ada's phone")
    assert claims(answer)["sid"] == answer["session_id"]
    assert answer["refresh_token"].startswith("mmr_")
    (session,) = (await listed(service, answer))["sessions"]
    assert (session["session_id"], session["device"], session["current"]) == (answer["session_id"], "Ada's phone", True)


async def test_a_refresh_token_gives_the_next_one_once(service: Running) -> None:
    first = await sign_in(service)
    second = (await refresh(service, first["refresh_token"])).json()
    third = (await refresh(service, second["refresh_token"])).json()
    assert len({one["refresh_token"] for one in (first, second, third)}) == 3
    assert len({claims(one)["jti"] for one in (first, second, third)}) == 3
    assert {claims(one)["sid"] for one in (first, second, third)} == {first["session_id"]}


async def test_a_lost_answer_is_given_again_for_half_a_minute(service: Running, clock: MovableClock) -> None:
    first = await sign_in(service)
    lost = (await refresh(service, first["refresh_token"])).json()
    clock.ahead += timedelta(seconds=20)
    again = (await refresh(service, first["refresh_token"])).json()
    assert again["refresh_token"] == lost["refresh_token"]
    assert (await refresh(service, again["refresh_token"])).status_code == 200


async def test_a_token_used_again_later_ends_the_session(
    service: Running, clock: MovableClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = await sign_in(service, device="Ada's phone")
    second = (await refresh(service, first["refresh_token"])).json()
    clock.ahead += timedelta(seconds=31)
    assert problem(await refresh(service, first["refresh_token"])) == REFUSED
    assert problem(await refresh(service, second["refresh_token"])) == REFUSED
    (event,) = await told(service, 1)
    assert (event.session_id, event.reason) == (first["session_id"], "refresh-token-reused")
    assert event.expires_at - event.occurred_at == timedelta(minutes=16)
    assert first["session_id"] in caplog.text
    assert "Ada" not in caplog.text
    other = await sign_in(service)
    (alert,) = (await listed(service, other))["alerts"]
    assert (alert["session_id"], alert["device"]) == (first["session_id"], "Ada's phone")
    assert alert["reason"] == "refresh-token-reused"


async def test_a_token_whose_successor_was_used_ends_the_session_at_once(service: Running) -> None:
    first = await sign_in(service)
    second = (await refresh(service, first["refresh_token"])).json()
    third = (await refresh(service, second["refresh_token"])).json()
    assert problem(await refresh(service, first["refresh_token"])) == REFUSED
    assert problem(await refresh(service, third["refresh_token"])) == REFUSED
    assert len(await told(service, 1)) == 1


async def test_fifty_exchanges_at_once_leave_one_live_token(service: Running) -> None:
    first = await sign_in(service)
    answers = await asyncio.gather(*(refresh(service, first["refresh_token"]) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    (leaf,) = {answer.json()["refresh_token"] for answer in answers}
    token = service.app.state.deps.refresh_tokens.read(leaf)
    assert (await stored(service, first)).token_hash == token.hash
    assert (await refresh(service, leaf)).status_code == 200


async def test_fifty_replays_at_once_end_the_session_once(service: Running, clock: MovableClock) -> None:
    first = await sign_in(service)
    second = (await refresh(service, first["refresh_token"])).json()
    clock.ahead += timedelta(minutes=1)
    answers = await asyncio.gather(*(refresh(service, first["refresh_token"]) for _ in range(50)))
    assert {problem(answer) for answer in answers} == {REFUSED}
    assert problem(await refresh(service, second["refresh_token"])) == REFUSED
    assert len(await told(service, 1)) == 1


@pytest.mark.parametrize("days", [29, 31])
async def test_an_unused_session_ends_after_thirty_days(service: Running, clock: MovableClock, days: int) -> None:
    first = await sign_in(service)
    clock.ahead += timedelta(days=days)
    assert (await refresh(service, first["refresh_token"])).status_code == (200 if days < 30 else 401)


async def test_a_used_session_ends_after_ninety_days(service: Running, clock: MovableClock) -> None:
    answer = await sign_in(service)
    for _ in range(4):
        clock.ahead += timedelta(days=22)
        answer = (await refresh(service, answer["refresh_token"])).json()
    clock.ahead += timedelta(days=3)
    assert problem(await refresh(service, answer["refresh_token"])) == REFUSED


async def test_signing_out_ends_the_session_and_is_repeatable(service: Running) -> None:
    answer = await sign_in(service)
    for _ in range(2):
        assert (await revoke(service, answer["refresh_token"])).status_code == 204
    assert problem(await refresh(service, answer["refresh_token"])) == REFUSED
    (event,) = await told(service, 1)
    assert (event.session_id, event.reason) == (answer["session_id"], "signed-out")


def made_up(service: Running, answer: dict[str, Any]) -> str:
    """A token of a known session by somebody who does not know auth's secret."""
    session = service.app.state.deps.refresh_tokens.read(answer["refresh_token"]).session
    return RefreshTokens(b"0" * 32).text(RefreshToken(session, b"1" * 32))


JUNK: dict[str, Callable[[Running, dict[str, Any]], str]] = {
    "words": lambda *_: "no token",
    "an access token": lambda _, answer: answer["access_token"][:256],
    "one character changed": lambda _, answer: answer["refresh_token"][:-1] + "!",
    "not ASCII": lambda _, answer: answer["refresh_token"][:-1] + "é",
    "cut": lambda _, answer: answer["refresh_token"][:-1],
    "made up for this session": made_up,
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
async def test_junk_is_refused_and_ends_nothing(service: Running, junk: Callable[..., str]) -> None:
    answer = await sign_in(service)
    assert problem(await refresh(service, junk(service, answer))) == REFUSED
    assert (await revoke(service, junk(service, answer))).status_code == 204
    assert (await refresh(service, answer["refresh_token"])).status_code == 200


@pytest.mark.parametrize("path", ["/v1/tokens/refresh", "/v1/tokens/revoke"])
@pytest.mark.parametrize("body", [{}, {"refresh_token": 1}, {"refresh_token": "x" * 257}, {"refresh_token": ""}])
async def test_a_body_without_a_token_is_422(service: Running, path: str, body: dict[str, Any]) -> None:
    assert problem(await service.http.post(path, json=body, headers=service.headers())) == (422, "invalid-request")


async def test_one_session_is_ended_by_its_user_alone(service: Running) -> None:
    mine, other = await sign_in(service), await sign_in(service)
    path = f"/v1/me/sessions/{other['session_id']}"
    foreign = await service.http.delete(path, headers=headers(service, mine, "usr_eve"))
    missing = await service.http.delete("/v1/me/sessions/sid_none", headers=headers(service, mine))
    assert problem(foreign) == problem(missing) == (404, "not-found")
    assert foreign.json()["detail"] == missing.json()["detail"]
    assert (await service.http.delete(path, headers=headers(service, mine))).status_code == 204
    assert problem(await service.http.delete(path, headers=headers(service, mine))) == (404, "not-found")
    assert problem(await refresh(service, other["refresh_token"])) == REFUSED
    assert (await refresh(service, mine["refresh_token"])).status_code == 200
    (event,) = await told(service, 1)
    assert (event.session_id, event.reason) == (other["session_id"], "ended-by-user")


async def test_all_sessions_but_the_callers_are_ended(service: Running) -> None:
    mine, *others = [await sign_in(service) for _ in range(4)]
    answer = await service.http.delete("/v1/me/sessions", headers=headers(service, mine))
    assert answer.json() == {"ended": 3}
    assert [one["session_id"] for one in (await listed(service, mine))["sessions"]] == [mine["session_id"]]
    assert {event.session_id for event in await told(service, 3)} == {one["session_id"] for one in others}


async def test_ending_all_sessions_spares_none_unless_told(service: Running) -> None:
    answers = [await sign_in(service) for _ in range(3)]
    user_id = claims(answers[0])["sub"]
    deps = service.app.state.deps
    assert await sessions.end_all(deps, user_id, but=answers[0]["session_id"], reason="password-changed") == 2
    assert await sessions.end_all(deps, user_id, reason="erased") == 1
    assert await sessions.end_all(deps, user_id, reason="erased") == 0
    assert [event.reason for event in await told(service, 3)].count("password-changed") == 2


async def test_a_sign_in_that_was_under_way_when_all_sessions_were_ended_gives_none(service: Running) -> None:
    deps = service.app.state.deps
    for _ in range(2):
        asked_at = deps.clock()
        assert await sessions.end_all(deps, "usr_busy", reason="password-changed") == 0
        with pytest.raises(Problem, match="Sign in again"):
            await sessions.start(deps, "usr_busy", "", asked_at=asked_at)
    assert await sessions.live(deps, "usr_busy") == []
    await sessions.start(deps, "usr_busy", "", asked_at=deps.clock() + timedelta(milliseconds=1))
    assert len(await sessions.live(deps, "usr_busy")) == 1
    await sessions.forget(documents(service), deps.clock() + timedelta(days=2))
    assert await documents(service).get(CUTOFFS, "usr_busy") is None


async def test_the_hundred_and_first_session_ends_the_one_unused_longest(service: Running) -> None:
    deps = service.app.state.deps
    started = [
        await sessions.start(deps, "usr_many", str(number), asked_at=deps.clock())
        for number in range(sessions.MAX_LIVE + 1)
    ]
    live = {session.id for session in await sessions.live(deps, "usr_many")}
    assert live == {session.id for session, _ in started[1:]}
    (event,) = await told(service, 1)
    assert (event.session_id, event.reason) == (started[0][0].id, "too-many-sessions")


async def test_an_ended_session_is_forgotten_after_thirty_days(service: Running, clock: MovableClock) -> None:
    ended, live = await sign_in(service), await sign_in(service)
    await revoke(service, ended["refresh_token"])
    await told(service, 1)
    await eventually(lambda: relayed(service, ended))
    assert await sessions.forget(documents(service), clock()) == 0
    assert await sessions.forget(documents(service), clock() + timedelta(days=31)) == 1
    assert (await stored(service, live)).ended_at is None


async def relayed(service: Running, answer: dict[str, Any]) -> bool:
    return not (await stored(service, answer)).outbox


async def test_the_database_holds_no_refresh_token(service: Running, tmp_path: Path) -> None:
    first = await sign_in(service)
    second = (await refresh(service, first["refresh_token"])).json()
    tokens = [service.app.state.deps.refresh_tokens.read(one["refresh_token"]) for one in (first, second)]
    lying = b"".join(file.read_bytes() for file in tmp_path.glob("auth.sqlite*"))
    for token, answer in zip(tokens, (first, second), strict=True):
        assert token.hash in lying
        assert token.secret not in lying
        assert answer["refresh_token"].encode() not in lying


async def test_times_are_told_in_utc(service: Running) -> None:
    (session,) = (await listed(service, await sign_in(service)))["sessions"]
    assert datetime.fromisoformat(session["ends_at"]) - datetime.now(UTC) > timedelta(days=29)
