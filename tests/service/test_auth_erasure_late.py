"""What comes late to an erasure: requests that hung all the while, and those that come again afterwards."""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.auth import enrolment, sessions
from services.auth.enrolment import Deps
from services.auth.erasure import Eraser
from services.auth.erasure_documents import SERVICES, Erasure, Report
from services.auth.store import GRANTS, LINES, SESSIONS, USERS, Store
from shared import topics
from shared.callers import Caller
from shared.clock import truncated
from shared.errors import Problem
from shared.objects import Objects
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.erasing_users import ADA, all_said, erased, signed_in
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


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

    async def meanwhile() -> None:
        await erased(desk, ada)

    return dataclasses.replace(deps, store=Store(Stuck(deps.store.documents, collection, meanwhile)))


async def test_a_sign_in_that_hung_all_the_while_starts_nothing(desk: Desk) -> None:
    ada = await signed_in(desk)
    user_id = str(ada.user_id)
    between, asked_at = _stuck(desk, SESSIONS, ada), desk.clock()
    with pytest.raises(Problem) as refused:
        await sessions.start(between, user_id, "phone", asked_at=asked_at)
    assert refused.value.code == "sessions-ended"
    await _nothing_left(desk, user_id)


async def test_a_grant_that_hung_all_the_while_ends_and_is_deleted_from_its_topic(desk: Desk) -> None:
    partner, ada = await desk.active(), await signed_in(desk)
    user_id = str(ada.user_id)
    given = await enrolment.grant(_stuck(desk, GRANTS, ada), user_id, "k", partner["partner_id"], ["days:read"])
    await _nothing_left(desk, user_id)
    published = desk.service.published[topics.GRANTS.name]
    assert published[-1] in (None, b"")
    assert [b'"revoked_at":null' in one for one in published if one and given.id.encode() in one] == [True, False]


async def test_a_grant_that_comes_behind_the_null_records_is_deleted_from_its_topic(desk: Desk, tmp_path: Path) -> None:
    partner, ada = await desk.active(), await signed_in(desk)
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
    ada = await signed_in(desk)
    with pytest.raises(Problem) as refused:
        await enrolment.sign_in(_stuck(desk, USERS, ada), ADA["email"], ADA["password"], address="198.51.100.7")
    assert refused.value.code == "wrong-credentials"
    assert await desk.service.app.state.deps.store.guesses(f"account-{ada.user_id}") is None


async def test_what_another_process_may_be_publishing_of_the_user_goes_before_the_tombstone(
    desk: Desk, tmp_path: Path
) -> None:
    """Else that user's profile could be the last of its key in the topic, for good."""
    ada = await signed_in(desk)
    documents, now = desk.service.app.state.deps.store.documents, desk.clock()
    user = await documents.get(USERS, str(ada.user_id))
    leased_until = truncated(now + timedelta(minutes=10))
    await documents.put(USERS, replace(user, outbox_at=leased_until))
    erasure = Erasure(id="e1", user_id=user.id, asked_at=now, asked_by="user", state="asked", due_at=now)
    await Eraser(desk.service.app.state.deps, Objects(f"file:///{tmp_path}/objects")).work(erasure)
    buried = await documents.get(USERS, user.id)
    assert (buried.email, len(buried.outbox), buried.outbox_at) == ("", 1, leased_until)


async def test_the_address_is_free_for_another_account(desk: Desk) -> None:
    ada = await signed_in(desk)
    await erased(desk, ada)
    assert (await signed_in(desk, key="ada again")).user_id != ada.user_id


@pytest.mark.parametrize("managed", [False, True])
async def test_nobody_comes_back_under_the_id_of_an_erased_user(desk: Desk, managed: bool) -> None:
    """Else whoever erased that one too would be shown the proof of the first time."""
    partner_id = (await desk.active())["partner_id"]
    path, caller = "/v1/partner/users", {"partner_id": partner_id, "key": "u1"}
    if managed:
        user_id = (await desk.ask("POST", path, {}, **caller)).json()["user_id"]
        asked = await desk.ask("DELETE", f"{path}/{user_id}", partner_id=partner_id)
        await all_said(desk, user_id, asked.json()["link"])
    else:
        user_id = str((ada := await signed_in(desk)).user_id)
        await erased(desk, ada)
    for days in (0, 31):
        desk.clock.ahead += timedelta(days=days)
        if days:
            await eventually(lambda: _tombstone_gone(desk, user_id))
        if managed:
            again = await desk.ask("POST", path, {}, **caller)
        else:
            again = await desk.ask("POST", "/v1/users", ADA, key="ada")
        assert problem(again) == (409, "user-erased")


async def _tombstone_gone(desk: Desk, user_id: str) -> bool:
    return await desk.service.app.state.deps.store.documents.get(USERS, user_id) is None


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
