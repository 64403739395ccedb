"""The webhooks service with its real database, delivering to a real server on the loopback address."""

import asyncio
import json
import logging
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from standardwebhooks import Webhook

from services.webhooks.mapping import public_message
from services.webhooks.settings import Settings
from services.webhooks.signing import parsed, verify
from services.webhooks.store import Store
from shared import telemetry, topics
from shared.clock import utc_now
from shared.documents import Documents, Duplicate, Page
from shared.errors import Unavailable
from tests.polling import eventually
from tests.service import webhook_endpoints
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_endpoints import tell, webhooks
from tests.service.webhook_events import (
    DEAD,
    DEAD_INSIGHT,
    LISTEN,
    PARTNER,
    TRACE,
    TRACEPARENT,
    USER,
    day,
    delivered,
    deliveries,
    endpoint,
    grant,
    insight,
    messages,
    rejected_photo,
)

service = webhook_endpoints.heard


async def test_an_event_becomes_a_signed_delivery_and_a_public_message(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    assert made.status_code == 201
    await service.send(topics.GRANTS, grant())
    await service.send(topics.DAYS, day(), traceparent=TRACEPARENT)

    await eventually(lambda: receiver.received)
    request = receiver.received[0]
    secret = made.json()["secret"]
    Webhook(secret).verify(request.body, dict(request.headers))
    verify([parsed(secret)], request.headers, request.body, utc_now())
    body = json.loads(request.body)
    assert body["type"] == "day.updated"
    assert body["timestamp"] == "2026-03-01T08:00:00.000Z"
    assert body["data"]["sequence"] == 1
    assert body["data"]["trace_id"] == TRACE
    assert body["data"]["link"] == "/v1/days/2026-03-01"
    assert body["data"]["metrics"]["steps"]["sum"] == 11143
    assert request.headers["traceparent"].split("-")[1] == TRACE
    (message,) = messages(service)
    assert message.message_id == request.headers["webhook-id"]
    assert (message.sequence, message.data) == (1, body["data"])
    (delivery,) = await eventually(lambda: delivered(service, made))
    assert delivery.body is None
    assert [(one.status, one.error) for one in delivery.history] == [(200, None)]


async def test_the_same_event_twice_is_one_message_and_one_delivery(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    for _ in range(2):
        await service.send(topics.INSIGHTS, insight())
        await service.send(topics.DAYS, day())
        await service.send(topics.GRANTS, grant())
    await eventually(lambda: delivered(service, made))
    assert len(await deliveries(service, made)) == len(receiver.received) == 2
    # Published from what is stored, each time.
    assert [one.sequence for one in messages(service)] == [1, 2, 1, 2]
    assert len({one.event_id for one in messages(service)}) == 2


async def test_bad_messages_are_dead_letters_and_the_next_one_is_handled(
    service: Running, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL)
    for topic in (topics.DAYS, topics.INSIGHTS):
        await service.send_bytes(topic, b"\xff not json")
        await service.send_bytes(topic, b'{"type": "' + topic.events[0].model_fields["type"].default.encode() + b'"}')
    await service.send(topics.DAYS, day())
    await service.send(topics.INSIGHTS, insight())
    assert (len(service.published[DEAD]), len(service.published[DEAD_INSIGHT])) == (2, 2)
    assert [one.sequence for one in messages(service)] == [1, 2]


async def test_twenty_events_at_once_count_from_1_to_20(service: Running):
    sends = [service.send(topics.DAYS, day(number)) for number in range(8)]
    sends += [service.send(topics.INSIGHTS, insight(number)) for number in range(6)]
    sends += [service.send(topics.READINGS, rejected_photo(number)) for number in range(6)]
    sends += [service.send(topics.INSIGHTS, insight(1, "another"))]
    await asyncio.gather(*sends)
    mine = [one for one in messages(service) if one.user_id == USER]
    assert sorted(one.sequence for one in mine) == list(range(1, 21))
    assert all(one.data["sequence"] == one.sequence for one in mine)
    answer = await service.get("/v1/events?after=5&limit=10", user_id=USER)
    assert [one["sequence"] for one in answer.json()["events"]] == list(range(6, 16))
    assert answer.json()["has_more"] is True
    rest = await service.get("/v1/events?after=15&limit=10", user_id=USER)
    assert [one["sequence"] for one in rest.json()["events"]] == list(range(16, 21))
    assert (rest.json()["has_more"], rest.json()["last_sequence"]) == (False, 20)
    beyond = (await service.get("/v1/events?after=99", user_id=USER)).json()
    assert beyond == {"events": [], "has_more": False, "next_after": 99, "first_sequence": 1, "last_sequence": 20}
    other = await service.get("/v1/events", user_id="another")
    assert [one["sequence"] for one in other.json()["events"]] == [1]


async def test_events_are_shown_as_far_as_the_callers_scopes_reach(service: Running):
    for number in range(3):
        await service.send(topics.DAYS, day(number))
        await service.send(topics.INSIGHTS, insight(number))
    seen: list[str] = []
    after, more = 0, True
    while more:
        scopes = ("live:read", "insights:read")
        page = (await service.get(f"/v1/events?after={after}&limit=1", user_id=USER, scopes=scopes)).json()
        seen += [one["type"] for one in page["events"]]
        after, more = page["next_after"], page["has_more"]
    assert seen == ["insight.created"] * 3
    none = (await service.get("/v1/events", user_id=USER, scopes=("live:read",))).json()
    assert (none["events"], none["next_after"], none["has_more"]) == ([], 6, False)


async def test_two_processes_share_one_sequence(tmp_path: Path, clock: MovableClock):
    async with webhooks(tmp_path, clock, listen=LISTEN) as one, webhooks(tmp_path, clock, listen=LISTEN) as other:
        sends = [one.send(topics.INSIGHTS, insight(number)) for number in range(10)]
        sends += [other.send(topics.READINGS, rejected_photo(number)) for number in range(10)]
        sends += [other.send(topics.INSIGHTS, insight(3))]
        await asyncio.gather(*sends)
        found = [*messages(one), *messages(other)]
    assert {one.sequence for one in found} == set(range(1, 21))
    assert len({one.message_id for one in found}) == 20


async def test_creating_an_endpoint_again_gives_the_same_one(service: Running, receiver: Receiver):
    first = await endpoint(service, receiver.url, event_types=["day.updated", "photo.read"])
    again = await endpoint(service, receiver.url, event_types=["photo.read", "day.updated"])
    assert first.json() == again.json()
    reused = await endpoint(service, receiver.url)
    assert (reused.status_code, reused.json()["type"].rsplit("/")[-1]) == (422, "idempotency-key-reused")
    headers = service.headers(partner_id=PARTNER)
    without = await service.http.post("/v1/webhook-endpoints", json={"url": receiver.url}, headers=headers)
    assert (without.status_code, without.json()["type"].rsplit("/")[-1]) == (400, "idempotency-key-required")


async def test_partners_do_not_see_each_other(service: Running, receiver: Receiver):
    mine = await endpoint(service, receiver.url)
    other = await endpoint(service, receiver.url, partner="partner-2")
    assert mine.json()["endpoint_id"] != other.json()["endpoint_id"]
    assert mine.json()["secret"] != other.json()["secret"]
    listed = (await service.get("/v1/webhook-endpoints", partner_id="partner-2")).json()["endpoints"]
    assert [one["endpoint_id"] for one in listed] == [other.json()["endpoint_id"]]
    assert "secret" not in listed[0]
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    assert await deliveries(service, other) == ()


async def test_a_partner_has_at_most_100_endpoints(service: Running, receiver: Receiver):
    made = [await endpoint(service, receiver.url, key=str(number)) for number in range(101)]
    assert [one.status_code for one in made] == [201] * 100 + [409]


async def test_who_may_call(service: Running):
    user = await service.get("/v1/webhook-endpoints", user_id=USER)
    partner = await service.get("/v1/events", partner_id=PARTNER)
    narrow = await service.get("/v1/events", user_id=USER, scopes=("days:read",))
    nobody = await service.http.get("/v1/events")
    assert [one.status_code for one in (user, partner, narrow, nobody)] == [403, 403, 403, 401]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"url": 1}', b'{"url": "http://127.0.0.1", "event_types": ["x"]}']
)
async def test_broken_requests_are_answered_with_a_problem(service: Running, body: bytes):
    headers = service.headers(partner_id=PARTNER, key="k") | {"content-type": "application/json"}
    answer = await service.http.post("/v1/webhook-endpoints", content=body, headers=headers)
    assert answer.status_code == (400 if body == b"{" else 422)
    assert answer.headers["content-type"] == "application/problem+json"
    for query in ("after=-1", "after=x", "limit=0", "limit=1001", f"after={10**30}"):
        assert (await service.get(f"/v1/events?{query}", user_id=USER)).status_code == 422


