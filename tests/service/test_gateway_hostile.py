"""What callers who mean harm send to the gateway's door: headers twice, one secret by many spellings, all at once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.gateway.access import Access
from services.gateway.flows import MAX_FLOWING_EACH, Flows
from services.gateway.grants import Grants, Partners
from services.gateway.identities import Identity
from services.gateway.proxy import Answer, Unanswered
from services.gateway.revocations import Revocations
from services.gateway.verifiers import TokenVerifier
from shared.access_tokens import sign_access_token
from shared.callers import ANONYMOUS, Caller
from shared.errors import Problem
from shared.keys import load_private_jwk, new_api_key
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, answer, gateway
from tests.service.running import common_settings

VERIFIED = answer({"partner_id": "p1", "scopes": ["webhooks:write"], "expires_at": None})


async def whoami(door: Gateway, *headers: tuple[str, str]) -> int:
    return (await door.http.get("/v1/whoami", headers=list(headers))).status_code


# headers that come twice


@pytest.mark.parametrize("last", ["198.51.100.7", "127.0.0.2"])
async def test_forwarded_for_in_several_lines_is_one_list(tmp_path: Path, last: str) -> None:
    trusted: dict[str, Any] = {"gateway_trusted_proxies": "127.0.0.0/8", "gateway_rate_sign_in": "2/60"}
    async with gateway(tmp_path, None, **trusted) as door:
        door.services.handlers["auth"] = lambda *_: answer({})
        lines = [("X-Forwarded-For", one) for one in ("192.0.2.1", "198.51.100.7", last)]
        sent = [await door.http.post("/v1/tokens", json={}, headers=lines) for _ in range(3)]
        assert [one.status_code for one in sent] == [200, 200, 429]
        assert {seen[3]["client-address"] for seen in door.services.seen} == {"198.51.100.7"}
        assert (await door.http.post("/v1/tokens", json={}, headers=lines[:1])).status_code == 200


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Idempotency-Key"])
async def test_what_could_mean_two_things_is_refused(tmp_path: Path, name: str) -> None:
    async with gateway(tmp_path) as door:
        headers = {"Authorization": f"Bearer {door.token()}", "Content-Type": "application/json"}
        headers["Idempotency-Key"] = "k"
        twice = [*headers.items(), (name, headers[name])]
        got = await door.http.post("/v1/batches", content=b"{}", headers=twice)
        assert (got.status_code, got.json()["type"].rpartition("/")[2]) == (400, "bad-request")
        assert (await door.http.post("/oauth/token", content=b"a=b", headers=twice)).status_code == 400


# one secret by many spellings


async def test_a_key_has_one_limit_however_its_header_is_spelt(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_key="2/60") as door:
        door.services.handlers["auth"] = lambda *_: VERIFIED
        key = new_api_key()
        spellings = [f"Bearer {key}", f"bearer  {key}", f"BEARER {key}", f"Bearer   {key}"]
        assert [await whoami(door, ("Authorization", one)) for one in spellings] == [200, 200, 429, 429]
        assert await whoami(door, ("Authorization", f"Bearer {new_api_key()}")) == 200


async def test_a_clients_tokens_have_one_limit_however_many_it_gets(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_key="2/60") as door:
        tokens = [door.token("p1", client_id="p1") for _ in range(3)]
        found = [await whoami(door, ("Authorization", f"Bearer {one}")) for one in tokens]
        assert found == [200, 200, 429]


@pytest.mark.parametrize("end", ["\u00a0", "\u0085", "\u001f", " "])
async def test_a_key_ends_where_it_ends(tmp_path: Path, end: str) -> None:
    async with gateway(tmp_path) as door:
        door.services.handlers["auth"] = lambda *_: VERIFIED
        spelt = f"Bearer {new_api_key()}{end}x".encode("latin-1").removesuffix(b"x")
        got = await door.http.get("/v1/whoami", headers=[(b"authorization", spelt)])
        assert got.status_code == 401


class Counted:
    """Takes every token, and counts how often it looked."""

    looked = 0

    async def identity(self, _: str) -> Identity:
        self.looked += 1
        return Identity(Caller(USER, None, frozenset(), "ses_1"), float("inf"))


async def test_one_token_in_many_spellings_is_remembered_once(tmp_path: Path) -> None:
    tokens = Counted()
    access = Access(tokens, tokens, Revocations(), Grants(), Partners())
    for _ in range(2):
        await access.identity(b"Bearer t")
    assert tokens.looked == 1
    for _ in range(2):
        await access.identity(b"Bearer  t")
    assert tokens.looked == 3
    async with gateway(tmp_path) as door:
        spelt = f"Bearer   {door.token()}"
        assert await whoami(door, ("Authorization", spelt)) == 200
        assert spelt.encode() not in door.running.app.state.rates.good


# all at once


async def test_no_more_unknown_keys_are_asked_about_at_once_than_may_fail(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_failed="3/60") as door:
        asked, may_answer = list[str](), asyncio.Event()

        async def send(service: str, method: str, target: str, *_: Any) -> Answer:
            asked.append(target)
            await may_answer.wait()
            return answer({}, 404)

        door.services.send = send
        calls = [asyncio.create_task(whoami(door, ("Authorization", f"Bearer {new_api_key()}"))) for _ in range(20)]
        await eventually(lambda: sum(one.done() for one in calls) == 17)
        may_answer.set()
        assert sorted(await asyncio.gather(*calls)) == [401] * 3 + [429] * 17
        assert len(asked) == 3


async def test_what_was_good_in_the_end_was_no_failure(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_failed="1/60") as door:
        door.services.handlers["auth"] = lambda *_: VERIFIED
        assert [await whoami(door, ("Authorization", f"Bearer {new_api_key()}")) for _ in range(3)] == [200] * 3


async def test_callers_wait_for_silent_auth_together(tmp_path: Path) -> None:
    common_settings(tmp_path)
    fetched, may_fail = list[int](), asyncio.Event()

    async def silent() -> dict[str, Any]:
        fetched.append(1)
        await may_fail.wait()
        raise Unanswered("auth")

    verifier = TokenVerifier(silent, issuer="i", audience="a")
    key = load_private_jwk(tmp_path / "auth.jwk")
    token = sign_access_token(key, issuer="i", audience="a", user_id=USER, scopes=())
    calls = [asyncio.create_task(verifier.identity(token)) for _ in range(20)]
    await eventually(lambda: bool(fetched))
    may_fail.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [one.status for one in found if isinstance(one, Problem)] == [503] * 20
    assert len(fetched) <= 2


# long answers


def test_one_caller_holds_a_few_long_answers_and_leaves_the_others_theirs() -> None:
    flows = Flows()
    mine = [flows.begin(Caller(USER)) for _ in range(MAX_FLOWING_EACH)]
    with pytest.raises(Problem) as refused:
        flows.begin(Caller(USER))
    assert (refused.value.status, refused.value.code) == (429, "too-many-long-answers")
    assert len({flows.begin(caller) for caller in (Caller("usr_2"), Caller(USER, "p1"), ANONYMOUS)}) == 3
    flows.end(mine[0])
    assert flows.begin(Caller(USER)) == mine[0]
