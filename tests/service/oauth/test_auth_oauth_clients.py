"""OAuth clients: how they prove who they are, their own tokens, calling tokens back and looking them up."""

import base64
from datetime import timedelta

import pytest

from services.auth.grants import grant_id
from shared.access_tokens import access_caller
from shared.callers import Caller
from tests.service.account_holder import Ada
from tests.service.oauth_edges import (
    OAT,
    REFUSED,
    RYE,
    SCOPES,
    SECRET,
    Client,
    claims,
    consented,
    error,
    is_active,
    tokens,
    with_partner,
)

UNKNOWN = (401, "invalid_client")


BAD_CLIENTS: dict[str, dict[str, str]] = {
    "no credentials": {},
    "a wrong secret": {"Client-Authorization": "Basic " + base64.b64encode(b"prt_oat:wrong").decode()},
    "another's secret": {"Client-Authorization": "Basic " + base64.b64encode(b"prt_none:a-secret-of-oat").decode()},
    "no secret": {"Client-Authorization": "Basic " + base64.b64encode(b"prt_oat:").decode()},
    "no colon": {"Client-Authorization": "Basic " + base64.b64encode(b"prt_oat").decode()},
    "not base64": {"Client-Authorization": "Basic !!!"},
    "not UTF-8": {"Client-Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
    "another scheme": {"Client-Authorization": "Bearer mmt_x"},
}


@pytest.mark.parametrize("headers", BAD_CLIENTS.values(), ids=BAD_CLIENTS.keys())
@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/revoke", "/oauth/introspect"])
async def test_only_known_clients_are_answered(client: Client, headers: dict[str, str], path: str) -> None:
    answer = await client.post_as(path, headers, grant_type="client_credentials", token="x")
    assert error(answer) == UNKNOWN
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_a_client_proves_itself_in_one_way(ada: Ada, client: Client) -> None:
    posted = await client.post_as(
        "/oauth/token", {}, grant_type="client_credentials", client_id=OAT, client_secret=SECRET
    )
    assert posted.status_code == 200
    twice = await client.post("/oauth/token", grant_type="client_credentials", client_secret=SECRET)
    assert error(twice) == (400, "invalid_request")
    other = await client.post("/oauth/token", grant_type="client_credentials", client_id=RYE)
    assert error(other) == (400, "invalid_request")
    escaped = await client.post(
        "/oauth/token", basic=("prt%5Foat", "a%2Dsecret-of-oat"), grant_type="client_credentials"
    )
    assert escaped.status_code == 200


@pytest.mark.parametrize(("state", "word"), [("pending", "approve"), ("suspended", "suspended")])
async def test_only_whoever_has_the_secret_is_told_why_a_client_gets_nothing(
    ada: Ada, client: Client, state: str, word: str
) -> None:
    await with_partner(ada, state=state)
    for path in ("/oauth/token", "/oauth/revoke", "/oauth/introspect"):
        right = await client.post(path, grant_type="client_credentials", token="x")
        assert error(right) == UNKNOWN
        assert word in right.json()["error_description"]
        wrong = await client.post(path, basic=(OAT, "wrong"), grant_type="client_credentials", token="x")
        nobody = await client.post(path, basic=("prt_none", SECRET), grant_type="client_credentials", token="x")
        assert error(wrong) == UNKNOWN
        assert wrong.json() == nobody.json()
        assert wrong.json()["error_description"] == "The client's id or secret is wrong."


async def test_a_form_that_cannot_be_read_is_refused(ada: Ada, client: Client) -> None:
    presented = "Basic " + base64.b64encode(f"{OAT}:{SECRET}".encode()).decode()
    headers = ada.service.headers() | {"Client-Authorization": presented}
    for body in (b"\xff=1", b"grant_type=%ff", b"&".join(b"a%d=1" % n for n in range(40)), b"token=1&token=2"):
        answer = await ada.service.http.post("/oauth/token", content=body, headers=headers)
        assert error(answer) == (400, "invalid_request")
    assert error(await client.post("/oauth/token")) == (400, "invalid_request")
    for unknown in ("password", "implicit", "urn:ietf:params:oauth:grant-type:device_code"):
        assert error(await client.post("/oauth/token", grant_type=unknown)) == (400, "unsupported_grant_type")


async def test_a_partners_own_token_has_its_own_scopes(client: Client) -> None:
    answer = await client.post("/oauth/token", grant_type="client_credentials")
    told = answer.json()
    assert set(told) == {"access_token", "token_type", "expires_in", "scope"}
    found = claims(told["access_token"])
    assert (found["sub"], found["client_id"]) == (OAT, OAT)
    assert "sid" not in found
    assert access_caller(found) == Caller(None, OAT, frozenset(SCOPES))
    fewer = (await client.post("/oauth/token", grant_type="client_credentials", scope="webhooks:write")).json()
    assert fewer["scope"] == claims(fewer["access_token"])["scope"] == "webhooks:write"
    for scope in ("photos:read", "profile:read", "operator", "days:read operator", " "):
        answer = await client.post("/oauth/token", grant_type="client_credentials", scope=scope)
        assert error(answer) == (400, "invalid_scope")


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_a_client_calls_its_tokens_back_by_any_of_them(ada: Ada, client: Client, rye: Client, which: str) -> None:
    first = await tokens(ada, client)
    other = await tokens(ada, client)
    assert (await rye.post("/oauth/revoke", token=first[which])).status_code == 200
    assert await is_active(client, first["access_token"])
    for _ in range(2):
        assert (await client.post("/oauth/revoke", token=first[which], token_type_hint="x")).status_code == 200
        assert not await is_active(client, first["access_token"])
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    assert (await client.refresh(other["refresh_token"])).status_code == 200
    granted = await ada.service.app.state.deps.store.grant(grant_id(ada.user_id, OAT))
    assert granted.revoked_at is None


async def test_revoking_what_is_none_of_its_tokens_is_answered_alike(ada: Ada, client: Client) -> None:
    own = (await ada.sign_in()).json()
    for token in ("junk", own["refresh_token"], own["access_token"], "mmr_" + "a" * 92):
        assert (await client.post("/oauth/revoke", token=token)).status_code == 200
    assert (await ada.refresh(own)).status_code == 200
    assert error(await client.post("/oauth/revoke")) == (400, "invalid_request")


async def test_introspection_says_what_the_user_grants_now(ada: Ada, client: Client) -> None:
    token = (await tokens(ada, client))["access_token"]
    await consented(ada, client, scope="diary:read")
    assert (await client.post("/oauth/introspect", token=token)).json()["scope"] == "diary:read"
    await consented(ada, client, scope="ledger:read")
    assert not await is_active(client, token)


async def test_introspection_tells_a_client_of_its_own_tokens_alone(ada: Ada, client: Client, rye: Client) -> None:
    first, own = await tokens(ada, client), (await ada.sign_in()).json()
    told = (await client.post("/oauth/introspect", token=first["access_token"])).json()
    found = claims(first["access_token"])
    assert told == {"active": True, "token_type": "Bearer"} | {
        name: found[name] for name in ("scope", "client_id", "sub", "iss", "aud", "exp", "iat", "jti")
    }
    refresh = (await client.post("/oauth/introspect", token=first["refresh_token"])).json()
    assert (refresh["active"], refresh["sub"], refresh["scope"]) == (True, ada.user_id, "days:read diary:read")
    mine = (await client.post("/oauth/token", grant_type="client_credentials")).json()
    assert await is_active(client, mine["access_token"])
    for token in (first["access_token"], first["refresh_token"], mine["access_token"], "junk"):
        answer = await rye.post("/oauth/introspect", token=token)
        assert answer.json() == {"active": False}
    for token in (own["access_token"], own["refresh_token"], first["access_token"][:-4] + "AAAA"):
        assert not await is_active(client, token)
    ada.clock.ahead += timedelta(minutes=16)
    assert not await is_active(client, first["access_token"])