async def test_the_trace_runs_from_the_event_to_the_partner(service: Running, receiver: Receiver):
    exporter = InMemorySpanExporter()
    telemetry.configure("webhooks", Settings(), exporter=exporter)
    try:
        made = await endpoint(service, receiver.url)
        await service.send(topics.GRANTS, grant())
        await service.send(topics.DAYS, day(), traceparent=TRACEPARENT)
        await eventually(lambda: delivered(service, made))
        telemetry.flush()
    finally:
        telemetry.shutdown()
    spans = {
        span.name: span
        for span in exporter.get_finished_spans()
        if span.context is not None and f"{span.context.trace_id:032x}" == TRACE
    }
    path = ["webhook deliver", "deliveries work", "ingest.days.v1 process", "ingest.days.v1 publish"]
    for child, parent in pairwise(path):
        below, above = spans[child].parent, spans[parent].context
        assert below is not None
        assert above is not None
        assert below.span_id == above.span_id
    sent = spans["webhook deliver"].context
    assert sent is not None
    assert f"{sent.span_id:016x}" in receiver.received[0].headers["traceparent"]
    assert "webhooks.messages.v1 publish" in spans


async def test_a_crowded_sequence_is_tried_later_and_is_no_dead_letter(clock: MovableClock):
    class Crowded:
        """A database where somebody else is always faster."""

        async def get_many(self, _: object, ids: list[str]) -> list[None]:
            return [None for _ in ids]

        async def find(self, *_: object, **__: object) -> Page[Any]:
            return Page((), None)

        async def put_many(self, *_: object) -> None:
            raise Duplicate("messages", "sequence")

    with pytest.raises(Unavailable, match="database"):
        await Store(cast(Documents, Crowded()), clock).number([(public_message(insight()), None)])


