"""Auth's part of an erasure: who may ask, what ends, and the proof that grows from what the services say."""

import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from services.auth.erasure_documents import LONGEST_MS, SERVICES
from services.auth.store import GRANTS, SESSIONS, USERS
from shared import topics
from shared.callers import SCOPES as ALL_SCOPES
from shared.callers import Caller
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.erasing_users import erase, finished, report, see, signed_in
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


async def test_erasing_needs_a_sign_in_of_the_last_ten_minutes(desk: Desk) -> None:
    ada = await signed_in(desk)
    desk.clock.ahead += timedelta(minutes=11)
    assert problem(await erase(desk, ada)) == (403, "sign-in-again")
    without = await desk.ask("DELETE", "/v1/me", user_id=ada.user_id)
    assert problem(without) == (403, "sign-in-again")
    assert (await erase(desk, await signed_in(desk, key=""))).status_code == 202


async def test_a_partner_cannot_erase_whoever_granted_it_something(desk: Desk) -> None:
    ada = await signed_in(desk)
    partner = await desk.active()
    token = desk.service.signer.token(Caller(ada.user_id, partner["partner_id"], frozenset(ALL_SCOPES)), "auth")
    answer = await desk.service.http.delete("/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert problem(answer) == (403, "insufficient-scope")


async def test_asking_twice_is_one_erasure(desk: Desk) -> None:
    ada = await signed_in(desk)
    first = await erase(desk, ada)
    await eventually(lambda: _ended(desk, ada))
    again = await erase(desk, ada)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    revoked = [json.loads(value) for value in desk.service.published[topics.REVOCATIONS.name]]
    assert {(one["reason"], one["erasure_id"]) for one in revoked} == {("erased", first.json()["erasure_id"])}


async def test_an_erasure_ends_when_every_service_has_spoken(desk: Desk) -> None:
    ada = await signed_in(desk)
    asked = (await erase(desk, ada)).json()
    for service in SERVICES:
        assert (await see(desk, asked["link"]))["state"] == "erasing"
        for _ in range(2):
            await report(desk, ada.user_id, service)
    seen = await eventually(lambda: finished(desk, asked["link"]))
    assert seen["waiting_for"] == []
    proof = (await desk.operate("GET", f"users/{ada.user_id}/erasure")).json()
    assert {one["service"]: one["documents"] for one in proof["services"]} == dict.fromkeys(SERVICES, 7)
    assert (proof["user_id"], proof["asked_by"], proof["state"]) == (ada.user_id, "user", "erased")
    assert "ada@" not in str(proof)
    documents = desk.service.app.state.deps.store.documents
    buried = await documents.get(USERS, ada.user_id)
    assert (buried.email, buried.email_hash, buried.password_hash, buried.outbox) == ("", None, "", ())
    for index in ("live", "ended"):
        assert await documents.count(SESSIONS, index, (ada.user_id,)) == 0


async def test_the_topics_are_said_to_forget_after_their_retention_and_that_of_dead_letters(desk: Desk) -> None:
    ada = await signed_in(desk)
    asked = (await erase(desk, ada)).json()
    for service in SERVICES:
        await report(desk, ada.user_id, service)
    seen = await eventually(lambda: finished(desk, asked["link"]))
    assert LONGEST_MS >= topics.LOG_RETENTION_MS + topics.DEAD_LETTER_RETENTION_MS
    assert seen["topics_expire_at"] > seen["finished_at"]


async def test_a_report_about_nobody_changes_nothing(desk: Desk) -> None:
    await report(desk, "usr_nobody", "ingest")
    assert problem(await desk.operate("GET", "users/usr_nobody/erasure")) == (404, "not-found")


async def test_an_erasure_is_seen_by_whoever_knows_its_id(desk: Desk) -> None:
    asked = (await erase(desk, await signed_in(desk))).json()
    assert (await see(desk, asked["link"]))["erasure_id"] == asked["erasure_id"]
    answer = await desk.service.http.get("/v1/erasures/ers_other", headers=desk.service.headers())
    assert problem(answer) == (404, "not-found")
    as_user = await desk.ask("GET", "/internal/users/x/erasure", user_id="x")
    assert problem(as_user) == (403, "insufficient-scope")


async def test_a_partner_erases_its_own_users_alone(desk: Desk) -> None:
    partner, other = await desk.active(), await desk.active("r2", contact="other@oat.example")
    made = await desk.ask("POST", "/v1/partner/users", {}, partner_id=partner["partner_id"], key="u1")
    path = f"/v1/partner/users/{made.json()['user_id']}"
    assert problem(await desk.ask("DELETE", path, partner_id=other["partner_id"])) == (404, "not-found")
    asked = await desk.ask("DELETE", path, partner_id=partner["partner_id"])
    assert asked.status_code == 202, asked.text
    documents = desk.service.app.state.deps.store.documents

    async def revoked() -> bool:
        page = await documents.find(GRANTS, "user", (made.json()["user_id"],))
        return bool(page.documents) and all(grant.revoked_at is not None for grant in page.documents)

    await eventually(revoked)
    again = await desk.ask("DELETE", path, partner_id=partner["partner_id"])
    assert again.json() == asked.json()
    assert problem(await desk.ask("DELETE", path, partner_id=other["partner_id"])) == (404, "not-found")
    ada = await signed_in(desk)
    of_ada = await desk.ask("DELETE", f"/v1/partner/users/{ada.user_id}", partner_id=partner["partner_id"])
    assert problem(of_ada) == (404, "not-found")


async def _ended(desk: Desk, caller: Caller) -> bool:
    session = await desk.service.app.state.deps.store.documents.get(SESSIONS, str(caller.session_id))
    return session is None or session.ended_at is not None
