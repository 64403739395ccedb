"""The audit log on the real app."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import uvicorn

from services.auth import audit, sessions
from services.auth.audit import LINES, Attempt
from shared.callers import OPERATOR_SCOPE
from shared.documents import Documents
from tests.polling import eventually
from tests.service.account_holder import EMAIL, HOME, OTHER, PASSWORD, Ada, auth_of, early_in_the_hour
from tests.service.auth_edges import problem
from tests.service.oauth_edges import OAT, Client, consented, with_partner


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, early_in_the_hour()) as one:
        yield one


async def events(ada: Ada, query: str = "limit=200", **caller: Any) -> list[dict[str, Any]]:
    """The earliest first."""
    answer = await ada.ask("GET", f"/v1/me/security-events?{query}", **caller)
    assert answer.status_code == 200, answer.text
    return answer.json()["events"][::-1]


async def told(ada: Ada, *some: str) -> list[dict[str, Any]]:
    """Events of these kinds, once there are some of each."""

    async def all_there() -> list[dict[str, Any]]:
        found = [event for event in await events(ada) if event["kind"] in some]
        return found if {event["kind"] for event in found} == set(some) else []

    return await eventually(all_there)


def documents(ada: Ada) -> Documents:
    return ada.service.app.state.deps.store.documents


async def operate(ada: Ada, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {ada.service.signer.operator_token('auth')}"}
    return await ada.service.http.post("/internal/audit", json={"by": "olga"} | body, headers=headers)


async def test_what_happens_to_an_account_is_written_down_with_who_and_roughly_where(ada: Ada) -> None:
    started = await ada.sign_in()
    assert started.status_code == 200
    changed = await ada.ask("PATCH", "/v1/me", {"height_cm": "170", "birth_date": "1991-04-12", "locale": "en"})
    assert changed.status_code == 200
    assert (await ada.ask("PATCH", "/v1/me", {"height_cm": "170"})).status_code == 200
    body = {"password": PASSWORD, "new_password": OTHER}
    assert (await ada.ask("PUT", "/v1/me/password", body)).status_code == 204

    found = await events(ada)
    assert [event["kind"] for event in found] == [
        "account-created",
        "signed-in",
        "profile-changed",
        # Before the password, so that no crash in between leaves a thief's.
        "session-ended",
        "password-changed",
    ]
    _, signed_in, profile, session, _ = found
    assert {event["actor"] for event in found} == {"user"}
    assert signed_in["network"] == "198.51.100.0/24"
    assert signed_in["about"] == session["about"] == started.json()["session_id"]
    assert profile["details"] == ["birth_date", "height_cm"]
    assert session["details"] == ["password-changed"]
    for secret in (EMAIL, HOME, "1991-04-12", PASSWORD):
        assert secret not in str(found)


async def test_second_factors_and_letters_are_written_down(ada: Ada) -> None:
    _, codes = await ada.with_second_factor()
    assert problem(await ada.sign_in())[1] == "second-factor-required"
    assert (await ada.sign_in(second_factor="000000")).status_code == 401
    assert (await ada.sign_in(second_factor=codes[0])).status_code == 200
    assert (await ada.ask("POST", "/v1/me/second-factor/recovery-codes", {"password": PASSWORD})).status_code == 200
    assert (await ada.ask("POST", "/v1/me/second-factor/removals", {"password": PASSWORD})).status_code == 204
    await ada.ask_for_reset()
    assert (await ada.reset(await ada.reset_token())).status_code == 204

    await told(ada, "second-factor-asked", "wrong-second-factor")
    by_time = [event["kind"] for event in await events(ada) if event["kind"] not in get_args(Attempt)]
    assert by_time == [
        "account-created",
        "second-factor-on",
        "signed-in",
        "recovery-code-used",
        "recovery-codes-renewed",
        "session-ended",
        "second-factor-off",
        "password-reset-asked",
        "password-reset",
    ]
    asked = (await told(ada, "password-reset-asked"))[0]
    assert (asked["actor"], asked["network"]) == ("nobody", "198.51.100.0/24")


async def test_sessions_tell_why_they_ended(ada: Ada) -> None:
    first, second = (await ada.sign_in()).json(), (await ada.sign_in()).json()
    successor = (await ada.refresh(first)).json()
    await ada.refresh(successor)
    assert (await ada.refresh(first)).status_code == 401
    assert (await ada.ask("DELETE", f"/v1/me/sessions/{second['session_id']}")).status_code == 204
    assert (await ada.ask("DELETE", f"/v1/me/sessions/{second['session_id']}")).status_code == 404
    third = (await ada.sign_in()).json()
    signing_out = {"refresh_token": third["refresh_token"]}
    assert (await ada.ask("POST", "/v1/tokens/revoke", signing_out, user_id=None)).status_code == 204
    found = await told(ada, "refresh-token-reused", "session-ended")
    assert [(event["about"], event["details"], event["actor"]) for event in found] == [
        (first["session_id"], ["refresh-token-reused"], "nobody"),
        (second["session_id"], ["ended-by-user"], "user"),
        (third["session_id"], ["signed-out"], "user"),
    ]


async def test_lines_of_oauth_name_the_client(ada: Ada) -> None:
    """Of a sign-in on its page, and of whatever it does with its secret."""
    await with_partner(ada)
    client = Client(ada)
    first = (await client.exchange(await consented(ada, client))).json()
    assert (await client.post("/oauth/revoke", token=first["refresh_token"])).status_code == 200
    code = await consented(ada, client)
    for _ in range(2):
        await client.exchange(code)
    found = await events(ada)
    assert [(one["kind"], one["actor"], one["partner_id"]) for one in found if one["kind"] == "signed-in"] == [
        ("signed-in", "user", OAT)
    ] * 2
    ended = [one for one in found if one["kind"] == "session-ended"]
    assert [(one["actor"], one["partner_id"], one["details"]) for one in ended] == [
        ("partner", OAT, ["revoked-by-partner"]),
        ("partner", OAT, ["code-reused"]),
    ]


async def test_what_we_end_of_ourselves_is_the_systems_also_where_a_client_gave_rise_to_it(
    ada: Ada, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_LIVE_OF_PARTNER", 1)
    await with_partner(ada)
    client = Client(ada)
    for _ in range(2):
        assert (await client.exchange(await consented(ada, client))).status_code == 200
    (ended,) = await told(ada, "session-ended")
    assert (ended["actor"], ended["partner_id"], ended["details"]) == ("system", OAT, ["too-many-sessions"])


async def test_wrong_guesses_are_one_line_an_hour_and_keep_no_answer_waiting(ada: Ada) -> None:
    before = await documents(ada).count(LINES, audit.BY_TIME)
    answers = [await ada.sign_in(password="not the one at all") for _ in range(25)]
    assert {answer.status_code for answer in answers} == {401, 429}

    async def counted() -> list[tuple[str, int]]:
        found = [(event["kind"], event["count"]) for event in await events(ada) if event["count"] > 1]
        return found if sum(count for _, count in found) == 25 else []

    assert sorted(await eventually(counted)) == [("sign-in-held-up", 5), ("wrong-password", 20)]
    assert await documents(ada).count(LINES, audit.BY_TIME) == before + 2
    assert (await told(ada, "wrong-password"))[0]["actor"] == "nobody"


async def test_nobody_elses_events_are_seen(ada: Ada) -> None:
    other = {"email": "bob@example.org", "password": OTHER}
    made = await ada.service.http.post("/v1/users", json=other, headers=ada.service.headers(key="other"))
    bob = made.json()["user_id"]
    assert [event["kind"] for event in await events(ada)] == ["account-created"]
    assert len(await events(ada, user_id=bob)) == 1
    for who in ({"user_id": None}, {"user_id": None, "partner_id": "p"}, {"partner_id": "p"}, {"scopes": ()}):
        answer = await ada.ask("GET", "/v1/me/security-events", **who)
        assert problem(answer) == (403, "insufficient-scope"), who


async def test_events_come_in_pages_the_latest_first(ada: Ada) -> None:
    for _ in range(4):
        await ada.sign_in()
    seen: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await ada.ask("GET", f"/v1/me/security-events?limit=2{cursor}")).json()
        seen += page["events"]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert [event["kind"] for event in seen] == ["signed-in"] * 4 + ["account-created"]
    assert [event["at"] for event in seen] == sorted((event["at"] for event in seen), reverse=True)
    assert problem(await ada.ask("GET", "/v1/me/security-events?cursor=junk")) == (422, "invalid-cursor")
    assert (await ada.ask("GET", "/v1/me/security-events?limit=0")).status_code == 422


async def test_operators_see_everybodys_lines_and_their_looking_is_one(ada: Ada) -> None:
    await ada.sign_in()
    lines = (await operate(ada, user_id=ada.user_id, kind="signed-in")).json()["lines"]
    assert [(line["kind"], line["user_id"]) for line in lines] == [("signed-in", ada.user_id)]
    looked = (await operate(ada, kind="audit-read")).json()["lines"]
    assert [(line["by"], line["actor"], line["user_id"]) for line in looked] == [
        ("olga", "operator", None),
        ("olga", "operator", ada.user_id),
    ]
    later = (ada.clock() + timedelta(hours=1)).isoformat()
    assert (await operate(ada, since=later)).json() == {"lines": [], "cursor": None}
    assert (await operate(ada, since="9999-12-31T23:59:59-02:00")).status_code == 422
    assert problem(await operate(ada, kind="signed_in")) == (422, "unknown-kind")
    assert problem(await operate(ada, cursor="junk")) == (422, "invalid-cursor")
    assert "olga" not in str(await events(ada))


async def test_nobody_but_operators_asks_the_operators_route(ada: Ada) -> None:
    for who in ({}, {"user_id": None}, {"user_id": None, "partner_id": "p"}, {"scopes": (OPERATOR_SCOPE,)}):
        assert problem(await ada.ask("POST", "/internal/audit", {"by": "mallory"}, **who)) == (
            403,
            "insufficient-scope",
        )
    assert (await ada.service.http.post("/internal/audit", json={"by": "mallory"})).status_code == 401
    assert [event["kind"] for event in await events(ada)] == ["account-created"]


async def test_lines_older_than_the_setting_are_pruned(ada: Ada) -> None:
    await ada.sign_in()
    ada.clock.ahead += timedelta(days=400)
    await ada.sign_in()
    assert await audit.prune(documents(ada), ada.clock() - timedelta(days=400)) == 2
    assert [event["kind"] for event in await events(ada)] == ["signed-in"]


async def test_a_line_is_there_exactly_when_its_change_is(ada: Ada) -> None:
    """A change that is refused leaves none; of sign-ups under one key there is one."""
    repeated = {"email": EMAIL, "password": PASSWORD}
    for _ in range(2):
        made = await ada.service.http.post("/v1/users", json=repeated, headers=ada.service.headers(key="k"))
        assert made.status_code == 201
    wrong = {"password": PASSWORD, "new_password": "short"}
    assert (await ada.ask("PUT", "/v1/me/password", wrong)).status_code == 422
    await ada.sign_in()
    both = await asyncio.gather(*(ada.ask("DELETE", "/v1/me/sessions") for _ in range(2)))
    assert [answer.status_code for answer in both] == [200, 200]
    assert [event["kind"] for event in await events(ada)] == ["account-created", "signed-in", "session-ended"]


@asynccontextmanager
async def listening(ada: Ada) -> AsyncGenerator[str]:
    """The service on a port of loopback, as commands reach it."""
    server = uvicorn.Server(uvicorn.Config(ada.service.app, port=0, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def list_command(ada: Ada, url: str, *arguments: str) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "COLUMNS": "400",
        "GATEWAY_AUTH_URL": url,
        "GATEWAY_INTERNAL_KEY_PATH": str(ada.folder / "internal.jwk"),
    }
    command = (sys.executable, "-m", "infra.local.cli", "audit", "list", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), " ".join(err.decode().split())


async def test_the_command_lists_lines_and_says_what_is_wrong(ada: Ada) -> None:
    await ada.sign_in()
    async with listening(ada) as url:
        code, table, _ = await list_command(ada, url, "--user", ada.user_id)
        assert code == 0
        assert [line.split()[2] for line in table.splitlines()[1:]] == ["audit-read", "signed-in", "account-created"]
        _, lines, _ = await list_command(ada, url, "--json", "--kind", "signed-in", "--since", "1h", "--most", "1")
        assert [json.loads(line)["user_id"] for line in lines.splitlines()] == [ada.user_id]
        code, _, said = await list_command(ada, url, "--kind", "signed_in")
        assert (code, "answers 422: There is no such kind" in said) == (1, True)
        code, _, said = await list_command(ada, url, "--since", "soon")
        assert (code, said.startswith("--since takes a date")) == (1, True)
    code, _, said = await list_command(ada, url)
    assert (code, said.endswith("does not answer; see ./mymacro status.")) == (1, True)
