"""Tokens of OAuth clients: exchange, rotation, replay, revocation, introspection, and what each of them refuses."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from services.auth import codes, enrolment, granting, issuing, sessions
from services.auth.codes import CODES, FORGET_INDEX, code_id
from services.auth.grants import grant_id
from services.auth.oauth_errors import OAuthError
from services.auth.session_documents import SESSIONS
from services.auth.store import Store
from shared.access_tokens import access_caller
from shared.callers import Caller
from tests.service.account_holder import Ada
from tests.service.oauth_edges import (
    CALLBACK,
    CHALLENGE,
    OAT,
    REFUSED,
    VERIFIER,
    Client,
    claims,
    consented,
    error,
    is_active,
    tokens,
    with_partner,
)


async def revoke_grant(ada: Ada) -> None:
    await granting.revoke(ada.service.app.state.deps, ada.user_id, grant_id(ada.user_id, OAT))


async def test_a_code_gives_tokens_as_the_contracts_have_them(ada: Ada, client: Client) -> None:
    answer = await client.exchange(await consented(ada, client))
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert (told["token_type"], told["expires_in"], told["scope"]) == ("Bearer", 900, "days:read diary:read")
    assert told["user_id"] == ada.user_id
    found = claims(told["access_token"])
    assert (found["sub"], found["client_id"], found["grant_revision"]) == (ada.user_id, OAT, 1)
    scopes = frozenset({"days:read", "diary:read"})
    assert access_caller(found) == Caller(ada.user_id, OAT, scopes, found["sid"])


async def test_a_code_used_twice_ends_what_it_gave_rise_to(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    first = (await client.exchange(code)).json()
    assert await is_active(client, first["access_token"])
    assert error(await client.exchange(code)) == REFUSED
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    assert not await is_active(client, first["access_token"])
    assert error(await client.exchange(code)) == REFUSED


async def test_of_many_uses_at_once_none_lives(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    answers = await asyncio.gather(*(client.exchange(code) for _ in range(20)))
    given = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(given) <= 1
    for one in given:
        assert error(await client.refresh(one["refresh_token"])) == REFUSED
    assert await sessions.live(ada.service.app.state.deps, ada.user_id) == []


class ReplayedMeanwhile:
    """The database, in which a code is used once more right before a session arises from it."""

    def __init__(self, documents: Any) -> None:
        self._documents = documents

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def insert(self, collection: Any, document: Any) -> Any:
        page = await self._documents.find(CODES, FORGET_INDEX)
        for code in page.documents:
            await self._documents.put(CODES, replace(code, replayed=True))
        return await self._documents.insert(collection, document)


async def test_a_second_use_in_the_midst_of_the_first_leaves_nothing(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    deps = ada.service.app.state.deps
    between = dataclasses.replace(deps, store=Store(ReplayedMeanwhile(deps.store.documents)))
    partner = await deps.store.partner(OAT)
    with pytest.raises(OAuthError, match="invalid_grant"):
        await issuing.exchanged(between, partner, code, CALLBACK, VERIFIER)
    assert await sessions.live(deps, ada.user_id) == []


WRONG = {
    "another verifier": {"code_verifier": "w" * 50},
    "the challenge itself": {"code_verifier": CHALLENGE},
    "another redirect URI": {"redirect_uri": CALLBACK + "/"},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG.keys())
async def test_a_code_sent_with_anything_wrong_is_used_up(ada: Ada, client: Client, changed: dict[str, str]) -> None:
    code = await consented(ada, client)
    assert error(await client.exchange(code, **changed)) == REFUSED
    assert error(await client.exchange(code)) == REFUSED


MISSING = {
    "no verifier": {"code_verifier": None},
    "a short verifier": {"code_verifier": "v" * 42},
    "a long verifier": {"code_verifier": "v" * 129},
    "a verifier of other characters": {"code_verifier": "v" * 49 + "="},
    "no redirect URI": {"redirect_uri": None},
    "no code": {"code": None},
}


@pytest.mark.parametrize("changed", MISSING.values(), ids=MISSING.keys())
async def test_an_incomplete_exchange_is_refused_and_uses_nothing_up(
    ada: Ada, client: Client, changed: dict[str, str | None]
) -> None:
    code = await consented(ada, client)
    assert error(await client.exchange(**{"code": code} | changed)) == (400, "invalid_request")
    assert (await client.exchange(code)).status_code == 200


async def test_a_code_is_good_for_a_minute(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    ada.clock.ahead += timedelta(seconds=61)
    assert error(await client.exchange(code)) == REFUSED


async def test_a_code_is_its_own_clients_alone(ada: Ada, client: Client, rye: Client) -> None:
    code = await consented(ada, client)
    assert error(await rye.exchange(code)) == REFUSED
    assert error(await client.exchange("mmc_made-up")) == REFUSED
    assert (await client.exchange(code)).status_code == 200


async def test_a_code_is_kept_by_its_hash_for_a_day(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    documents = ada.service.app.state.deps.store.documents
    assert (await documents.get(CODES, code_id(code))).user_id == ada.user_id
    assert not any(code.encode() in file.read_bytes() for file in ada.folder.glob("auth.sqlite*"))
    assert await codes.forget(documents, ada.clock() + timedelta(hours=23)) == 0
    assert await codes.forget(documents, ada.clock() + timedelta(hours=25)) == 1


async def test_a_code_is_worth_nothing_once_the_user_took_it_all_back(ada: Ada, client: Client) -> None:
    code = await consented(ada, client)
    await revoke_grant(ada)
    assert error(await client.exchange(code)) == REFUSED
    ended = await consented(ada, client)
    await sessions.end_all(ada.service.app.state.deps, ada.user_id, reason="password-changed")
    assert error(await client.exchange(ended)) == REFUSED


async def test_refreshing_rotates_and_may_narrow_but_not_widen(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    wide = await client.refresh(first["refresh_token"], scope="days:read ledger:read")
    assert error(wide) == (400, "invalid_scope")
    ada.clock.ahead += timedelta(minutes=1)  # the token was not used, so there is no grace that ends
    second = (await client.refresh(first["refresh_token"], scope="days:read")).json()
    assert second["scope"] == claims(second["access_token"])["scope"] == "days:read"
    third = (await client.refresh(second["refresh_token"])).json()
    assert third["scope"] == "days:read diary:read"
    assert len({one["refresh_token"] for one in (first, second, third)}) == 3
    assert len({claims(one["access_token"])["sid"] for one in (first, second, third)}) == 1
    assert third["user_id"] == ada.user_id


async def test_fifty_refreshes_at_once_leave_one_live_leaf(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    answers = await asyncio.gather(*(client.refresh(first["refresh_token"]) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    (leaf,) = {answer.json()["refresh_token"] for answer in answers}
    (session,) = await sessions.live(ada.service.app.state.deps, ada.user_id)
    assert session.token_hash == ada.service.app.state.deps.refresh_tokens.read(leaf).hash
    assert (await client.refresh(leaf)).status_code == 200


async def test_a_refresh_token_used_again_later_ends_the_family(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    second = (await client.refresh(first["refresh_token"])).json()
    ada.clock.ahead += timedelta(seconds=31)
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    assert error(await client.refresh(second["refresh_token"])) == REFUSED
    assert not await is_active(client, second["access_token"])


async def test_refresh_tokens_are_their_own_clients_alone(ada: Ada, client: Client, rye: Client) -> None:
    partners = await tokens(ada, client)
    own = (await ada.sign_in()).json()
    assert error(await rye.refresh(partners["refresh_token"])) == REFUSED
    assert error(await client.refresh(own["refresh_token"])) == REFUSED
    taken = await ada.refresh(partners)
    assert (taken.status_code, taken.json()["type"].rsplit("/", 1)[1]) == (401, "invalid-refresh-token")
    signed_out = await ada.service.http.post(
        "/v1/tokens/revoke", json={"refresh_token": partners["refresh_token"]}, headers=ada.service.headers()
    )
    assert signed_out.status_code == 204
    assert (await client.refresh(partners["refresh_token"])).status_code == 200
    assert (await ada.refresh(own)).status_code == 200


async def test_taking_a_grant_back_ends_the_family_and_a_new_one_does_not_bring_it_back(
    ada: Ada, client: Client
) -> None:
    first = await tokens(ada, client)
    await revoke_grant(ada)
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    assert not await is_active(client, first["access_token"])
    second = await tokens(ada, client)
    assert claims(second["access_token"])["grant_revision"] == 3
    assert not await is_active(client, first["access_token"])
    assert await is_active(client, second["access_token"])


@pytest.mark.parametrize("granted_anew", [False, True])
async def test_a_family_that_outlived_its_grant_is_ended_when_it_asks(
    ada: Ada, client: Client, granted_anew: bool
) -> None:
    """As it does when the grant is taken back at the very moment at which a code is exchanged."""
    first = await tokens(ada, client)
    documents = ada.service.app.state.deps.store.documents
    session = await documents.get(SESSIONS, claims(first["access_token"])["sid"])
    await documents.delete(SESSIONS, session.id)
    await revoke_grant(ada)
    await documents.insert(SESSIONS, session)
    assert not await is_active(client, first["refresh_token"])
    if granted_anew:
        await enrolment.grant(ada.service.app.state.deps, ada.user_id, "k2", OAT, ["days:read", "diary:read"])
        assert not await is_active(client, first["refresh_token"])
        assert not await is_active(client, first["access_token"])
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    assert (await documents.get(SESSIONS, session.id)).end_reason == "grant-revoked"


async def test_a_narrower_consent_narrows_what_is_issued_from_then_on(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    await enrolment.grant(ada.service.app.state.deps, ada.user_id, "k2", OAT, ["diary:read"])
    second = (await client.refresh(first["refresh_token"])).json()
    assert (second["scope"], claims(second["access_token"])["grant_revision"]) == ("diary:read", 2)
    await with_partner(ada, scopes=("days:read",))
    assert error(await client.refresh(second["refresh_token"])) == REFUSED


async def test_asking_for_what_is_granted_no_more_ends_nothing(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    await enrolment.grant(ada.service.app.state.deps, ada.user_id, "k2", OAT, ["diary:read"])
    assert error(await client.refresh(first["refresh_token"], scope="days:read")) == (400, "invalid_scope")
    again = await client.refresh(first["refresh_token"], scope="days:read diary:read")
    assert (again.status_code, again.json()["scope"]) == (200, "diary:read")


async def test_a_partner_pushes_out_its_own_sessions_alone(ada: Ada, client: Client) -> None:
    own = (await ada.sign_in()).json()
    first = await tokens(ada, client)
    for _ in range(sessions.MAX_LIVE_OF_PARTNER):
        ada.clock.ahead += timedelta(seconds=1)
        await tokens(ada, client)
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
    live = await sessions.live(ada.service.app.state.deps, ada.user_id)
    assert len([one for one in live if one.partner_id == OAT]) == sessions.MAX_LIVE_OF_PARTNER
    assert (await ada.refresh(own)).status_code == 200


async def test_users_see_a_partners_session_and_can_end_it(ada: Ada, client: Client) -> None:
    first = await tokens(ada, client)
    (shown,) = (await ada.ask("GET", "/v1/me/sessions")).json()["sessions"]
    assert (shown["partner_id"], shown["device"], shown["current"]) == (OAT, "Oat & Co", False)
    assert (await ada.ask("DELETE", f"/v1/me/sessions/{shown['session_id']}")).status_code == 204
    assert error(await client.refresh(first["refresh_token"])) == REFUSED