async def test_events_can_be_asked_for_by_type(service: Running):
    for number in range(3):
        await tell(service, number)
    for query, expected in [("type=insight.created", [1, 2, 3]), ("type=day.updated", []), ("", [1, 2, 3])]:
        page = (await service.get(f"/v1/events?{query}", user_id=USER)).json()
        assert [one["sequence"] for one in page["events"]] == expected
        assert (page["next_after"], page["first_sequence"], page["last_sequence"]) == (3, 1, 3)
    both = await service.get("/v1/events?type=day.updated&type=insight.created&after=2", user_id=USER)
    assert [one["sequence"] for one in both.json()["events"]] == [3]
    assert (await service.get("/v1/events?type=user.erased", user_id=USER)).status_code == 422
    assert (await service.get("/v1/events?type=x", user_id=USER)).status_code == 422
    nothing = (await service.get("/v1/events", user_id="nobody")).json()
    assert (nothing["first_sequence"], nothing["last_sequence"]) == (1, 0)


async def test_anybody_may_read_what_messages_look_like(service: Running):
    answer = await service.http.get("/v1/event-types")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=3600")
    assert [one["type"] for one in answer.json()["event_types"]][:2] == ["receipts.completed", "day.updated"]
    assert datetime.fromisoformat(answer.json()["event_types"][0]["examples"]["full"]["timestamp"]).tzinfo == UTC
