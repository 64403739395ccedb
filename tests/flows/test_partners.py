"""A partner's whole story through all services: from its registration to what is left when it is suspended."""

import time
from typing import Any

import httpx2

from shared.internal_tokens import InternalTokenSigner
from tests.flows.people import DATE, Person, signed_in, walk
from tests.flows.whole import Whole
from tests.polling import eventually

REGISTRATION = {
    "name": "Oat & Co",
    "contact": "dev@oat.example",
    "redirect_uris": ["https://oat.example/callback"],
    "scopes": ["samples:write", "samples:read", "days:read", "webhooks:write", "users:manage"],
}


async def register(system: Whole, key: str = "r1", **changed: Any) -> dict[str, Any]:
    body, headers = REGISTRATION | changed, {"Idempotency-Key": key}
    answer = await system.http.post("/v1/partners", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def decide(system: Whole, partner: dict[str, Any], decision: str) -> None:
    """As `./mymacro partners` does; returns once the gateway has heard of it."""
    token = InternalTokenSigner(system.folder / "internal.jwk").operator_token("auth")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(system.apps["auth"]), base_url="http://auth"
    ) as operator:
        path = f"/internal/partners/{partner['partner_id']}/{decision}"
        answer = await operator.post(path, json={"by": "tester"}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    heard = system.apps["gateway"].state.partners
    await eventually(lambda: heard.active(partner["partner_id"]) == (decision == "approvals"))


async def own_token(system: Whole, partner: dict[str, Any]) -> httpx2.Response:
    form = {"grant_type": "client_credentials"}
    credentials = (partner["partner_id"], partner["client_secret"])
    return await system.http.post("/oauth/token", data=form, auth=credentials)


async def approved(system: Whole) -> Person:
    """An active partner, as one who asks the gateway with its own token."""
    partner = await register(system)
    await decide(system, partner, "approvals")
    answer = await own_token(system, partner)
    assert answer.status_code == 200, answer.text
    return Person(system, "", "", partner["partner_id"], answer.json()["access_token"])


async def test_a_partner_registers_and_its_managed_user_is_served_like_any_other(system: Whole) -> None:
    partner = await register(system)
    assert (await own_token(system, partner)).status_code == 401
    await decide(system, partner, "approvals")
    token = (await own_token(system, partner)).json()["access_token"]
    oat = Person(system, "", "", partner["partner_id"], token)
    body = {"name": "import", "scopes": REGISTRATION["scopes"]}
    made = await oat.ask("POST", "/v1/partner/keys", key="import", json=body)
    assert made.status_code == 201, made.text
    oat.token = made.json()["key"]

    endpoint = await oat.ask(
        "POST", "/v1/webhook-endpoints", key="hook", json={"url": system.receiver.url, "payload": "full"}
    )
    system.receiver.secret = endpoint.json()["secret"]
    user = await oat.ask("POST", "/v1/partner/users", key="u1", json={"profile": {"home_zone": "UTC"}})
    assert user.status_code == 201, user.text
    asked = f"?user={user.json()['user_id']}"
    batch = {"device": {"id": "w", "kind": "watch"}, "app": "oat/1", "zone": "UTC", "samples": walk(minutes=30)}

    async def taken() -> bool:
        # Until the gateway has heard of the grant that came with the user.
        return (await oat.ask("POST", f"/v1/batches{asked}", key="b1", json=batch)).status_code == 202

    await eventually(taken)

    async def counted() -> bool:
        answer = await oat.ask("GET", f"/v1/days/{DATE}{asked}")
        return answer.status_code == 200 and answer.json()["metrics"]["steps"]["sum"] == 30 * 90

    await eventually(counted)
    await system.receiver.wait_for("day.updated", user.json()["user_id"], deadline=time.monotonic() + 10)
    # What users do not grant is the user's own, managed or not.
    assert (await oat.ask("GET", f"/v1/me{asked}")).status_code in (403, 404)


async def test_a_suspended_partner_has_nothing_and_an_approved_one_all_again(system: Whole) -> None:
    partner = await register(system)
    await decide(system, partner, "approvals")
    oat = Person(system, "", "", partner["partner_id"], (await own_token(system, partner)).json()["access_token"])
    body = {"name": "import", "scopes": ["partner:read"]}
    key = (await oat.ask("POST", "/v1/partner/keys", key="k", json=body)).json()["key"]

    async def statuses() -> list[int]:
        asked = [(await oat.ask("GET", "/v1/partner", token=token)).status_code for token in (oat.token, key)]
        return [*asked, (await own_token(system, partner)).status_code]

    assert await statuses() == [200, 200, 200]
    await decide(system, partner, "suspensions")
    await eventually(lambda: all_are(statuses, 401))
    await decide(system, partner, "approvals")
    await eventually(lambda: all_are(statuses, 200))


async def all_are(statuses: Any, wanted: int) -> bool:
    return set(await statuses()) == {wanted}


async def test_a_grant_taken_back_reads_like_none(system: Whole) -> None:
    oat, ada = await approved(system), await signed_in(system)
    await ada.ended(await ada.send_batch(walk(minutes=30)))
    path = f"/v1/days/{DATE}?user={ada.user_id}"
    before = await oat.ask("GET", path)
    granted = await ada.ask("POST", "/v1/grants", key="g", json={"partner_id": oat.user_id, "scopes": ["days:read"]})
    await eventually(lambda: answers(oat, path, 200))
    (given,) = (await ada.get("/v1/grants"))["grants"]
    assert (given["partner_name"], given["scopes"]) == ("Oat & Co", ["days:read"])
    assert (await ada.ask("DELETE", f"/v1/grants/{granted.json()['grant_id']}")).status_code == 204
    await eventually(lambda: answers(oat, path, 404))
    after = await oat.ask("GET", path)
    assert without_trace(after) == without_trace(before)
    assert (await ada.get("/v1/grants"))["grants"] == []


async def answers(who: Person, path: str, status: int) -> bool:
    return (await who.ask("GET", path)).status_code == status


def without_trace(answer: httpx2.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if "trace" not in name}
