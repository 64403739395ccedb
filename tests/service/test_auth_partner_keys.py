"""A partner's API keys on the real app, and who may do what about a partner."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.keys import is_api_key, new_api_key
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import BY, KEY, KEYS, SCOPES, Partner, desk_of, rye_of

USERS, SECRET = "/v1/partner/users", "/v1/partner/client-secret"


@pytest.fixture
async def oat(tmp_path: Path) -> AsyncGenerator[Partner]:
    async with desk_of(tmp_path, MovableClock()) as desk:
        yield Partner(desk, (await desk.active())["partner_id"])


async def test_a_key_is_made_shown_once_and_good_at_once(oat: Partner) -> None:
    answer = await oat.key()
    assert answer.status_code == 201
    made = answer.json()
    assert is_api_key(made["key"])
    assert made["key"].startswith(made["hint"])
    assert (await oat.desk.verify(made["key"])).json() == {
        "partner_id": oat.id,
        "scopes": ["days:read"],
        "expires_at": None,
    }
    (listed,) = await oat.keys()
    assert listed["key_id"] == made["key_id"]
    assert "key" not in listed
    assert made["key"] not in json.dumps(listed)


async def test_the_same_request_twice_makes_one_key(oat: Partner) -> None:
    first, again = await oat.key(), await oat.key()
    assert again.status_code == 201
    assert again.json() == first.json() | {"key": None}
    assert problem(await oat.key(body=KEY | {"name": "other"})) == (422, "idempotency-key-reused")
    answers = await asyncio.gather(*(oat.key("k2") for _ in range(6)))
    assert sum(answer.json()["key"] is not None for answer in answers) == 1
    assert len(await oat.keys()) == 2
    # Another partner's request under the same key is another request.
    assert (await (await rye_of(oat.desk)).key()).json()["key"] is not None


async def test_another_body_under_a_used_key_makes_and_ends_nothing(oat: Partner) -> None:
    end = KEY | {"expires_at": (oat.desk.clock() + timedelta(hours=2)).isoformat()}
    made, timed = (await oat.key()).json(), (await oat.key("k1 with an end", end)).json()
    for body in (end, KEY | {"scopes": ["samples:write"]}):
        assert problem(await oat.key(body=body)) == (422, "idempotency-key-reused"), body
    assert problem(await oat.key("k1 with an end")) == (422, "idempotency-key-reused")
    await oat.rotate(made["key_id"], overlap_s=3600)
    # Whoever sends this must not believe that the old key has ended.
    assert problem(await oat.rotate(made["key_id"], overlap_s=0)) == (422, "idempotency-key-reused")
    assert await oat.good(made["key"])
    assert len(await oat.keys()) == 3
    oat.desk.clock.ahead += timedelta(hours=3)
    again = [await oat.key(), await oat.key("k1 with an end", end), await oat.rotate(made["key_id"], overlap_s=3600)]
    assert [(answer.status_code, answer.json()["key"]) for answer in again] == [(201, None)] * 3
    assert again[1].json()["key_id"] == timed["key_id"]


async def test_of_different_bodies_under_one_key_at_once_one_counts(oat: Partner) -> None:
    answers = await asyncio.gather(*(oat.key(body=KEY | {"name": f"import {number}"}) for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 5
    assert len(await oat.keys()) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (KEY | {"scopes": ["samples:read"]}, 422, "scope-not-possible"),
        (KEY | {"scopes": ["profile:read"]}, 422, "invalid-request"),
        (KEY | {"scopes": ["operator"]}, 422, "invalid-request"),
        (KEY | {"scopes": []}, 422, "invalid-request"),
        (KEY | {"name": ""}, 422, "invalid-request"),
        (KEY | {"expires_at": "2020-01-01T00:00:00Z"}, 422, "expiry-not-possible"),
        (KEY | {"expires_at": "9999-01-01T00:00:00Z"}, 422, "expiry-not-possible"),
        (KEY | {"expires_at": "2099-01-01T00:00:00"}, 422, "invalid-request"),
        (KEY | {"expires_at": "0001-01-01T00:00:00+14:00"}, 422, "invalid-request"),
        (KEY | {"partner_id": "par_other"}, 422, "invalid-request"),
        (KEY | {"key": "mmt_mine"}, 422, "invalid-request"),
        ([], 422, "invalid-request"),
    ],
)
async def test_a_bad_key_is_refused(oat: Partner, body: Any, status: int, code: str) -> None:
    assert problem(await oat.key(body=body)) == (status, code)
    assert await oat.keys() == []


async def test_no_key_can_do_more_than_what_made_it(oat: Partner) -> None:
    narrow: dict[str, Any] = {"scopes": ("partner:write", "partner:read")}
    assert problem(await oat.key(**narrow)) == (403, "insufficient-scope")
    made = (await oat.key()).json()
    # Nor by way of a rotation.
    assert problem(await oat.rotate(made["key_id"], **narrow)) == (403, "insufficient-scope")
    assert (await oat.key("k2", {"name": "n", "scopes": ["partner:read"]}, **narrow)).status_code == 201


async def test_a_key_that_ends_makes_nothing_that_lasts_longer(oat: Partner) -> None:
    end = oat.desk.clock() + timedelta(hours=1)
    by_key: dict[str, Any] = {"key_ends_at": end.timestamp()}
    endless = (await oat.key()).json()
    asked = {
        "no end": await oat.key("k2", **by_key),
        "a later end": await oat.key("k3", KEY | {"expires_at": (end + timedelta(seconds=1)).isoformat()}, **by_key),
        "a rotation": await oat.rotate(endless["key_id"], **by_key),
        "a client secret": await oat.ask("POST", f"{SECRET}/rotations", {}, key="s1", **by_key),
    }
    for what, answer in asked.items():
        assert problem(answer) == (403, "key-outlived"), what
        assert datetime.fromisoformat(answer.json()["key_ends_at"]) == end, what
    assert len(await oat.keys()) == 1
    made = await oat.key("k4", KEY | {"expires_at": end.isoformat()}, **by_key)
    assert (made.status_code, datetime.fromisoformat(made.json()["expires_at"])) == (201, end)


async def test_a_key_ends_when_it_said_or_when_its_partner_says(oat: Partner) -> None:
    end = (oat.desk.clock() + timedelta(hours=1)).isoformat()
    timed = (await oat.key(body=KEY | {"expires_at": end})).json()
    ended = (await oat.key("k2")).json()
    for _ in range(2):
        assert (await oat.ask("DELETE", f"{KEYS}/{ended['key_id']}")).status_code == 204
    assert [await oat.good(one["key"]) for one in (timed, ended)] == [True, False]
    oat.desk.clock.ahead += timedelta(hours=1)
    assert not await oat.good(timed["key"])
    assert [one["expires_at"] is not None for one in await oat.keys()] == [True, True]
    oat.desk.clock.ahead += timedelta(days=31)
    await oat.key("k3")
    assert len(await oat.keys()) == 1


async def test_a_rotated_key_is_good_for_the_overlap(oat: Partner) -> None:
    old = (await oat.key(body=KEY | {"expires_at": (oat.desk.clock() + timedelta(days=10)).isoformat()})).json()
    oat.desk.clock.ahead += timedelta(days=5)
    answer = await oat.rotate(old["key_id"])
    assert answer.status_code == 201
    new = answer.json()
    assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
    again = await oat.rotate(old["key_id"])
    assert (again.json()["key_id"], again.json()["key"]) == (new["key_id"], None)
    assert [await oat.good(one["key"]) for one in (old, new)] == [True, True]
    oat.desk.clock.ahead += timedelta(hours=1)
    assert [await oat.good(one["key"]) for one in (old, new)] == [False, True]
    assert problem(await oat.rotate(old["key_id"], "k3")) == (409, "key-ended")
    oat.desk.clock.ahead += timedelta(days=9)
    assert await oat.good(new["key"])


@pytest.mark.parametrize("days", [None, 10])
async def test_who_lost_a_rotated_key_gets_one_that_lasts_as_long(oat: Partner, days: int | None) -> None:
    """By one more rotation of the old key, which ends early by now."""
    lifetime = timedelta(days=days) if days is not None else None
    body = KEY | {"expires_at": (oat.desk.clock() + lifetime).isoformat()} if lifetime is not None else KEY
    old = (await oat.key(body=body)).json()
    oat.desk.clock.ahead += timedelta(hours=1)
    for request in ("k2", "k3"):
        new = (await oat.rotate(old["key_id"], request)).json()
        made, end = (new[name] and datetime.fromisoformat(new[name]) for name in ("created_at", "expires_at"))
        if lifetime is None:
            assert end is None, request
        else:
            assert timedelta(0) <= lifetime - (end - made) < timedelta(seconds=5), request


async def test_of_equal_rotations_at_once_one_is_given_the_key(oat: Partner) -> None:
    old = (await oat.key()).json()
    answers = await asyncio.gather(*(oat.rotate(old["key_id"]) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert sum(answer.json()["key"] is not None for answer in answers) == 1
    assert len(await oat.keys()) == 2


async def test_a_rotation_never_prolongs_a_key(oat: Partner) -> None:
    end = oat.desk.clock() + timedelta(minutes=5)
    old = (await oat.key(body=KEY | {"expires_at": end.isoformat()})).json()
    await oat.rotate(old["key_id"], overlap_s=604_800)
    assert {one["key_id"]: one["expires_at"] for one in await oat.keys()}[old["key_id"]] == old["expires_at"]


async def test_fifty_keys_are_enough(oat: Partner) -> None:
    for number in range(50):
        made = await oat.key(f"k{number}")
    assert problem(await oat.key("k50")) == (409, "too-many-keys")
    assert (await oat.ask("DELETE", f"{KEYS}/{made.json()['key_id']}")).status_code == 204
    assert (await oat.key("k51")).status_code == 201


async def test_of_many_keys_at_once_no_more_than_fifty_are_good(oat: Partner) -> None:
    answers = await asyncio.gather(*(oat.key(f"k{number}") for number in range(200)))
    made = [answer.json()["key"] for answer in answers if answer.status_code == 201]
    assert {problem(answer) for answer in answers if answer.status_code != 201} == {(409, "too-many-keys")}
    assert sum([await oat.good(key) for key in made]) <= 50
    assert {one["hint"] for one in await oat.keys()} == {key[:8] for key in made}


async def test_another_partners_key_is_not_there(oat: Partner) -> None:
    rye, made = await rye_of(oat.desk), (await oat.key()).json()
    assert await rye.keys() == []
    for id in (made["key_id"], "nothing"):
        deleted, rotated = await rye.ask("DELETE", f"{KEYS}/{id}"), await rye.rotate(id)
        assert problem(deleted) == problem(rotated) == (404, "not-found")
        assert deleted.json()["detail"] == rotated.json()["detail"]
    assert await oat.good(made["key"])


async def test_keys_of_a_suspended_partner_are_good_no_more(oat: Partner) -> None:
    made = (await oat.key()).json()
    await oat.desk.operate("POST", f"partners/{oat.id}/suspensions", BY)
    assert problem(await oat.desk.verify(made["key"])) == (404, "partner-not-active")
    assert problem(await oat.desk.verify(new_api_key())) == (404, "not-found")
    await oat.desk.operate("POST", f"partners/{oat.id}/approvals", BY)
    assert await oat.good(made["key"])


async def test_when_a_key_was_used_last_is_noted_once_an_hour(oat: Partner) -> None:
    made = (await oat.key()).json()
    assert made["last_used_at"] is None
    seen: list[str] = []
    for minutes in (0, 30, 31):
        oat.desk.clock.ahead += timedelta(minutes=minutes)
        assert await oat.good(made["key"])
        await eventually(lambda: noted(oat))
        seen.append((await oat.keys())[0]["last_used_at"])
    assert seen[0] == seen[1] < seen[2]


async def noted(oat: Partner) -> bool:
    return (await oat.keys())[0]["last_used_at"] is not None


ROUTES = [
    ("GET", "/v1/partner", "partner:read", None),
    ("PATCH", "/v1/partner", "partner:write", {"name": "Rye"}),
    ("POST", f"{SECRET}/rotations", "partner:write", {}),
    ("POST", KEYS, "partner:write", KEY),
    ("GET", KEYS, "partner:read", None),
    ("DELETE", f"{KEYS}/x", "partner:write", None),
    ("POST", f"{KEYS}/x/rotations", "partner:write", {}),
    ("POST", USERS, "users:manage", {}),
    ("GET", USERS, "users:manage", None),
    ("GET", f"{USERS}/x", "users:manage", None),
]


async def test_only_the_partner_itself_with_the_scope_may(oat: Partner) -> None:
    for method, path, scope, body in ROUTES:
        others = tuple(one for one in SCOPES if one != scope)
        callers: list[dict[str, Any]] = [
            {"scopes": others},
            {"partner_id": None, "user_id": "usr_1"},
            {"user_id": "usr_1"},
            {"partner_id": None},
        ]
        for caller in callers:
            assert problem(await oat.ask(method, path, body, key="k", **caller)) == (403, "insufficient-scope"), path
        gone = await oat.ask(method, path, body, key="k", partner_id="par_gone")
        assert problem(gone) == (404, "not-found"), path
        assert (await oat.desk.service.http.request(method, path, json=body)).status_code == 401, path
        if method == "POST":
            assert problem(await oat.ask(method, path, body)) == (422, "invalid-request"), path
