"""One delivery: tried again, given up, cut off, and where none goes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.webhooks.schedule import WAITS
from services.webhooks.store import Delivery
from shared import topics
from tests.polling import eventually
from tests.service import webhook_endpoints
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import webhooks
from tests.service.webhook_events import (
    PARTNER,
    delivered,
    deliveries,
    endpoint,
    grant,
    insight,
    state_of,
    tried,
)

service = webhook_endpoints.heard


async def test_a_failing_receiver_is_tried_again_later(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.append(web.Response(status=500, text="broken" * 1000))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    (waiting,) = await eventually(lambda: tried(service, made, 1))
    assert waiting.state == "pending"
    assert waiting.due_at is not None
    assert timedelta(seconds=3.9) < waiting.due_at - waiting.history[0].at < timedelta(seconds=7)
    assert len(waiting.history[0].answer) == 2048
    assert "500" in (waiting.history[0].error or "")
    clock.ahead = timedelta(seconds=7)
    (done,) = await eventually(lambda: delivered(service, made))
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert [one.status for one in done.history] == [500, 200]


async def test_after_ten_tries_it_is_given_up(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.extend(web.Response(status=503, headers={"Retry-After": "2"}) for _ in range(11))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    for number in range(1, 11):
        await eventually(lambda number=number: _tried_later(service, made, number, clock))
        clock.ahead += WAITS[number % 10] * 1.25 + timedelta(minutes=1)
    (given_up,) = await deliveries(service, made)
    assert (given_up.state, given_up.due_at, given_up.body) == ("failed", None, None)
    assert len(receiver.received) == len(given_up.history) == 10


async def _tried_later(service: Running, made: Any, tries: int, clock: MovableClock) -> tuple[Delivery, ...]:
    """As `tried`; the clock goes on, past the pauses after failures in a row."""
    clock.ahead += timedelta(seconds=1)
    return await tried(service, made, tries)


async def test_a_redirect_is_a_failure(service: Running, receiver: Receiver):
    receiver.answers.append(web.Response(status=302, headers={"Location": receiver.url + "/elsewhere"}))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    (waiting,) = await eventually(lambda: tried(service, made, 1))
    assert "redirect" in (waiting.history[0].error or "")
    assert len(receiver.received) == 1


async def test_gone_disables_the_endpoint(service: Running, receiver: Receiver):
    receiver.answers.append(web.Response(status=410))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight(1))
    await eventually(lambda: state_of(service, made, "failed"))
    await service.send(topics.INSIGHTS, insight(2))
    assert len(await deliveries(service, made)) == 1
    listed = await service.get("/v1/webhook-endpoints", partner_id=PARTNER)
    (shown,) = listed.json()["endpoints"]
    assert (shown["state"], shown["state_reason"]) == ("disabled", "the receiver answered 410 Gone")


async def test_an_endless_answer_is_cut_off(service: Running, receiver: Receiver):
    receiver.trickle = True
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    (done,) = await eventually(lambda: delivered(service, made))
    assert len(done.history[0].answer) == 2048


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://10.0.0.1/x", "networks"),
        ("http://169.254.169.254/latest", "networks"),
        ("http://[::1]/x", "networks"),
        ("http://[::ffff:10.0.0.1]/x", "networks"),
        ("http://0x0a.1/x", "in full"),
        ("ftp://127.0.0.1/x", "https"),
        ("127.0.0.1/x", "https"),
        ("http://me:secret@127.0.0.1/x", "user"),
        ("http://127.0.0.1/x#y", "fragment"),
        ("http://127.0.0.1:99999/x", "65535"),
        ("http://127.0.0.1/x\r\nHost: evil", "characters"),
        ("http://[::1%25lo]/x", "read"),
    ],
)
async def test_urls_that_deliveries_must_not_go_to(service: Running, url: str, word: str):
    answer = await endpoint(service, url)
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("/url-not-allowed")
    assert word in answer.json()["detail"]


async def test_an_address_that_is_not_allowed_any_more_gets_no_connection(
    tmp_path: Path, clock: MovableClock, receiver: Receiver
):
    async with webhooks(tmp_path, clock) as before:
        made = await endpoint(before, receiver.url)
        await before.send(topics.GRANTS, grant())
    async with webhooks(tmp_path, clock, webhooks_allow_cidrs="10.0.0.0/8") as after:
        await after.send(topics.INSIGHTS, insight())
        (refused,) = await eventually(lambda: tried(after, made, 1))
    assert "networks" in (refused.history[0].error or "")
    assert refused.history[0].status is None
    assert receiver.received == []
