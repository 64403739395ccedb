"""Users that a partner makes and answers for, on the real app."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from shared import topics
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import Partner, desk_of, rye_of

USERS = "/v1/partner/users"


@pytest.fixture
async def oat(tmp_path: Path) -> AsyncGenerator[Partner]:
    async with desk_of(tmp_path, MovableClock()) as desk:
        yield Partner(desk, (await desk.active())["partner_id"])


async def test_a_managed_user_arises_with_a_grant_and_never_signs_in(oat: Partner) -> None:
    answer = await oat.ask("POST", USERS, {"profile": {"home_zone": "Europe/Berlin"}}, key="u1")
    assert answer.status_code == 201
    user = answer.json()
    assert user["profile"]["home_zone"] == "Europe/Berlin"
    published = oat.desk.service.published
    await eventually(lambda: published[topics.GRANTS.name] and published[topics.USERS.name])
    (told,), (grant,) = ([json.loads(one) for one in published[topic.name]] for topic in (topics.USERS, topics.GRANTS))
    assert (told["user_id"], told["profile"]["home_zone"]) == (user["user_id"], "Europe/Berlin")
    assert (grant["user_id"], grant["partner_id"], grant["since_revision"]) == (user["user_id"], oat.id, 1)
    # Of the partner's scopes those that a user can grant.
    assert grant["scopes"] == ["days:read", "samples:write"]
    for address in ("", "@", user["user_id"], f"{user['user_id']}@example.org"):
        body = {"email": address, "password": ""}
        headers = oat.desk.service.headers()
        refused = await oat.desk.service.http.post("/v1/tokens", json=body, headers=headers)
        assert problem(refused) == (401, "wrong-credentials")


async def test_the_same_request_twice_makes_one_user(oat: Partner) -> None:
    first = await oat.ask("POST", USERS, {}, key="u1")
    answers = await asyncio.gather(*(oat.ask("POST", USERS, {}, key="u1") for _ in range(4)))
    assert {answer.content for answer in answers} == {first.content}
    other = await oat.ask("POST", USERS, {"profile": {"locale": "de"}}, key="u1")
    assert problem(other) == (422, "idempotency-key-reused")
    rye = await rye_of(oat.desk)
    assert (await rye.ask("POST", USERS, {}, key="u1")).json()["user_id"] != first.json()["user_id"]
    assert len((await oat.ask("GET", USERS)).json()["users"]) == 1


async def test_users_are_listed_in_pages_to_their_own_partner_alone(oat: Partner) -> None:
    made = [(await oat.ask("POST", USERS, {}, key=f"u{number}")).json() for number in range(5)]
    seen: list[Any] = []
    cursor = ""
    for _ in range(3):
        page = (await oat.ask("GET", f"{USERS}?limit=2{cursor}")).json()
        seen += page["users"]
        cursor = f"&cursor={page['cursor']}"
    assert page["cursor"] is None
    assert sorted(one["user_id"] for one in seen) == sorted(one["user_id"] for one in made)
    one = f"{USERS}/{made[0]['user_id']}"
    assert (await oat.ask("GET", one)).json() == made[0]
    rye = await rye_of(oat.desk)
    assert (await rye.ask("GET", USERS)).json() == {"users": [], "cursor": None}
    assert problem(await rye.ask("GET", one)) == (404, "not-found")
    assert (await rye.ask("GET", one)).json()["detail"] == (await rye.ask("GET", f"{USERS}/x")).json()["detail"]
    for query in ("cursor=junk", "limit=0", "limit=201", "cursor=" + "x" * 1025):
        assert (await oat.ask("GET", f"{USERS}?{query}")).status_code == 422


async def test_an_erased_user_is_listed_no_more_and_not_made_again(oat: Partner) -> None:
    user_id = (await oat.ask("POST", USERS, {}, key="u1")).json()["user_id"]
    assert (await oat.ask("DELETE", f"{USERS}/{user_id}")).status_code == 202
    await eventually(lambda: gone(oat, user_id))
    assert (await oat.ask("GET", USERS)).json()["users"] == []
    assert (await oat.desk.operate("GET", "users")).json()["users"] == []
    assert problem(await oat.ask("POST", USERS, {}, key="u1")) == (409, "user-erased")
    assert (await oat.ask("POST", USERS, {}, key="u2")).status_code == 201


async def gone(oat: Partner, user_id: str) -> bool:
    return (await oat.ask("GET", f"{USERS}/{user_id}")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"email": "ada@example.org"},
        {"password": "violet tractor hums at noon"},
        {"managed_by": "par_other"},
        {"user_id": "usr_mine"},
        {"profile": {"home_zone": "Europe/Nowhere"}},
        {"profile": {"revision": 5}},
        [],
    ],
)
async def test_a_bad_managed_user_is_refused(oat: Partner, body: Any) -> None:
    assert problem(await oat.ask("POST", USERS, body, key="u1")) == (422, "invalid-request")


async def test_a_partner_without_scopes_about_data_has_no_use_for_users(oat: Partner) -> None:
    bare = await oat.desk.active("r3", contact="dev@bare.example", scopes=["users:manage"])
    answer = await oat.desk.ask("POST", USERS, {}, key="u1", partner_id=bare["partner_id"])
    assert problem(answer) == (422, "scope-not-possible")
