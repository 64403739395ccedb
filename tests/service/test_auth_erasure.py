"""Auth's part of an erasure: who may ask, what ends, and the proof that grows from what the services say."""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.auth import enrolment, sessions
from services.auth.enrolment import Deps
from services.auth.erasure import Eraser
from services.auth.erasure_documents import LONGEST_MS, SERVICES, Erasure, Report
from services.auth.store import GRANTS, LINES, SESSIONS, USERS, Store
from shared import topics
from shared.clock import utc_now
from shared.errors import Problem
from shared.events import UserDataErased
from shared.identity import SCOPES as ALL_SCOPES
from shared.identity import Caller
from shared.objects import Objects
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import Desk, desk_of, problem

ADA = {"email": "ada@example.org", "password": "violet tractor hums at noon"}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


async def test_erasing_needs_a_sign_in_of_the_last_ten_minutes(desk: Desk) -> None:
    ada = await _signed_in(desk)
    desk.clock.ahead += timedelta(minutes=11)
    assert problem(await _erase(desk, ada)) == (403, "sign-in-again")
    without = await desk.ask("DELETE", "/v1/me", user_id=ada.user_id)
    assert problem(without) == (403, "sign-in-again")
    assert (await _erase(desk, await _signed_in(desk, key=""))).status_code == 202


