"""A partner's endpoints: read, changed, paused, tested, ended; and nobody else's."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from services.webhooks.endpoint_models import NewEndpoint
from services.webhooks.store import ENDPOINTS
from shared import topics
from shared.clock import utc_now
from shared.events.auth import UserErased
from tests.polling import eventually
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import created, database, endpoint, tell, webhooks
from tests.service.webhook_events import PARTNER, USER


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path) as one:
        yield one


async def ask(
    service: Running, method: str, path: str, body: Any = None, *, key: str | None = None, partner: str = PARTNER
) -> httpx2.Response:
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    return await service.http.request(method, f"/v1/webhook-endpoints{path}", json=body, headers=headers)


async def told(service: Running, receiver: Receiver, number: int) -> dict[str, str]:
    """The headers of the next message."""
    before = len(receiver.received)
    await tell(service, number)
    await eventually(lambda: len(receiver.received) > before)
    return dict(receiver.received[-1].headers)


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


async def test_an_endpoint_is_what_its_partner_made_it(service: Running, receiver: Receiver):
    asked = {
        "event_types": ["day.updated", "insight.created", "day.updated"],
        "user_ids": ["u2", USER],
        "payload": "thin",
        "ordered": True,
        "rate_per_s": 5,
        "headers": {"X-Stage": "one"},
    }
    made = await created(service, receiver.url, **asked)
    shown = (await ask(service, "GET", f"/{made['endpoint_id']}")).json()
    assert shown == {name: value for name, value in made.items() if name not in ("secret", "status")}
    assert shown["event_types"] == ["day.updated", "insight.created"]
    assert (shown["user_ids"], shown["headers"], shown["ordered"]) == (["u2", USER], {"x-stage": "one"}, True)
    assert (shown["rate_per_s"], shown["payload"], shown["state"], shown["failing_since"]) == (
        5,
        "thin",
        "enabled",
        None,
    )
    assert [(key["signature"], key["expires_at"], key["public_key"]) for key in shown["keys"]] == [("hmac", None, None)]
    assert (await ask(service, "GET", "")).json() == {"endpoints": [shown]}


async def test_new_endpoints_get_thin_messages_without_the_users_data(service: Running, receiver: Receiver):
    body = {"url": receiver.url, "headers": {"x-stage": "one", "accept-version": "2"}}
    assert (await ask(service, "POST", "", body, key="thin")).json()["payload"] == "thin"
    headers = await told(service, receiver, 1)
    message = msgspec.json.decode(receiver.received[0].body)
    assert (message["type"], set(message["data"])) == (
        "insight.created",
        {"id", "user_id", "sequence", "trace_id", "link"},
    )
    assert (message["data"]["id"], message["data"]["link"]) == (headers["webhook-id"], "/v1/insights")
    assert (message["data"]["user_id"], message["data"]["sequence"]) == (USER, 1)
    assert b"11,143" not in receiver.received[0].body
    assert (headers["x-stage"], headers["accept-version"], headers["content-type"]) == ("one", "2", "application/json")


@pytest.mark.parametrize("letters", [10_000, 200_000])
async def test_large_messages_arrive_whole_and_thin_ones_stay_small(service: Running, receiver: Receiver, letters: int):
    full = await created(service, f"{receiver.url}/full")
    thin = await created(service, f"{receiver.url}/thin", key="thin", payload="thin")
    text = "Gr\u00fc\u00dfe \u2615 " * (letters // 8)
    await tell(service, text=text)
    await eventually(lambda: len(receiver.received) == 2)
    small, large = sorted(receiver.received, key=lambda one: len(one.body))
    assert Webhook(full["secret"]).verify(large.body, dict(large.headers))["data"]["text"] == text
    assert Webhook(thin["secret"]).verify(small.body, dict(small.headers))["type"] == "insight.created"
    assert (len(small.body) < 400, len(large.body) > letters) == (True, True)
    assert small.headers["webhook-id"] == large.headers["webhook-id"]


async def test_only_the_users_and_types_asked_for_come(service: Running, receiver: Receiver):
    await created(service, f"{receiver.url}/others", key="a", user_ids=["somebody-else"])
    await created(service, f"{receiver.url}/days", key="b", event_types=["day.updated"])
    mine = await created(service, receiver.url, key="c", user_ids=[USER], event_types=["insight.created"])
    await told(service, receiver, 1)
    found = [await service.app.state.store.deliveries(one["endpoint_id"]) for one in await listed(service)]
    assert [len(one) for one in found] == [0, 0, 1]
    assert found[2][0].endpoint_id == mine["endpoint_id"]


async def listed(service: Running) -> list[dict[str, Any]]:
    return (await ask(service, "GET", "")).json()["endpoints"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"event_types": ["photo.read"]}, {"event_types": ["photo.read"]}),
        ({"event_types": []}, {"event_types": []}),
        ({"user_ids": ["b", "a", "b"]}, {"user_ids": ["a", "b"]}),
        ({"payload": "thin", "ordered": True}, {"payload": "thin", "ordered": True}),
        ({"rate_per_s": None}, {"rate_per_s": None}),
        ({"rate_per_s": 10_000}, {"rate_per_s": 10_000}),
        ({"headers": {"X-B": "2", "x-a": "1"}}, {"headers": {"x-a": "1", "x-b": "2"}}),
        ({"state": "paused"}, {"state": "paused"}),
        ({}, {}),
    ],
)
async def test_a_change_changes_what_is_said_alone(
    service: Running, receiver: Receiver, changes: dict[str, Any], expected: dict[str, Any]
):
    made = await created(service, receiver.url, rate_per_s=7, headers={"x-old": "1"}, event_types=["day.updated"])
    before = (await ask(service, "GET", f"/{made['endpoint_id']}")).json()
    for _ in range(2):
        answer = await ask(service, "PATCH", f"/{made['endpoint_id']}", changes)
        assert (answer.status_code, answer.json()) == (200, before | expected)
    assert await listed(service) == [before | expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"url": ""}, {"url": None}, {"event_types": ["user.erased"]}, {"event_types": None}, {"user_ids": ["a b"]},
        {"user_ids": ["\n"]}, {"user_ids": [str(number) for number in range(1001)]}, {"payload": "fat"},
        {"ordered": None}, {"rate_per_s": 0}, {"rate_per_s": 10_001}, {"state": "disabled"}, {"state": None},
        {"headers": {"webhook-id": "1"}}, {"headers": {"x-a": "1\r\nhost: evil"}}, {"headers": {"a\r\nb": "1"}},
        {"headers": {"Authorization": "Bearer canary"}}, {"headers": {"x-a": "1", "X-A": "2"}},
        {"headers": {f"x-{number}": "1" for number in range(11)}}, {"secret": "whsec_AAAA"}, {"partner_id": "p"}, [],
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused(service: Running, receiver: Receiver, changes: Any):
    made = await created(service, receiver.url)
    before = await listed(service)
    answer = await ask(service, "PATCH", f"/{made['endpoint_id']}", changes)
    assert code(answer) == (422, "invalid-request")
    assert "canary" not in answer.text
    assert await listed(service) == before


@pytest.mark.parametrize("name", ["Webhook_Id", "X_Forwarded_For", "Content_Length", "Transfer_Encoding", "Set-Cookie"])
async def test_a_refused_header_is_named_and_its_value_is_not(service: Running, receiver: Receiver, name: str):
    asked = {"url": receiver.url, "headers": {name: "canary"}}
    answer = await ask(service, "POST", "", asked, key="refused")
    assert code(answer) == (422, "invalid-request")
    (error,) = answer.json()["errors"]
    assert (error["where"], error["message"].startswith(f"The header {name} ")) == ("body.headers", True)
    assert "canary" not in answer.text
    assert await listed(service) == []


async def test_a_new_address_is_checked_and_gets_what_comes_next(service: Running, receiver: Receiver):
    made = await created(service, "http://127.0.0.1:9/nobody")
    refused = await ask(service, "PATCH", f"/{made['endpoint_id']}", {"url": "http://169.254.169.254/latest"})
    assert code(refused) == (422, "url-not-allowed")
    assert (await listed(service))[0]["url"] == "http://127.0.0.1:9/nobody"
    assert (await ask(service, "PATCH", f"/{made['endpoint_id']}", {"url": receiver.url})).status_code == 200
    assert (await told(service, receiver, 1))["webhook-id"]


async def test_a_disabled_endpoint_is_enabled_again_by_its_partner(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    path = f"/{made['endpoint_id']}"
    await service.app.state.store.disable(made["endpoint_id"], "the receiver answered 410 Gone")
    shown = (await ask(service, "GET", path)).json()
    assert (shown["state"], shown["state_reason"]) == ("disabled", "the receiver answered 410 Gone")
    assert code(await ask(service, "POST", f"{path}/tests", key="t")) == (409, "endpoint-disabled")
    again = (await ask(service, "PATCH", path, {"state": "enabled"})).json()
    assert (again["state"], again["state_reason"], again["failing_since"]) == ("enabled", None, None)
    assert (await told(service, receiver, 1))["webhook-id"]


async def test_what_failed_counts_no_more_at_another_address(service: Running, receiver: Receiver, tmp_path: Path):
    made = await created(service, f"{receiver.url}/old")
    since = datetime(2026, 3, 1, tzinfo=UTC)
    async with database(tmp_path) as documents:
        known = await endpoint(documents, made["endpoint_id"])
        await documents.put(ENDPOINTS, msgspec.structs.replace(known, failing_since=since, failures=40))
        for changes, expected in [({"ordered": True}, (since, 40)), ({"url": receiver.url}, (None, 0))]:
            assert (await ask(service, "PATCH", f"/{made['endpoint_id']}", changes)).status_code == 200
            now = await endpoint(documents, made["endpoint_id"])
            assert (now.failing_since, now.failures) == expected


async def test_changes_at_once_are_all_kept(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    changes: list[dict[str, Any]] = [
        {"ordered": True}, {"payload": "thin"}, {"rate_per_s": 3}, {"user_ids": ["a"]}, {"headers": {"x-a": "1"}},
    ]  # fmt: skip
    await asyncio.gather(*(ask(service, "PATCH", f"/{made['endpoint_id']}", one) for one in changes))
    (shown,) = await listed(service)
    for one in changes:
        assert shown | one == shown


async def test_what_is_ended_is_gone_and_gets_nothing(service: Running, receiver: Receiver, tmp_path: Path):
    made = await created(service, receiver.url)
    assert (await ask(service, "DELETE", f"/{made['endpoint_id']}")).status_code == 204
    assert await listed(service) == []
    for method, path in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/tests"), ("POST", "/secrets")]:
        answer = await ask(service, method, f"/{made['endpoint_id']}{path}", {}, key="k")
        assert code(answer) == (404, "not-found")
    await tell(service)
    assert await service.app.state.store.deliveries(made["endpoint_id"]) == ()
    async with database(tmp_path) as documents:
        assert await documents.get(ENDPOINTS, made["endpoint_id"]) is None


async def test_an_erased_user_is_taken_out_of_what_partners_asked_for(service: Running, receiver: Receiver):
    alone = await created(service, receiver.url, user_ids=[USER])
    among = await created(service, receiver.url, key="b", user_ids=["usr_z", USER], partner="p2")
    everybody = await created(service, receiver.url, key="c")
    erased = UserErased(event_id="gone", occurred_at=utc_now(), user_id=USER, revision=2)
    for _ in range(2):
        await service.send(topics.USERS, erased)
        shown = {one["endpoint_id"]: one["user_ids"] for one in await listed(service)}
        # Not empty, which would mean everybody.
        assert shown == {alone["endpoint_id"]: ["erased"], everybody["endpoint_id"]: []}
        theirs = (await ask(service, "GET", f"/{among['endpoint_id']}", partner="p2")).json()
        assert theirs["user_ids"] == ["erased", "usr_z"]
    again = await ask(service, "PATCH", f"/{alone['endpoint_id']}", {"user_ids": ["erased"]})
    assert again.json()["user_ids"] == ["erased"]


async def test_another_partners_endpoint_is_not_there(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    before = await listed(service)
    asked = [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/tests"), ("POST", "/secrets")]
    for method, path in asked:
        theirs = await ask(service, method, f"/{made['endpoint_id']}{path}", {}, key="k", partner="partner-2")
        nowhere = await ask(service, method, f"/nowhere{path}", {}, key="k", partner="partner-2")
        assert code(theirs) == code(nowhere) == (404, "not-found")
        assert theirs.json()["detail"] == nowhere.json()["detail"]
    assert await listed(service) == before


async def test_who_may_not(service: Running):
    callers: tuple[dict[str, Any], ...] = ({"user_id": USER}, {"partner_id": PARTNER, "scopes": ("partner:write",)})
    for caller in callers:
        for method in ("GET", "PATCH", "DELETE"):
            answer = await service.http.request(method, "/v1/webhook-endpoints/e", headers=service.headers(**caller))
            assert answer.status_code == 403
    assert (await service.http.get("/v1/webhook-endpoints/e")).status_code == 401


async def test_a_test_message_goes_out_signed_and_once(service: Running, receiver: Receiver):
    made = await created(service, receiver.url, event_types=["day.updated"], user_ids=["nobody"])
    path = f"/{made['endpoint_id']}/tests"
    first, again = [await ask(service, "POST", path, key="t") for _ in range(2)]
    assert (first.status_code, first.json()) == (202, again.json())
    await eventually(lambda: receiver.received)
    (sent,) = receiver.received
    assert sent.headers["webhook-id"] == first.json()["message_id"]
    message = Webhook(made["secret"]).verify(sent.body, dict(sent.headers))
    assert (message["type"], message["data"]) == ("endpoint.test", {"endpoint_id": made["endpoint_id"]})
    other = await ask(service, "POST", path, key="u")
    assert other.json()["message_id"] != first.json()["message_id"]
    assert code(await ask(service, "POST", path)) == (400, "idempotency-key-required")
    await eventually(lambda: len(receiver.received) == 2)


async def test_many_made_at_once_are_a_hundred_at_most(service: Running, receiver: Receiver):
    made: list[dict[str, Any]] = []
    for first in range(0, 120, 30):  # fewer than MongoDB's 32 connections, for which a busy machine makes others wait
        made += await asyncio.gather(*(created(service, receiver.url, key=str(first + n)) for n in range(30)))
    assert {one["status"] for one in made} <= {201, 409}
    there = {one["endpoint_id"] for one in await listed(service)}
    assert len(there) <= 100
    assert there == {one["endpoint_id"] for one in made if one["status"] == 201}
    same = await asyncio.gather(*(created(service, receiver.url, key="same", partner="p2") for _ in range(5)))
    assert len({(one["status"], one["endpoint_id"], one["secret"]) for one in same}) == 1


def test_a_request_of_before_more_could_be_said_is_still_known():
    first = NewEndpoint.model_validate({"url": "https://a.example/", "event_types": ["photo.read", "day.updated"]})
    assert first.fingerprint() == "487733fe177765688cb8fd5f3758ee054091b1e2500214a0666e380823933268"
    more = NewEndpoint.model_validate({"url": "https://a.example/", "ordered": True})
    assert more.fingerprint() != NewEndpoint.model_validate({"url": "https://a.example/"}).fingerprint()
