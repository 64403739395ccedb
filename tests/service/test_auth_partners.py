"""Partners on the real app: registration, approval, secrets, and what they change of themselves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.auth import clients, guesses, partners, workers
from shared import topics
from shared.cancelling import cancelled
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import BY, REGISTRATION, SCOPES, Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


async def told(desk: Desk, count: int) -> list[Any]:
    published = desk.service.published[topics.PARTNERS.name]
    await eventually(lambda: len(published) >= count)
    return [json.loads(value) for value in published]


async def known(desk: Desk, partner_id: str, secret: str) -> bool:
    """Whether the OAuth endpoints would know this client."""
    found = await clients.authenticated(desk.service.app.state.deps, partner_id, secret)
    return found is not None and found.state == "active"


# registration


async def test_a_partner_registers_and_waits_for_an_operator(desk: Desk) -> None:
    answer = await desk.register()
    assert answer.status_code == 201
    partner = answer.json()
    assert partner["state"] == "pending"
    assert tuple(partner["scopes"]) == SCOPES
    assert partner["redirect_uris"] == REGISTRATION["redirect_uris"]
    assert partner["client_secret"].startswith("mms_")
    assert not await known(desk, partner["partner_id"], partner["client_secret"])
    for method, path in (("GET", "/v1/partner"), ("GET", "/v1/partner/keys"), ("GET", "/v1/partner/users")):
        refused = await desk.ask(method, path, partner_id=partner["partner_id"])
        assert problem(refused) == (403, "partner-not-active")
    assert desk.service.published[topics.PARTNERS.name] == []


async def test_an_approved_partner_works_and_is_told_of(desk: Desk) -> None:
    partner = await desk.active()
    assert await known(desk, partner["partner_id"], partner["client_secret"])
    assert (await desk.ask("GET", "/v1/partner", partner_id=partner["partner_id"])).json()["state"] == "active"
    (news,) = await told(desk, 1)
    assert (news["partner_id"], news["revision"], news["state"]) == (partner["partner_id"], 1, "active")
    text = json.dumps(news)
    assert "oat.example" not in text
    assert partner["client_secret"] not in text


async def test_with_automatic_approval_it_works_at_once(tmp_path: Path) -> None:
    async with desk_of(tmp_path, MovableClock(), approval="auto") as desk:
        partner = (await desk.register()).json()
        assert partner["state"] == "active"
        assert await known(desk, partner["partner_id"], partner["client_secret"])
        assert (await told(desk, 1))[0]["partner_id"] == partner["partner_id"]


async def test_the_same_registration_twice_is_one_partner_whose_secret_is_shown_once(desk: Desk) -> None:
    first, again = await desk.register(), await desk.register()
    assert again.status_code == 201
    assert again.json() == first.json() | {"client_secret": None}
    assert problem(await desk.register(name="Another")) == (422, "idempotency-key-reused")
    # Somebody else's key may be the same text.
    other = await desk.register(contact="dev@rye.example")
    assert other.json()["partner_id"] != first.json()["partner_id"]


async def test_who_was_not_approved_in_three_months_is_forgotten(desk: Desk) -> None:
    active, waiting = await desk.active(), (await desk.register("r2", contact="dev@rye.example")).json()
    documents = desk.service.app.state.deps.store.documents
    desk.clock.ahead += timedelta(days=89)
    assert await partners.forget(documents, desk.clock()) == 0
    later = (await desk.register("r4", contact="dev@corn.example")).json()
    desk.clock.ahead += timedelta(days=2)
    await forgotten(desk, waiting["partner_id"])
    left = {one["partner_id"] for one in (await desk.operate("GET", "partners")).json()["partners"]}
    assert left == {active["partner_id"], later["partner_id"]}


async def forgotten(desk: Desk, partner_id: str) -> None:
    """Return when nobody knows the partner any more, though nobody asked for anything."""
    deps = desk.service.app.state.deps

    async def gone() -> bool:
        return await deps.store.partner(partner_id) is None

    hourly = asyncio.create_task(workers.forget_what_is_over(deps.store.documents, desk.clock))
    await eventually(gone)
    await cancelled(hourly)


async def test_nobody_fills_the_database_with_registrations(desk: Desk) -> None:
    def register(number: int, network: int) -> Any:
        headers = desk.service.headers(key=f"r{number}") | {"Client-Address": f"198.51.{network}.7"}
        return desk.service.http.post("/v1/partners", json=REGISTRATION, headers=headers)

    answers = [await register(number, network=1) for number in range(guesses.REGISTRATIONS.burst + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {201}
    assert problem(answers[-1]) == (429, "too-many-registrations")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert (await register(-1, network=2)).status_code == 201
    everybody = desk.service.app.state.deps.guesses
    for network in range(guesses.REGISTRATIONS_OF_ALL.burst - len(answers)):
        everybody.admit_registration(f"203.0.{network // 250}.{network % 250}")
    assert problem(await register(-2, network=3)) == (429, "too-many-registrations")
    desk.clock.ahead += timedelta(minutes=1)
    assert (await register(-2, network=3)).status_code == 201


async def test_of_many_equal_registrations_at_once_one_is_given_the_secret(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.register() for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["partner_id"] for answer in answers}) == 1
    assert sum(answer.json()["client_secret"] is not None for answer in answers) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "Oat\u202e oC"},
        {"contact": "nobody"},
        {"scopes": []},
        {"scopes": ["profile:read"]},
        {"scopes": ["grants:write"]},
        {"scopes": ["operator"]},
        {"redirect_uris": ["https://oat.example/callback#part"]},
        {"redirect_uris": ["https://oat.example/a", "https://oat.example/a"]},
        {"redirect_uris": [f"https://oat.example/{number}" for number in range(21)]},
        {"state": "active"},
        {"partner_id": "par_mine"},
        {"requests_per_min": 1_000_000},
        {"client_secret": "mms_mine"},
        {"revision": 7},
    ],
)
async def test_a_bad_registration_and_foreign_fields_are_refused(desk: Desk, changed: dict[str, Any]) -> None:
    assert problem(await desk.register(**changed)) == (422, "invalid-request")


async def test_redirect_uris_are_kept_to_the_letter(desk: Desk) -> None:
    uris = [
        "https://oat.example",
        "https://oat.example/",
        "https://oat.example/a?b=c&d=%C3%A4",
        "https://oat.example:8443/A",
        "http://127.0.0.1:8000/callback",
        "http://[::1]/callback",
        "http://localhost:3000/",
    ]
    assert (await desk.register(redirect_uris=uris)).json()["redirect_uris"] == uris


async def test_a_registration_needs_a_key_and_a_body(desk: Desk) -> None:
    headers = desk.service.headers()
    without = await desk.service.http.post("/v1/partners", json=REGISTRATION, headers=headers)
    assert problem(without) == (422, "invalid-request")
    empty = await desk.service.http.post("/v1/partners", json=[], headers=headers | {"Idempotency-Key": "k"})
    assert problem(empty) == (422, "invalid-request")
    assert (await desk.service.http.post("/v1/partners", json=REGISTRATION)).status_code == 401


# changes


async def test_a_partner_changes_its_name_and_redirect_uris(desk: Desk) -> None:
    partner_id = (await desk.active())["partner_id"]
    uris = ["https://oat.example/next"]
    changed = await desk.ask("PATCH", "/v1/partner", {"redirect_uris": uris}, partner_id=partner_id)
    assert (changed.status_code, changed.json()["redirect_uris"]) == (200, uris)
    for _ in range(2):
        named = await desk.ask("PATCH", "/v1/partner", {"name": "Rye  &  Co "}, partner_id=partner_id)
        assert (named.json()["name"], named.json()["redirect_uris"]) == ("Rye & Co", uris)
    news = await told(desk, 2)
    # Where codes go is nobody else's business, and what changes nothing is no news.
    assert [one["revision"] for one in news] == [1, 2]
    assert news[-1]["name"] == "Rye & Co"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "nothing-to-change"),
        ({"name": None}, "invalid-request"),
        ({"redirect_uris": None}, "invalid-request"),
        ({"redirect_uris": ["http://oat.example/"]}, "invalid-request"),
        ({"state": "active"}, "invalid-request"),
        ({"scopes": ["samples:read"]}, "invalid-request"),
        ({"name": "Rye", "requests_per_min": 10}, "invalid-request"),
        ([], "invalid-request"),
    ],
)
async def test_a_bad_change_and_foreign_fields_are_refused(desk: Desk, body: Any, code: str) -> None:
    partner_id = (await desk.active())["partner_id"]
    before = (await desk.ask("GET", "/v1/partner", partner_id=partner_id)).json()
    assert problem(await desk.ask("PATCH", "/v1/partner", body, partner_id=partner_id)) == (422, code)
    assert (await desk.ask("GET", "/v1/partner", partner_id=partner_id)).json() == before


# client secrets


async def rotate(desk: Desk, partner_id: str, key: str, overlap_s: Any = 3600, **caller: Any) -> Any:
    path = "/v1/partner/client-secret/rotations"
    return await desk.ask("POST", path, {"overlap_s": overlap_s}, partner_id=partner_id, key=key, **caller)


async def test_a_rotated_secret_counts_and_the_old_one_for_the_overlap(desk: Desk) -> None:
    partner = await desk.active()
    partner_id, old = partner["partner_id"], partner["client_secret"]
    new = (await rotate(desk, partner_id, "s1")).json()["client_secret"]
    assert new != old
    assert await known(desk, partner_id, new)
    assert await known(desk, partner_id, old)
    desk.clock.ahead += timedelta(hours=1, seconds=1)
    assert await known(desk, partner_id, new)
    assert not await known(desk, partner_id, old)


async def test_a_rotation_without_overlap_ends_all_earlier_secrets(desk: Desk) -> None:
    partner = await desk.active()
    secrets = [partner["client_secret"]]
    for key in ("s1", "s2", "s3"):
        secrets.append((await rotate(desk, partner["partner_id"], key)).json()["client_secret"])
    assert problem(await rotate(desk, partner["partner_id"], "s4")) == (409, "too-many-secrets")
    answer = await rotate(desk, partner["partner_id"], "s5", 0)
    assert [one["expires_at"] for one in answer.json()["client_secrets"]] == [None]
    assert await known(desk, partner["partner_id"], answer.json()["client_secret"])
    assert not any([await known(desk, partner["partner_id"], secret) for secret in secrets])


async def test_the_same_rotation_twice_makes_one_secret(desk: Desk) -> None:
    partner_id = (await desk.active())["partner_id"]
    first, again = await rotate(desk, partner_id, "s1"), await rotate(desk, partner_id, "s1")
    assert again.status_code == 201
    assert again.json() == first.json() | {"client_secret": None}
    answers = await asyncio.gather(*(rotate(desk, partner_id, "s2") for _ in range(5)))
    assert sum(answer.json()["client_secret"] is not None for answer in answers) == 1


async def test_another_overlap_under_a_used_key_is_refused(desk: Desk) -> None:
    partner = await desk.active()
    await rotate(desk, partner["partner_id"], "s1", 3600)
    # Whoever sends this must not believe that the old secret has ended.
    assert problem(await rotate(desk, partner["partner_id"], "s1", 0)) == (422, "idempotency-key-reused")
    assert await known(desk, partner["partner_id"], partner["client_secret"])


async def test_a_narrow_key_cannot_get_the_whole_secret(desk: Desk) -> None:
    partner_id = (await desk.active())["partner_id"]
    refused = await rotate(desk, partner_id, "s1", scopes=("partner:write",))
    assert problem(refused) == (403, "insufficient-scope")
    assert "days:read" in refused.json()["missing"]


@pytest.mark.parametrize("overlap_s", [-1, 604_801, "3600", 1.5, None, True])
async def test_a_bad_overlap_is_refused(desk: Desk, overlap_s: Any) -> None:
    partner_id = (await desk.active())["partner_id"]
    assert problem(await rotate(desk, partner_id, "s1", overlap_s)) == (422, "invalid-request")


async def test_only_the_right_secret_of_the_right_active_partner_is_known(desk: Desk) -> None:
    one, other = await desk.active(), await desk.active("r2", contact="dev@rye.example")
    assert not await known(desk, one["partner_id"], other["client_secret"])
    assert not await known(desk, "par_nobody", one["client_secret"])
    for wrong in ("", "mms_", one["client_secret"][:-1], one["client_secret"] + "0", "\ud800", "x" * 10_000):
        assert not await known(desk, one["partner_id"], wrong)
    await desk.operate("POST", f"partners/{one['partner_id']}/suspensions", BY)
    assert not await known(desk, one["partner_id"], one["client_secret"])


async def test_no_secret_lies_in_the_database(tmp_path: Path) -> None:
    async with desk_of(tmp_path, MovableClock()) as desk:
        partner = await desk.active()
        body = {"name": "import", "scopes": ["days:read"]}
        key = (await desk.ask("POST", "/v1/partner/keys", body, partner_id=partner["partner_id"], key="k")).json()
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("auth.sqlite*"))
    assert REGISTRATION["name"].encode() in stored
    assert partner["client_secret"].encode() not in stored
    assert key["key"].encode() not in stored
