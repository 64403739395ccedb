"""Grants as users see and take them back, and what operators decide, on the real app."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from services.auth import audit, sessions
from services.auth.partners import PARTNERS, Partner
from services.auth.session_documents import Share
from shared import topics
from tests.polling import eventually
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import BY, REGISTRATION, Desk, desk_of

KEY = {"name": "import", "scopes": ["days:read"]}
USER, OTHER = "usr_ada", "usr_eve"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


async def grant(desk: Desk, partner_id: str, key: str = "g1", user_id: str = USER, scopes: Any = ("days:read",)) -> Any:
    body = {"partner_id": partner_id, "scopes": list(scopes)}
    return await desk.ask("POST", "/v1/grants", body, user_id=user_id, key=key)


async def revoke(desk: Desk, grant_id: str, user_id: str = USER) -> Any:
    return await desk.ask("DELETE", f"/v1/grants/{grant_id}", user_id=user_id)


async def listed(desk: Desk, user_id: str = USER) -> list[Any]:
    return (await desk.ask("GET", "/v1/grants", user_id=user_id)).json()["grants"]


async def told(desk: Desk, count: int) -> list[Any]:
    published = desk.service.published[topics.GRANTS.name]
    await eventually(lambda: len(published) >= count)
    return [json.loads(value) for value in published]


async def test_a_user_sees_whom_they_let_see_what_and_since_when(desk: Desk) -> None:
    first = await desk.active()
    second = await desk.active("r2", contact="dev@rye.example", name="Rye")
    assert await listed(desk) == []
    begun = (await grant(desk, first["partner_id"])).json()
    (before,) = await listed(desk)
    await grant(desk, first["partner_id"], "g2", scopes=["days:read", "samples:write"])
    await grant(desk, second["partner_id"], "g3")
    later, wider = await listed(desk)
    assert (later["partner_name"], later["revision"]) == ("Rye", 1)
    assert wider == before | {"scopes": ["days:read", "samples:write"], "revision": 2}
    assert (wider["grant_id"], wider["partner_name"]) == (begun["grant_id"], REGISTRATION["name"])
    assert await listed(desk, OTHER) == []


async def test_a_grant_is_taken_back_and_told(desk: Desk) -> None:
    partner = await desk.active()
    given = (await grant(desk, partner["partner_id"])).json()
    for _ in range(2):
        assert (await revoke(desk, given["grant_id"])).status_code == 204
    assert await listed(desk) == []
    news = await told(desk, 2)
    assert [(one["revision"], one["since_revision"], one["revoked_at"] is None) for one in news] == [
        (1, 1, True),
        (2, 1, False),
    ]


async def test_a_grant_that_comes_to_life_again_begins_anew(desk: Desk) -> None:
    partner_id = (await desk.active())["partner_id"]
    given = (await grant(desk, partner_id)).json()
    (before,) = await listed(desk)
    await revoke(desk, given["grant_id"])
    # A late repeat of the request that gave it does not give it again, and says so.
    assert problem(await grant(desk, partner_id)) == (409, "grant-revoked")
    assert await listed(desk) == []
    assert (await grant(desk, partner_id, "g2")).json()["revision"] == 3
    (after,) = await listed(desk)
    assert after["since"] > before["since"]
    await grant(desk, partner_id, "g3", scopes=["days:read", "samples:write"])
    news = await told(desk, 4)
    assert [(one["revision"], one["since_revision"]) for one in news] == [(1, 1), (2, 1), (3, 3), (4, 3)]
    assert [one["revoked_at"] is None for one in news] == [True, False, True, True]


async def test_a_strangers_grant_and_none_are_the_same(desk: Desk) -> None:
    given = (await grant(desk, (await desk.active())["partner_id"])).json()
    strangers, none = await revoke(desk, given["grant_id"], OTHER), await revoke(desk, "nothing", OTHER)
    assert problem(strangers) == problem(none) == (404, "not-found")
    assert strangers.json()["detail"] == none.json()["detail"]
    assert len(await listed(desk)) == 1


async def test_of_a_grant_and_its_end_at_once_the_later_counts(desk: Desk) -> None:
    partner_id = (await desk.active())["partner_id"]
    given = (await grant(desk, partner_id)).json()
    answers = await asyncio.gather(*(revoke(desk, given["grant_id"]) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {204}
    assert [one["revision"] for one in await told(desk, 2)] == [1, 2]


async def test_a_revoked_grant_ends_the_partners_sessions_and_no_others(desk: Desk) -> None:
    deps = desk.service.app.state.deps
    first = await desk.active()
    second = await desk.active("r2", contact="dev@rye.example")
    given = (await grant(desk, first["partner_id"])).json()
    for partner in (first, second, None):
        share = None
        if partner is not None:
            share = Share(partner_id=partner["partner_id"], scopes=("days:read",), grant_revision=1)
        await sessions.start(deps, USER, "", asked_at=deps.clock(), share=share)
    await revoke(desk, given["grant_id"])
    left = {session.partner_id for session in await sessions.live(deps, USER)}
    assert left == {second["partner_id"], None}
    await eventually(lambda: len(desk.service.published[topics.REVOCATIONS.name]) == 1)


async def test_only_users_own_apps_see_and_end_grants(desk: Desk) -> None:
    given = (await grant(desk, (await desk.active())["partner_id"])).json()
    for method, path in (("GET", "/v1/grants"), ("DELETE", f"/v1/grants/{given['grant_id']}")):
        for caller in ({"partner_id": "par_1"}, {"user_id": USER, "scopes": ("days:read",)}, {}):
            assert problem(await desk.ask(method, path, **caller)) == (403, "insufficient-scope")
        assert (await desk.service.http.request(method, path)).status_code == 401
    assert len(await listed(desk)) == 1


async def test_nothing_is_granted_to_a_partner_that_is_not_active(desk: Desk) -> None:
    pending = (await desk.register()).json()["partner_id"]
    nobody = await grant(desk, "par_nobody")
    assert problem(nobody) == problem(await grant(desk, pending)) == (404, "not-found")
    await desk.operate("POST", f"partners/{pending}/approvals", BY)
    assert (await grant(desk, pending)).status_code == 201
    await desk.operate("POST", f"partners/{pending}/suspensions", BY)
    assert problem(await grant(desk, pending, "g2")) == (404, "not-found")


# operators


async def test_operators_see_partners_and_addresses_only_when_they_ask_for_one(desk: Desk) -> None:
    partner = await desk.active()
    waiting = (await desk.register("r2", contact="dev@rye.example", name="Rye")).json()
    shown = await desk.operate("GET", "partners")
    assert [(one["name"], one["state"]) for one in shown.json()["partners"]] == [
        ("Oat & Co", "active"),
        ("Rye", "pending"),
    ]
    assert "example" not in shown.text
    pending = (await desk.operate("GET", "partners?state=pending")).json()["partners"]
    assert [one["partner_id"] for one in pending] == [waiting["partner_id"]]
    one = await desk.operate("GET", f"partners/{partner['partner_id']}?by=tester")
    assert one.json()["contact"] == REGISTRATION["contact"]
    assert partner["client_secret"] not in one.text
    assert problem(await desk.operate("GET", "partners/par_nobody?by=tester")) == (404, "not-found")
    assert (await desk.operate("GET", "partners?cursor=junk")).status_code == 422
    assert (await desk.operate("GET", f"partners/{partner['partner_id']}")).status_code == 422


async def test_a_decision_made_twice_is_told_once(desk: Desk) -> None:
    partner_id = (await desk.register()).json()["partner_id"]
    for decision in ("suspensions", "approvals", "approvals", "suspensions", "suspensions", "approvals"):
        assert (await desk.operate("POST", f"partners/{partner_id}/{decision}", BY)).status_code == 200
    for quota in (600, 600, None):
        answer = await desk.operate("PUT", f"partners/{partner_id}/quota", BY | {"requests_per_min": quota})
        assert answer.json()["requests_per_min"] == quota
    published = desk.service.published[topics.PARTNERS.name]
    await eventually(lambda: len(published) >= 5)
    news = [json.loads(value) for value in published]
    assert [(one["revision"], one["state"], one["requests_per_min"]) for one in news] == [
        (1, "active", None),
        (2, "suspended", None),
        (3, "active", None),
        (4, "active", 600),
        (5, "active", None),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "approvals", {}),
        ("POST", "suspensions", BY | {"state": "active"}),
        ("PUT", "quota", BY),
        ("PUT", "quota", BY | {"requests_per_min": 0}),
        ("PUT", "quota", BY | {"requests_per_min": "600"}),
        ("PUT", "quota", BY | {"requests_per_min": 10_000_001}),
    ],
)
async def test_a_bad_decision_is_refused(desk: Desk, method: str, path: str, body: Any) -> None:
    partner_id = (await desk.register()).json()["partner_id"]
    assert problem(await desk.operate(method, f"partners/{partner_id}/{path}", body)) == (422, "invalid-request")
    assert problem(await desk.operate("POST", "partners/par_nobody/approvals", BY)) == (404, "not-found")


async def test_operators_see_users_and_sign_them_out(desk: Desk) -> None:
    account = {"email": "ada@example.org", "password": "violet tractor hums at noon"}
    made = await desk.service.http.post("/v1/users", json=account, headers=desk.service.headers(key="k"))
    user_id = made.json()["user_id"]
    await desk.service.http.post("/v1/tokens", json=account, headers=desk.service.headers())
    partner_id = (await desk.active())["partner_id"]
    await grant(desk, partner_id, user_id=user_id)
    managed = (await desk.ask("POST", "/v1/partner/users", {}, partner_id=partner_id, key="u")).json()["user_id"]
    shown = await desk.operate("GET", "users")
    assert [(one["user_id"], one["managed_by"]) for one in shown.json()["users"]] == [
        (managed, partner_id),
        (user_id, None),
    ]
    assert "example" not in shown.text
    page = (await desk.operate("GET", "users?limit=1")).json()
    rest = (await desk.operate("GET", f"users?limit=1&cursor={page['cursor']}")).json()
    assert [one["user_id"] for one in page["users"] + rest["users"]] == [managed, user_id]
    one = (await desk.operate("GET", f"users/{user_id}?by=tester")).json()
    assert (one["email"], one["sessions"], one["grants"]) == ("ada@example.org", 1, [partner_id])
    for ended in (1, 0):
        assert (await desk.operate("POST", f"users/{user_id}/session-ends", BY)).json() == {"ended": ended}
    assert (await desk.operate("GET", f"users/{user_id}?by=tester")).json()["sessions"] == 0
    for method, path in (("GET", "users/usr_nobody?by=tester"), ("POST", "users/usr_nobody/session-ends")):
        assert problem(await desk.operate(method, path, BY)) == (404, "not-found")
    assert (await desk.operate("GET", "users?cursor=junk")).status_code == 422


async def test_whatever_is_done_is_in_the_audit_log(desk: Desk) -> None:
    partner = await desk.active()
    caller = {"partner_id": partner["partner_id"]}
    key = (await desk.ask("POST", "/v1/partner/keys", KEY, key="k", **caller)).json()
    rotations = (f"/v1/partner/keys/{key['key_id']}/rotations", "/v1/partner/client-secret/rotations")
    for path in rotations:
        await desk.ask("POST", path, {"overlap_s": 60}, key="k", **caller)
    await desk.ask("DELETE", f"/v1/partner/keys/{key['key_id']}", **caller)
    await desk.ask("PATCH", "/v1/partner", {"name": "Rye"}, **caller)
    await desk.ask("POST", "/v1/partner/users", {}, key="u", **caller)
    await revoke(desk, (await grant(desk, partner["partner_id"])).json()["grant_id"])
    await desk.operate("PUT", f"partners/{partner['partner_id']}/quota", BY | {"requests_per_min": 60})
    await desk.operate("POST", f"partners/{partner['partner_id']}/suspensions", BY)
    page = await audit.page(desk.service.app.state.deps.store.documents, limit=100, cursor=None)
    assert {line.partner_id for line in page.documents} == {partner["partner_id"]}
    assert [(line.kind, line.actor, line.by) for line in reversed(page.documents)] == [
        ("partner-registered", "nobody", ""),
        ("partner-approved", "operator", "tester"),
        ("key-created", "partner", ""),
        ("key-rotated", "partner", ""),
        ("client-secret-rotated", "partner", ""),
        ("key-revoked", "partner", ""),
        ("partner-changed", "partner", ""),
        ("managed-user-created", "partner", ""),
        ("grant-given", "partner", ""),
        ("grant-given", "user", ""),
        ("grant-revoked", "user", ""),
        ("partner-quota-changed", "operator", "tester"),
        ("partner-suspended", "operator", "tester"),
    ]


async def test_nobody_but_operators_reaches_their_routes(desk: Desk) -> None:
    routes = [
        ("GET", "partners"),
        ("GET", "partners/x"),
        ("POST", "partners/x/approvals"),
        ("POST", "partners/x/suspensions"),
        ("PUT", "partners/x/quota"),
        ("GET", "users"),
        ("GET", "users/x"),
        ("POST", "users/x/session-ends"),
    ]
    for method, path in routes:
        for caller in ({}, {"user_id": USER}, {"partner_id": "par_1"}):
            refused = await desk.ask(method, f"/internal/{path}", BY, **caller)
            assert problem(refused) == (403, "insufficient-scope"), path
        assert (await desk.service.http.request(method, f"/internal/{path}", json=BY)).status_code == 401


async def test_a_partner_of_the_version_before_is_seen_and_used(desk: Desk) -> None:
    # As the demo partner of an installation is that was there before partners could register.
    documents = desk.service.app.state.deps.store.documents
    await documents.insert(
        PARTNERS, Partner(id="demo-partner", name="Demo", scopes=("days:read",), revision=1, state="active")
    )
    (line,) = (await desk.operate("GET", "partners")).json()["partners"]
    assert (line["partner_id"], line["created_at"]) == ("demo-partner", None)
    assert (await grant(desk, "demo-partner")).status_code == 201
