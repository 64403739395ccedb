"""Deliveries: each endpoint's lane, users' order, what partners see of them, and when an endpoint is given up."""

import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.webhooks.pruning import Pruner
from services.webhooks.records import DELIVERIES, MESSAGES, Delivery
from shared import topics
from shared.clock import utc_now
from shared.events.auth import GrantUpdated, UserErased
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import created, database, tell, tried, webhooks
from tests.service.webhook_events import PARTNER, USER, grant


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


def broken(times: int, status: int = 500) -> list[web.Response]:
    return [web.Response(status=status) for _ in range(times)]


def sequences(receiver: Receiver) -> list[int]:
    return [json.loads(one.body)["data"]["sequence"] for one in receiver.received]


async def of(service: Running, endpoint: dict[str, Any]) -> tuple[Delivery, ...]:
    return await service.app.state.store.deliveries(endpoint["endpoint_id"])


async def ask(service: Running, method: str, path: str, body: Any = None, *, partner: str = PARTNER, key: str = "r"):
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    return await service.http.request(method, path, json=body, headers=headers)


async def states(service: Running, endpoint: dict[str, Any], wanted: list[str]) -> bool:
    return [one.state for one in await of(service, endpoint)] == wanted


async def enabled_again(service: Running, endpoint: dict[str, Any]) -> None:
    """Its partner enables the endpoint, once a 410 has disabled it: that is stored after the delivery's outcome."""
    path = f"/v1/webhook-endpoints/{endpoint['endpoint_id']}"

    async def disabled() -> bool:
        return (await ask(service, "GET", path)).json()["state"] == "disabled"

    await eventually(disabled)
    assert (await ask(service, "PATCH", path, {"state": "enabled"})).status_code == 200


async def tried_in_order(service: Running, made: dict[str, Any], wanted: list[int]) -> bool:
    waiting = sorted(await of(service, made), key=lambda one: one.sequence)
    return [one.tries for one in waiting] == wanted