async def test_a_partner_cannot_erase_whoever_granted_it_something(desk: Desk) -> None:
    ada = await _signed_in(desk)
    partner = await desk.active()
    token = desk.service.signer.token(Caller(ada.user_id, partner["partner_id"], frozenset(ALL_SCOPES)), "auth")
    answer = await desk.service.http.delete("/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert problem(answer) == (403, "insufficient-scope")


async def test_asking_twice_is_one_erasure(desk: Desk) -> None:
    ada = await _signed_in(desk)
    first = await _erase(desk, ada)
    await eventually(lambda: _ended(desk, ada))
    again = await _erase(desk, ada)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()


async def test_an_erasure_ends_when_every_service_has_spoken(desk: Desk) -> None:
    ada = await _signed_in(desk)
    asked = (await _erase(desk, ada)).json()
    for service in SERVICES:
        assert (await _see(desk, asked["link"]))["state"] == "erasing"
        for _ in range(2):
            await _report(desk, ada.user_id, service)
    seen = await eventually(lambda: _finished(desk, asked["link"]))
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
    ada = await _signed_in(desk)
    asked = (await _erase(desk, ada)).json()
    for service in SERVICES:
        await _report(desk, ada.user_id, service)
    seen = await eventually(lambda: _finished(desk, asked["link"]))
    assert LONGEST_MS >= topics.LOG_RETENTION_MS + topics.DEAD_LETTER_RETENTION_MS
    assert seen["topics_expire_at"] > seen["finished_at"]


async def test_a_report_about_nobody_changes_nothing(desk: Desk) -> None:
    await _report(desk, "usr_nobody", "ingest")
    assert problem(await desk.operate("GET", "users/usr_nobody/erasure")) == (404, "not-found")


async def test_an_erasure_is_seen_by_whoever_knows_its_id(desk: Desk) -> None:
    asked = (await _erase(desk, await _signed_in(desk))).json()
    assert (await _see(desk, asked["link"]))["erasure_id"] == asked["erasure_id"]
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
    ada = await _signed_in(desk)
    of_ada = await desk.ask("DELETE", f"/v1/partner/users/{ada.user_id}", partner_id=partner["partner_id"])
    assert problem(of_ada) == (404, "not-found")


class Stuck:
    """The database, at whose next write to `collection` a request hangs while `meanwhile` happens."""

    def __init__(self, documents: Any, collection: Any, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._documents = documents
        self._name = collection.name
        self._waiting = [meanwhile]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def insert(self, collection: Any, document: Any) -> Any:
        await self._hang(collection)
        return await self._documents.insert(collection, document)

    async def put_many(self, puts: Any) -> Any:
        for put in puts:
            await self._hang(put.collection)
        return await self._documents.put_many(puts)

    async def _hang(self, collection: Any) -> None:
        if collection.name == self._name and self._waiting:
            await self._waiting.pop()()


def _stuck(desk: Desk, collection: Any, ada: Caller) -> Deps:
    """Auth, whose next write to `collection` hangs while all of the user's erasure happens."""
    deps = desk.service.app.state.deps

    async def erased() -> None:
        await _erased(desk, ada)

    return dataclasses.replace(deps, store=Store(Stuck(deps.store.documents, collection, erased)))  # type: ignore[arg-type]


async def test_a_sign_in_that_hung_all_the_while_starts_nothing(desk: Desk) -> None:
    ada = await _signed_in(desk)
    user_id = str(ada.user_id)
    between, asked_at = _stuck(desk, SESSIONS, ada), desk.clock()
    with pytest.raises(Problem) as refused:
        await sessions.start(between, user_id, "phone", asked_at=asked_at)
    assert refused.value.code == "sessions-ended"
    await _nothing_left(desk, user_id)


async def test_a_grant_that_hung_all_the_while_ends_and_is_deleted_from_its_topic(desk: Desk) -> None:
    partner, ada = await desk.active(), await _signed_in(desk)
    user_id = str(ada.user_id)
    given = await enrolment.grant(_stuck(desk, GRANTS, ada), user_id, "k", partner["partner_id"], ["days:read"])
    await _nothing_left(desk, user_id)
    published = desk.service.published[topics.GRANTS.name]
    assert published[-1] in (None, b"")
    assert [b'"revoked_at":null' in one for one in published if one and given.id.encode() in one] == [True, False]


async def test_a_grant_that_comes_behind_the_null_records_is_deleted_from_its_topic(desk: Desk, tmp_path: Path) -> None:
    partner, ada = await desk.active(), await _signed_in(desk)
    deps, user_id, now = desk.service.app.state.deps, str(ada.user_id), desk.clock()
    said = Report(documents=0, objects=0, finished_at=now)
    erasure = Erasure(
        id="e1",
        user_id=user_id,
        asked_at=now,
        asked_by="user",
        state="ending",
        reports=dict.fromkeys(SERVICES, said),
        due_at=now,
    )
    await enrolment.grant(deps, user_id, "k", partner["partner_id"], ["days:read"])
    eraser = Eraser(deps, Objects(f"file:///{tmp_path}/objects"))

    async def gone() -> bool:
        return (await eraser.work(erasure)).state == "gone"

    await eventually(gone)
    assert await deps.store.documents.count(GRANTS, "user", (user_id,)) == 0
    assert desk.service.published[topics.GRANTS.name][-1] in (None, b"")


async def test_a_password_that_was_right_before_the_erasure_signs_nobody_in(desk: Desk) -> None:
    ada = await _signed_in(desk)
    with pytest.raises(Problem) as refused:
        await enrolment.sign_in(_stuck(desk, USERS, ada), ADA["email"], ADA["password"], address="198.51.100.7")
    assert refused.value.code == "wrong-credentials"
    assert await desk.service.app.state.deps.store.guesses(f"account-{ada.user_id}") is None


async def test_the_address_is_free_and_the_old_request_makes_nobody(desk: Desk) -> None:
    ada = await _signed_in(desk)
    await _erased(desk, ada)
    headers = desk.service.headers(key="ada")
    assert problem(await desk.service.http.post("/v1/users", json=ADA, headers=headers)) == (409, "user-erased")
    assert (await _signed_in(desk, key="ada again")).user_id != ada.user_id


async def _erased(desk: Desk, ada: Caller) -> None:
    asked = (await _erase(desk, ada)).json()
    for service in SERVICES:
        await _report(desk, ada.user_id, service)
    await eventually(lambda: _finished(desk, asked["link"]))


async def _nothing_left(desk: Desk, user_id: str) -> None:
    """Nothing is, once auth looked again."""
    documents = desk.service.app.state.deps.store.documents
    desk.clock.ahead += timedelta(minutes=11)

    async def nothing() -> bool:
        left = [await documents.count(SESSIONS, index, (user_id,)) for index in ("live", "ended")]
        left.append(await documents.count(GRANTS, "user", (user_id,)))
        lines = (await documents.find(LINES, "user", (user_id,))).documents
        return not any(left) and [line.kind for line in lines] == ["account-erased"]

    await eventually(nothing)


async def _signed_in(desk: Desk, key: str = "ada") -> Caller:
    headers = desk.service.headers(key=key or "ada")
    made = await desk.service.http.post("/v1/users", json=ADA, headers=headers)
    assert made.status_code == 201, made.text
    signed = await desk.service.http.post("/v1/tokens", json=ADA, headers=desk.service.headers())
    return Caller(made.json()["user_id"], None, frozenset(ALL_SCOPES), signed.json()["session_id"])


async def _erase(desk: Desk, caller: Caller) -> Any:
    token = desk.service.signer.token(caller, "auth")
    return await desk.service.http.delete("/v1/me", headers={"Authorization": f"Bearer {token}"})


async def _see(desk: Desk, link: str) -> dict[str, Any]:
    answer = await desk.service.http.get(link, headers=desk.service.headers())
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _finished(desk: Desk, link: str) -> dict[str, Any]:
    seen = await _see(desk, link)
    return seen if seen["state"] == "erased" else {}


async def _ended(desk: Desk, caller: Caller) -> bool:
    session = await desk.service.app.state.deps.store.documents.get(SESSIONS, str(caller.session_id))
    return session is None or session.ended_at is not None


async def _report(desk: Desk, user_id: str | None, service: str) -> None:
    event = UserDataErased(
        event_id=f"{service} {user_id}",
        occurred_at=utc_now(),
        user_id=str(user_id),
        service=service,
        documents=7,
        objects=0,
        finished_at=utc_now(),
    )
    await desk.service.send(topics.ERASURES[service], event)
