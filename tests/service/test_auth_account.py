"""A user's own profile and password on the real app."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.auth.session_documents import CUTOFFS
from shared import topics
from shared.documents import Collection, Documents
from shared.errors import Unavailable
from tests.polling import eventually
from tests.service.account_holder import EMAIL, OTHER, PASSWORD, Ada, auth_of
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, MovableClock()) as one:
        yield one


# profile


async def test_a_profile_is_changed_field_by_field_and_told(ada: Ada) -> None:
    changed = await ada.ask("PATCH", "/v1/me", {"home_zone": "Europe/Berlin", "height_cm": "171.5"})
    assert changed.status_code == 200
    await ada.ask("PATCH", "/v1/me", {"height_cm": None, "sex": "female"})
    me = (await ada.ask("GET", "/v1/me")).json()
    assert me["email"] == EMAIL
    assert me["profile"] | {"locale": "en"} == {
        "sex": "female",
        "birth_date": None,
        "height_cm": None,
        "locale": "en",
        "home_zone": "Europe/Berlin",
    }
    await eventually(lambda: len(ada.service.published[topics.USERS.name]) >= 3)
    told = [json.loads(value) for value in ada.service.published[topics.USERS.name]]
    assert [(one["revision"], one["profile"]["home_zone"]) for one in told] == [
        (1, "UTC"),
        (2, "Europe/Berlin"),
        (3, "Europe/Berlin"),
    ]
    assert "example.org" not in json.dumps(told)


async def test_the_same_change_twice_is_one_revision(ada: Ada) -> None:
    for _ in range(2):
        await ada.ask("PATCH", "/v1/me", {"locale": "de"})
    await ada.ask("PATCH", "/v1/me", {"locale": "fr"})
    await eventually(lambda: len(ada.service.published[topics.USERS.name]) >= 3)
    assert [json.loads(value)["revision"] for value in ada.service.published[topics.USERS.name]] == [1, 2, 3]


@pytest.mark.parametrize(
    "body",
    [
        {"revision": 9},
        {"email": "eve@example.org"},
        {"password_hash": "x"},
        {"second_factor": None},
        {"id": "usr_other"},
        {"user_id": "usr_other"},
        {"profile": {"sex": "female"}},
        {"home_zone": None},
        {"locale": None},
        {"home_zone": "Europe/Nowhere"},
        {"birth_date": "1850-01-01"},
        {"height_cm": -1},
        {"height_cm": "NaN"},
        {"sex": "x"},
        [],
    ],
)
async def test_a_bad_profile_and_foreign_fields_are_refused(ada: Ada, body: Any) -> None:
    before = (await ada.ask("GET", "/v1/me")).json()
    assert problem(await ada.ask("PATCH", "/v1/me", body)) == (422, "invalid-request")
    assert (await ada.ask("GET", "/v1/me")).json() == before


ROUTES = [
    ("GET", "/v1/me", None),
    ("PATCH", "/v1/me", {"locale": "de"}),
    ("PUT", "/v1/me/password", {"password": PASSWORD, "new_password": OTHER}),
    ("POST", "/v1/me/second-factor", {"password": PASSWORD}),
    ("POST", "/v1/me/second-factor/confirmations", {"code": "123456"}),
    ("POST", "/v1/me/second-factor/recovery-codes", {"password": PASSWORD}),
    ("POST", "/v1/me/second-factor/removals", {"password": PASSWORD}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_only_the_users_own_app_may(ada: Ada, method: str, path: str, body: Any) -> None:
    for caller in ({"partner_id": "p"}, {"scopes": ("days:read",)}, {"user_id": None}):
        assert problem(await ada.ask(method, path, body, **caller)) == (403, "insufficient-scope")
    assert problem(await ada.ask(method, path, body, user_id="usr_gone")) == (404, "not-found")
    assert problem(await ada.service.http.request(method, path, json=body))[0] == 401
    if body is not None:
        answer = await ada.ask(method, path, body | {"more": 1})
        assert problem(answer) == (422, "invalid-request")
        assert PASSWORD not in answer.text


# passwords


async def test_a_changed_password_counts_and_ends_the_other_sessions(ada: Ada) -> None:
    tokens = (await ada.sign_in()).json()
    answer = await ada.ask("PUT", "/v1/me/password", {"password": PASSWORD, "new_password": OTHER})
    assert answer.status_code == 204
    assert (await ada.refresh(tokens)).status_code == 401
    assert problem(await ada.sign_in()) == (401, "wrong-credentials")
    assert (await ada.sign_in(password=OTHER)).status_code == 200
    await eventually(lambda: len(ada.letters("was changed")) == 1)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"password": "wrong", "new_password": OTHER}, 403, "wrong-password"),
        ({"password": PASSWORD, "new_password": "short"}, 422, "password-too-short"),
        ({"password": PASSWORD, "new_password": "passwordpassword"}, 422, "password-too-common"),
        ({"password": PASSWORD, "new_password": "ada@example.org ada"}, 422, "password-too-common"),
        ({"password": PASSWORD, "new_password": "x" * 1025}, 422, "password-too-long"),
        ({"password": PASSWORD, "new_password": "violet\ttractor hums"}, 422, "password-not-printable"),
        ({"new_password": OTHER}, 422, "invalid-request"),
    ],
)
async def test_a_bad_change_of_password(ada: Ada, body: Any, status: int, code: str) -> None:
    assert problem(await ada.ask("PUT", "/v1/me/password", body)) == (status, code)
    assert (await ada.sign_in()).status_code == 200


async def test_a_stolen_token_does_not_try_passwords_for_long(ada: Ada) -> None:
    body = {"password": "wrong", "new_password": OTHER}
    answers = [problem(await ada.ask("PUT", "/v1/me/password", body)) for _ in range(12)]
    assert answers[-2:] == [(429, "too-many-attempts")] * 2


async def test_of_two_changes_at_once_one_counts(ada: Ada) -> None:
    news = [f"{OTHER} {number}" for number in range(4)]
    answers = await asyncio.gather(
        *(ada.ask("PUT", "/v1/me/password", {"password": PASSWORD, "new_password": new}) for new in news)
    )
    assert sorted(answer.status_code for answer in answers) == [204, 403, 403, 403]


class FailsAt:
    """The database, whose `nth` writing of when all sessions ended fails."""

    def __init__(self, documents: Documents, nth: int) -> None:
        self._documents = documents
        self._left = nth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put(self, collection: Collection[Any], document: Any) -> Any:
        if collection is CUTOFFS:
            self._left -= 1
            if self._left == 0:
                raise Unavailable("database")
        return await self._documents.put(collection, document)


@pytest.mark.parametrize(("nth", "again"), [(1, 204), (2, 403)], ids=["before", "behind"])
async def test_no_session_outlives_a_change_of_password_that_is_cut_off(ada: Ada, nth: int, again: int) -> None:
    """`nth`: the failure comes before the new password is written, or behind it."""
    thiefs = (await ada.sign_in()).json()
    deps = ada.service.app.state.deps
    failing = FailsAt(deps.store.documents, nth)
    ada.service.app.state.deps = replace(deps, store=replace(deps.store, documents=failing))
    body = {"password": PASSWORD, "new_password": OTHER}
    assert (await ada.ask("PUT", "/v1/me/password", body)).status_code == 503
    assert (await ada.ask("PUT", "/v1/me/password", body)).status_code == again
    assert (await ada.refresh(thiefs)).status_code == 401
    assert (await ada.sign_in(password=OTHER)).status_code == 200


async def test_no_session_outlives_a_reset_that_is_cut_off(ada: Ada) -> None:
    thiefs = (await ada.sign_in()).json()
    await ada.ask_for_reset()
    token = await ada.reset_token()
    deps = ada.service.app.state.deps
    ada.service.app.state.deps = replace(deps, store=replace(deps.store, documents=FailsAt(deps.store.documents, 1)))
    assert (await ada.reset(token)).status_code == 503
    assert (await ada.reset(token)).status_code == 204
    assert (await ada.refresh(thiefs)).status_code == 401
    assert (await ada.sign_in(password=OTHER)).status_code == 200