async def test_an_ordered_endpoint_gets_each_users_messages_in_their_order(
    service: Running, receiver: Receiver, clock: MovableClock
):
    receiver.answers.extend(broken(2))
    made = await created(service, receiver.url, ordered=True)
    for number in range(1, 9):
        await tell(service, number)
    # A pause begins when the outcome is stored, a moment after the receiver has answered.
    await eventually(lambda: tried_in_order(service, made, [1, *[0] * 7]))
    clock.ahead += timedelta(minutes=10)
    await eventually(lambda: tried_in_order(service, made, [2, *[0] * 7]))
    clock.ahead += timedelta(minutes=10)
    await eventually(lambda: states(service, made, ["delivered"] * 8))
    assert sequences(receiver) == [1, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert {one.line for one in await of(service, made)} == {None}


async def test_a_line_whose_process_died_goes_on(tmp_path: Path, receiver: Receiver):
    """The first of the line has ended, and nobody lived to call the next."""
    async with webhooks(tmp_path) as service:
        made = await created(service, receiver.url, ordered=True)
        await ask(service, "PATCH", f"/v1/webhook-endpoints/{made['endpoint_id']}", {"state": "paused"})
        for number in (1, 2):
            await tell(service, number)
    async with database(tmp_path) as documents:
        page = await documents.find(DELIVERIES, "line", (made["endpoint_id"], USER))
        first, second = page.documents
        assert (first.due_at is not None, second.due_at) == (True, None)
        assert await documents.delete(DELIVERIES, first.id)
    async with webhooks(tmp_path) as service:
        await ask(service, "PATCH", f"/v1/webhook-endpoints/{made['endpoint_id']}", {"state": "enabled"})
        await eventually(lambda: states(service, made, ["delivered"]))
    assert sequences(receiver) == [2]


async def test_what_a_paused_endpoint_wants_waits_for_it_but_a_test_does_not(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}"
    assert (await ask(service, "PATCH", path, {"state": "paused"})).status_code == 200
    await tell(service)
    sent = await ask(service, "POST", f"{path}/tests")
    await eventually(lambda: receiver.received)
    assert [one.headers["webhook-id"] for one in receiver.received] == [sent.json()["message_id"]]
    listed = (await ask(service, "GET", f"{path}/deliveries?state=pending")).json()["deliveries"]
    assert [(one["type"], one["tries"]) for one in listed] == [("insight.created", 0)]
    await ask(service, "PATCH", path, {"state": "enabled"})
    await eventually(lambda: len(receiver.received) == 2)


async def test_five_days_of_failures_disable_an_endpoint_and_its_partners_others_are_told(
    service: Running, receiver: Receiver, clock: MovableClock
):
    dead = await created(service, "http://127.0.0.1:9/dead", key="dead")
    other = await created(service, receiver.url, event_types=["photo.read"])
    await tell(service)
    await tried(service, dead["endpoint_id"])
    clock.ahead += timedelta(days=4)
    path = f"/v1/webhook-endpoints/{dead['endpoint_id']}"
    await eventually(lambda: _outcomes(service, dead, 2))
    assert (await ask(service, "GET", path)).json()["state"] == "enabled"
    clock.ahead += timedelta(days=1)

    async def disabled() -> bool:
        clock.ahead += timedelta(minutes=2)
        return (await ask(service, "GET", path)).json()["state"] == "disabled"

    await eventually(disabled)
    assert (await ask(service, "GET", path)).json()["state_reason"] == "every delivery failed for 5 days"
    await eventually(lambda: receiver.received)
    (told,) = [json.loads(one.body) for one in receiver.received]
    assert (told["type"], told["data"]["endpoint_id"]) == ("endpoint.disabled", dead["endpoint_id"])
    assert other["endpoint_id"] != dead["endpoint_id"]
    refused = await ask(service, "POST", f"{path}/replays", {"failed_since": "2026-03-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "endpoint-disabled")


async def test_one_success_ends_the_count(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.extend(broken(1))
    made = await created(service, receiver.url)
    await tell(service)

    async def counted(failures: int) -> bool:
        now = await service.app.state.store.endpoint(made["endpoint_id"])
        return now.failures == failures

    await eventually(lambda: counted(1))
    clock.ahead += timedelta(seconds=30)
    await eventually(lambda: states(service, made, ["delivered"]))
    await eventually(lambda: counted(0))
    shown = await ask(service, "GET", f"/v1/webhook-endpoints/{made['endpoint_id']}")
    assert (shown.json()["failing_since"], shown.json()["state"]) == (None, "enabled")


async def test_partners_see_their_deliveries_with_attempts_and_trace(service: Running, receiver: Receiver):
    receiver.answers.append(web.Response(status=500, text="no"))
    made = await created(service, receiver.url)
    await tell(service)
    await tried(service, made["endpoint_id"])
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}/deliveries"
    (shown,) = (await ask(service, "GET", f"{path}?state=pending&user={USER}")).json()["deliveries"]
    assert (shown["type"], shown["tries"], shown["sequence"]) == ("insight.created", 1, 1)
    detail = (await ask(service, "GET", f"/v1/deliveries/{shown['delivery_id']}")).json()
    assert [(one["status"], one["answer"]) for one in detail["attempts"]] == [(500, "no")]
    assert detail["attempts"][0]["error"].startswith("answered 500")
    assert detail["message_id"] == receiver.received[0].headers["webhook-id"]
    assert (await ask(service, "GET", f"{path}?state=delivered")).json()["deliveries"] == []
    assert (await ask(service, "GET", f"{path}?user=nobody")).json()["deliveries"] == []
    for question in ("state=lost", "limit=0", "user=a%20b"):
        assert (await ask(service, "GET", f"{path}?{question}")).status_code == 422, question
    assert (await ask(service, "GET", f"{path}?after=junk")).json()["type"].endswith("cursor-unknown")
    for other in (path, f"/v1/deliveries/{shown['delivery_id']}"):
        hidden = await ask(service, "GET", other, partner="somebody else")
        assert hidden.status_code == 404, other


async def test_pages_of_deliveries_lead_to_all_of_them(service: Running, receiver: Receiver):
    made = await created(service, receiver.url)
    for number in range(1, 8):
        await tell(service, number)
    await eventually(lambda: states(service, made, ["delivered"] * 7))
    seen: list[int] = []
    after = ""
    while after is not None:
        query = f"?limit=3{f'&after={after}' if after else ''}"
        page = (await ask(service, "GET", f"/v1/webhook-endpoints/{made['endpoint_id']}/deliveries{query}")).json()
        seen += [one["sequence"] for one in page["deliveries"]]
        after = page["next_after"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_delivery_is_tried_again_when_its_partner_says_so(
    service: Running, receiver: Receiver, clock: MovableClock
):
    receiver.answers.extend(broken(2))
    made = await created(service, receiver.url)
    await tell(service)
    delivery = await tried(service, made["endpoint_id"])
    path = f"/v1/deliveries/{delivery.id}/retries"
    assert (await ask(service, "POST", path, partner="somebody else")).status_code == 404

    # Waiting: now. Ended: once more, with the whole schedule before it.
    for requests in (2, 3, 4):
        answer = await ask(service, "POST", path)
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        await eventually(lambda requests=requests: len(receiver.received) == requests)
        await eventually(lambda requests=requests: _outcomes(service, made, requests))
    (done,) = await of(service, made)
    assert (done.state, [one.status for one in done.history]) == ("delivered", [500, 500, 200, 200])
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
    await service.send(topics.GRANTS, revoked())
    gone = await ask(service, "POST", path)
    assert (gone.status_code, gone.json()["type"].rpartition("/")[2]) == (409, "not-repeatable")


async def _outcomes(service: Running, endpoint: dict[str, Any], count: int) -> bool:
    (one,) = await of(service, endpoint)
    return len(one.history) == count and one.attempts == 0


def revoked() -> GrantUpdated:
    return grant(2, scopes=("insights:read",), revoked=True)


async def test_what_waits_is_cancelled_when_its_grant_has_died(
    service: Running, receiver: Receiver, clock: MovableClock
):
    receiver.answers.extend(broken(1))
    made = await created(service, receiver.url, ordered=True)
    for number in (1, 2):
        await tell(service, number)
    await eventually(lambda: tried_in_order(service, made, [1, 0]))
    await service.send(topics.GRANTS, revoked())
    clock.ahead += timedelta(minutes=1)
    await eventually(lambda: states(service, made, ["cancelled", "cancelled"]))
    assert [one.body for one in await of(service, made)] == [None, None]
    assert len(receiver.received) == 1


async def test_what_is_old_is_let_go_but_each_users_newest_message(
    service: Running, receiver: Receiver, clock: MovableClock, tmp_path: Path
):
    made = await created(service, receiver.url)
    for number in (1, 2, 3):
        await tell(service, number)
    await eventually(lambda: states(service, made, ["delivered"] * 3))
    store = service.app.state.store
    async with database(tmp_path) as documents:
        pruner = Pruner(documents, store, clock, timedelta(days=30))
        assert await pruner.prune() == 0
        clock.ahead += timedelta(days=31)
        assert await pruner.prune() == 5
        assert [one.sequence for one in (await documents.find(MESSAGES, "stored")).documents] == [3]
    assert await of(service, made) == ()
    await tell(service, 4)
    await eventually(lambda: len(receiver.received) == 4)
    assert sequences(receiver)[-1] == 4


@pytest.mark.parametrize("by", ["a retry", "a replay"])
async def test_that_a_user_was_erased_can_be_told_again_as_long_as_nobody_took_it(
    service: Running, receiver: Receiver, clock: MovableClock, by: str
):
    receiver.answers.extend(broken(1, status=410))
    made = await created(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.USERS, UserErased(event_id="e", occurred_at=utc_now(), user_id=USER, revision=2))
    await eventually(lambda: states(service, made, ["failed"]))
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}"
    await enabled_again(service, made)
    [failed] = await of(service, made)
    retries = f"/v1/deliveries/{failed.id}/retries"
    if by == "a retry":
        assert (await ask(service, "POST", retries)).status_code == 202
    else:
        since = (utc_now() - timedelta(hours=1)).isoformat()
        assert (await ask(service, "POST", f"{path}/replays", {"failed_since": since})).status_code == 202
    await eventually(lambda: states(service, made, ["delivered"]))
    first, again = receiver.received
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    assert json.loads(again.body)["data"] == {"user_id": USER}
    # Once it was taken, nothing of the user is kept.
    assert [one.body for one in await of(service, made)] == [None]
    assert (await ask(service, "POST", retries)).status_code == 409
