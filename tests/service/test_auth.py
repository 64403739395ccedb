"""Auth as it runs: accounts, tokens, partners, grants, and what it publishes of them."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.auth.settings import Settings
from services.auth.store import USERS
from shared import topics
from shared.access_tokens import ACCESS_TYPE, access_caller
from shared.callers import PARTNER_SCOPES, SCOPES
from shared.documents import open_documents
from shared.events.auth import UserUpdated
from shared.keys import load_jwks, new_api_key
from shared.tokens import verified
from tests.polling import eventually
from tests.service.auth_edges import auth_in, problem
from tests.service.running import Running

PASSWORD = "violet tractor hums at noon"
EMAIL = "Ada@Example.org"
GRANT = {"partner_id": "demo-partner", "scopes": ["days:read", "ledger:read"]}


def auth(folder: Path, **changed: Any) -> AbstractAsyncContextManager[Running]:
    listen = (topics.USERS, topics.PARTNERS, topics.GRANTS)
    return auth_in(folder, listen=listen, auth_demo_partner_key_path=folder / "demo-partner.key", **changed)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with auth(tmp_path) as one:
        yield one


async def post(service: Running, path: str, body: Any, **caller: Any) -> Any:
    return await service.http.post(path, json=body, headers=service.headers(**caller))


async def sign_up(service: Running, key: str | None = "k1", **changed: Any) -> Any:
    return await post(service, "/v1/users", {"email": EMAIL, "password": PASSWORD} | changed, key=key)


async def published(service: Running, topic: topics.Topic, count: int) -> list[Any]:
    await eventually(lambda: len(service.published[topic.name]) >= count)
    return [json.loads(value) for value in service.published[topic.name]]


async def test_sign_up_answers_and_tells_the_others(service: Running) -> None:
    profile = {"sex": "female", "birth_date": "1990-12-10", "height_cm": "171.5", "home_zone": "Europe/Berlin"}
    answer = await sign_up(service, profile=profile)
    assert answer.status_code == 201
    user_id = answer.json()["user_id"]
    assert user_id.startswith("usr_")
    assert answer.json()["profile"]["home_zone"] == "Europe/Berlin"
    (told,) = await published(service, topics.USERS, 1)
    event = UserUpdated.model_validate(told)
    assert (event.user_id, event.revision, str(event.profile.height_cm)) == (user_id, 1, "171.5")
    assert "example" not in json.dumps(told).lower()


async def test_the_same_sign_up_gives_the_same_answer(service: Running) -> None:
    first, second = await sign_up(service), await sign_up(service, email=" ada@example.ORG ")
    assert (second.status_code, second.json()) == (201, first.json())
    await published(service, topics.USERS, 1)


async def test_five_equal_sign_ups_at_once_make_one_user(service: Running) -> None:
    answers = await asyncio.gather(*(sign_up(service) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["user_id"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "changed", [{"password": "another long password"}, {"profile": {"locale": "de"}}], ids=["password", "profile"]
)
async def test_another_body_under_the_same_key_is_refused(service: Running, changed: dict[str, Any]) -> None:
    await sign_up(service)
    assert problem(await sign_up(service, **changed)) == (422, "idempotency-key-reused")


async def test_a_taken_address_is_a_conflict(service: Running) -> None:
    await sign_up(service)
    assert problem(await sign_up(service, key="k2")) == (409, "email-taken")


async def test_the_user_id_does_not_hang_on_the_address_alone(tmp_path: Path) -> None:
    ids: set[str] = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        async with auth(tmp_path / name) as service:
            ids.add((await sign_up(service)).json()["user_id"])
    assert len(ids) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"email": "nobody"},
        {"email": "a b@example.org"},
        {"email": None},
        {"email": "x" * 300 + "@example.org"},
        {"password": None},
        {"extra": 1},
        {"profile": {"home_zone": "Europe/Nowhere"}},
        {"profile": {"home_zone": "../../etc/passwd"}},
        {"profile": {"sex": "x"}},
        {"profile": {"birth_date": "1899-12-31"}},
        {"profile": {"birth_date": "2999-01-01"}},
        {"profile": {"birth_date": 86400}},
        {"profile": {"revision": 5}},
    ],
)
async def test_a_bad_sign_up_is_422_and_never_quoted(service: Running, changed: dict[str, Any]) -> None:
    answer = await sign_up(service, **changed)
    assert problem(answer) == (422, "invalid-request")
    assert PASSWORD not in answer.text


async def test_a_short_password_is_refused(service: Running) -> None:
    assert problem(await sign_up(service, password="short")) == (422, "password-too-short")


async def test_a_token_is_verified_by_the_key_set(service: Running) -> None:
    user_id = (await sign_up(service)).json()["user_id"]
    answer = await post(service, "/v1/tokens", {"email": "ADA@example.org", "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.json()["token_type"] == "Bearer"
    assert answer.json()["expires_in"] == 900
    keys = load_jwks((await service.http.get("/.well-known/jwks.json")).json())
    settings = Settings()
    claims = verified(
        answer.json()["access_token"],
        keys,
        token_type=ACCESS_TYPE,
        issuer=settings.token_issuer,
        audience=settings.token_audience,
    )
    caller = access_caller(claims)
    assert caller.user_id == user_id
    assert caller.scopes == set(SCOPES) - PARTNER_SCOPES


async def test_unknown_address_and_wrong_password_look_the_same(service: Running) -> None:
    await sign_up(service)
    wrong = await post(service, "/v1/tokens", {"email": EMAIL, "password": "wrong password, long"})
    unknown = await post(service, "/v1/tokens", {"email": "eve@example.org", "password": PASSWORD})
    junk = await post(service, "/v1/tokens", {"email": "not an address", "password": "x"})
    assert problem(wrong) == (401, "wrong-credentials")
    assert wrong.content == unknown.content == junk.content


async def test_the_demo_partner_is_there_once_and_its_key_is_known(tmp_path: Path) -> None:
    async with auth(tmp_path) as service:
        (told,) = await published(service, topics.PARTNERS, 1)
        assert told["partner_id"] == "demo-partner"
        key = (tmp_path / "demo-partner.key").read_text().strip()
        answer = await post(service, "/internal/keys/verify", {"key": key})
        assert answer.status_code == 200
        assert answer.json()["partner_id"] == "demo-partner"
        assert "webhooks:write" in answer.json()["scopes"]
        await eventually(lambda: is_told(service))
    async with auth(tmp_path) as service:
        assert (await post(service, "/internal/keys/verify", {"key": key})).status_code == 200
        # Seeded before the service was ready: a change would have a revision of its own.
        assert (await demo_partner(service)).revision == 1
        assert service.published[topics.PARTNERS.name] == []


async def demo_partner(service: Running) -> Any:
    return await service.app.state.deps.store.partner("demo-partner")


async def is_told(service: Running) -> bool:
    """Whether the relay has also noted that it told; else a restart tells once more."""
    return not (await demo_partner(service)).outbox


async def test_an_unknown_key_is_404_and_only_the_gateway_may_ask(service: Running) -> None:
    for key in (new_api_key(), "junk"):
        assert problem(await post(service, "/internal/keys/verify", {"key": key})) == (404, "not-found")
    for caller in ({"user_id": "usr_1"}, {"partner_id": "p"}):
        asked = await post(service, "/internal/keys/verify", {"key": new_api_key()}, **caller)
        assert problem(asked) == (403, "insufficient-scope")
    assert problem(await service.http.post("/internal/keys/verify", json={"key": "x"}))[0] == 401


async def test_a_grant_is_stored_told_and_repeatable(service: Running) -> None:
    first = await post(service, "/v1/grants", GRANT, user_id="usr_1", key="g1")
    again = await post(service, "/v1/grants", GRANT, user_id="usr_1", key="g1")
    assert first.status_code == 201
    assert first.json() == again.json()
    assert first.json()["revision"] == 1
    wider = {**GRANT, "scopes": ["days:read", "ledger:read", "diary:read"]}
    changed = await post(service, "/v1/grants", wider, user_id="usr_1", key="g2")
    assert (changed.json()["grant_id"], changed.json()["revision"]) == (first.json()["grant_id"], 2)
    told = await published(service, topics.GRANTS, 2)
    assert [one["revision"] for one in told] == [1, 2]
    assert told[-1]["scopes"] == sorted(wider["scopes"])


async def test_a_late_repeat_does_not_take_a_newer_grant_back(service: Running) -> None:
    await post(service, "/v1/grants", GRANT, user_id="usr_1", key="g1")
    await post(service, "/v1/grants", {**GRANT, "scopes": ["days:read"]}, user_id="usr_1", key="g2")
    late = await post(service, "/v1/grants", GRANT, user_id="usr_1", key="g1")
    assert late.json()["scopes"] == ["days:read"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**GRANT, "partner_id": "nobody"}, 404, "not-found"),
        ({**GRANT, "scopes": ["webhooks:write"]}, 422, "scope-not-grantable"),
        ({**GRANT, "scopes": ["diary:write"]}, 422, "scope-not-grantable"),
        ({**GRANT, "scopes": []}, 422, "invalid-request"),
        ({"partner_id": 1, "scopes": "days:read"}, 422, "invalid-request"),
    ],
)
async def test_a_bad_grant(service: Running, body: Any, status: int, code: str) -> None:
    assert problem(await post(service, "/v1/grants", body, user_id="usr_1", key="g1")) == (status, code)


async def test_grants_need_a_user_with_the_scope_and_one_body_per_key(service: Running) -> None:
    assert problem(await post(service, "/v1/grants", GRANT, partner_id="demo-partner", key="g1"))[0] == 403
    assert problem(await post(service, "/v1/grants", GRANT, user_id="usr_1", scopes=("days:read",), key="g1"))[0] == 403
    await post(service, "/v1/grants", GRANT, user_id="usr_1", key="g1")
    other = {**GRANT, "scopes": ["days:read"]}
    assert problem(await post(service, "/v1/grants", other, user_id="usr_1", key="g1")) == (
        422,
        "idempotency-key-reused",
    )


async def test_no_password_and_no_key_lies_in_the_database(tmp_path: Path) -> None:
    async with auth(tmp_path) as service:
        await sign_up(service)
    documents = open_documents(f"sqlite:///{tmp_path}", "auth")
    await documents.open([USERS])
    user = (await documents.find(USERS, "email", limit=1)).documents[0]
    await documents.close()
    assert user.password_hash.startswith("$argon2id$")
    assert user.created_at < datetime.now(UTC)
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("auth.sqlite*"))
    assert PASSWORD.encode() not in stored
    assert (tmp_path / "demo-partner.key").read_text().strip().encode() not in stored


async def test_ready_says_what_it_waits_for(service: Running) -> None:
    answer = await service.http.get("/readyz")
    assert set(answer.json()["parts"]) == {"kafka", "database", "objects"}
    assert (await service.http.get("/livez")).status_code == 200
