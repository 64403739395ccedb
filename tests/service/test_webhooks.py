"""The webhooks service with its real database, delivering to a real server on the loopback address."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from aiohttp import web
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from standardwebhooks import Webhook

from services.webhooks.app import create_app
from services.webhooks.mapping import public_message
from services.webhooks.schedule import WAITS
from services.webhooks.settings import Settings
from services.webhooks.signing import parsed, verify
from services.webhooks.store import Delivery, Store
from shared import telemetry, topics
from shared.clock import utc_now
from shared.documents import Documents, Duplicate, Page
from shared.errors import Unavailable
from shared.events.auth import GrantUpdated, PartnerUpdated, UserErased
from shared.events.inference import PhotoRejected
from shared.events.ingest import DayMetric, DayUpdated
from shared.events.insights import Fact, InsightCreated
from shared.events.webhooks import MessagePublished
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.receiver import LOCAL_DELIVERIES, Receiver, receiving
from tests.service.running import Running, common_settings, running

USER, PARTNER = "user-1", "partner-1"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
DEAD = topics.DAYS.dead_letters("webhooks")
DEAD_INSIGHT = topics.INSIGHTS.dead_letters("webhooks")
DEAD_PARTNER = topics.PARTNERS.dead_letters("webhooks")
SCOPES = ("days:read", "diary:read", "ledger:read", "insights:read", "photos:read", "samples:read")


class MovableClock:
    """The present, which a test can push forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def service(tmp_path: Path, clock: MovableClock) -> AsyncGenerator[Running]:
    async with webhooks(tmp_path, clock) as one:
        yield one


def webhooks(folder: Path, clock: MovableClock, **changed: Any):
    values = common_settings(folder) | LOCAL_DELIVERIES | changed
    settings = Settings(**values)
    broker = make_broker(settings, "webhooks")
    app = create_app(settings, broker=broker, clock=clock)
    return running(app, broker, "webhooks", folder, listen=(topics.MESSAGES.name, DEAD, DEAD_INSIGHT, DEAD_PARTNER))


def insight(number: int = 1, user_id: str = USER) -> InsightCreated:
    return InsightCreated(
        event_id=f"insight-{user_id}-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=user_id,
        insight_id=f"i{number}",
        date=date(2026, 3, 1),
        title="Steps",
        text="11,143 steps",
        facts=(Fact(id="steps", value=Decimal("11143"), unit="{steps}", window="1 d", n=2),),
        mode="deterministic",
    )


def day(number: int = 1, user_id: str = USER) -> DayUpdated:
    return DayUpdated(
        event_id=f"day-{user_id}-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=user_id,
        date=date(2026, 3, 1),
        zone="Europe/Berlin",
        revision=number,
        metrics={"steps": DayMetric(unit="{steps}", count=2, sum=11143)},
    )


def rejected_photo(number: int) -> PhotoRejected:
    return PhotoRejected(
        event_id=f"photo-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=USER,
        photo_id=f"p{number}",
        reason="no-label",
        detail="Take it closer.",
    )


def grant(revision: int = 1, *, scopes: tuple[str, ...] = SCOPES, revoked: bool = False, **changed: Any):
    values: dict[str, Any] = {
        "event_id": f"grant-{revision}",
        "occurred_at": utc_now() - timedelta(seconds=5),
        "grant_id": "grant",
        "user_id": USER,
        "partner_id": PARTNER,
        "revision": revision,
        "scopes": scopes,
        "revoked_at": utc_now() if revoked else None,
    }
    return GrantUpdated(**(values | changed))


async def endpoint(service: Running, url: str, *, partner: str = PARTNER, key: str = "k", **fields: Any):
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    return await service.http.post(
        "/v1/webhook-endpoints", json={"url": url, "payload": "full", **fields}, headers=headers
    )


def store(service: Running) -> Store:
    return service.app.state.store


async def deliveries(service: Running, made: Any) -> tuple[Delivery, ...]:
    return await store(service).deliveries(made.json()["endpoint_id"])


def messages(service: Running) -> list[MessagePublished]:
    values = service.published[topics.MESSAGES.name]
    return [MessagePublished.model_validate_json(value) for value in values]


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


async def delivered(service: Running, made: Any) -> tuple[Delivery, ...]:
    found = await deliveries(service, made)
    return found if all(one.state == "delivered" for one in found) else ()


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
    async with webhooks(tmp_path, clock) as one, webhooks(tmp_path, clock) as other:
        sends = [one.send(topics.INSIGHTS, insight(number)) for number in range(10)]
        sends += [other.send(topics.READINGS, rejected_photo(number)) for number in range(10)]
        sends += [other.send(topics.INSIGHTS, insight(3))]
        await asyncio.gather(*sends)
        found = [*messages(one), *messages(other)]
    assert {one.sequence for one in found} == set(range(1, 21))
    assert len({one.message_id for one in found}) == 20


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


async def tried(service: Running, made: Any, tries: int) -> tuple[Delivery, ...]:
    found = await deliveries(service, made)
    return found if found and all(one.tries >= tries for one in found) else ()


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


async def state_of(service: Running, made: Any, state: str) -> bool:
    return [one.state for one in await deliveries(service, made)] == [state]


async def test_an_endless_answer_is_cut_off(service: Running, receiver: Receiver):
    receiver.trickle = True
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    (done,) = await eventually(lambda: delivered(service, made))
    assert len(done.history[0].answer) == 2048


async def test_nothing_leaves_without_a_grant_that_covers_it(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant(scopes=("days:read",)))
    await service.send(topics.GRANTS, grant(grant_id="g2", user_id="another", event_id="g2"))
    await service.send(topics.INSIGHTS, insight())
    assert await deliveries(service, made) == ()
    await service.send(topics.DAYS, day())
    await eventually(lambda: delivered(service, made))
    assert [json.loads(one.body)["type"] for one in receiver.received] == ["day.updated"]


async def test_a_grant_that_ends_cancels_what_waits(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.append(web.Response(status=500))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: tried(service, made, 1))
    await service.send(topics.GRANTS, grant(2, revoked=True))
    # Late news of the old revision changes nothing.
    await service.send(topics.GRANTS, grant(1))
    clock.ahead = timedelta(seconds=7)
    await eventually(lambda: state_of(service, made, "cancelled"))
    (cancelled,) = await deliveries(service, made)
    assert (cancelled.body, cancelled.due_at, len(receiver.received)) == (None, None, 1)
    await service.send(topics.INSIGHTS, insight(2))
    assert len(await deliveries(service, made)) == 1


def partner(revision: int, state: Literal["active", "suspended"]) -> PartnerUpdated:
    return PartnerUpdated(
        event_id=f"partner-{revision}",
        occurred_at=utc_now(),
        partner_id=PARTNER,
        revision=revision,
        name="Oat & Co",
        scopes=SCOPES,
        state=state,
    )


async def test_a_suspended_partner_gets_nothing_until_it_may_work_again(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    for _ in range(2):
        await service.send(topics.PARTNERS, partner(2, "suspended"))
    # Late news of the old revision changes nothing.
    await service.send(topics.PARTNERS, partner(1, "active"))
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: state_of(service, made, "cancelled"))
    (cancelled,) = await deliveries(service, made)
    assert (cancelled.body, cancelled.last_error, receiver.received) == (None, "the partner is suspended", [])
    await service.send(topics.PARTNERS, partner(3, "active"))
    await service.send(topics.INSIGHTS, insight(2))
    await eventually(lambda: len(receiver.received) == 1)


async def test_a_suspended_partner_hears_all_the_same_whom_it_must_forget(service: Running, receiver: Receiver):
    await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.PARTNERS, partner(1, "suspended"))
    erased = UserErased(event_id="e", occurred_at=utc_now(), user_id=USER, revision=2)
    await service.send(topics.USERS, erased)
    await eventually(lambda: len(receiver.received) == 1)
    assert json.loads(receiver.received[0].body)["type"] == "user.erased"


async def test_unreadable_news_of_a_partner_is_a_dead_letter(service: Running):
    await service.send_bytes(topics.PARTNERS, b"{")
    await eventually(lambda: len(service.published[DEAD_PARTNER]) == 1)


async def test_news_of_a_grant_may_come_after_the_first_events(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.DAYS, day())
    await service.send(topics.INSIGHTS, insight())
    assert await deliveries(service, made) == ()
    await service.send(topics.GRANTS, grant())
    await eventually(lambda: delivered(service, made))
    assert {json.loads(one.body)["type"] for one in receiver.received} == {"day.updated", "insight.created"}


async def test_a_grant_does_not_reach_back(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.DAYS, day())
    await service.send(topics.GRANTS, grant(occurred_at=utc_now() + timedelta(seconds=1)))
    assert await deliveries(service, made) == ()


async def test_only_the_types_asked_for(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url, event_types=["insight.created", "insight.created"])
    assert made.json()["event_types"] == ["insight.created"]
    await service.send(topics.GRANTS, grant())
    await service.send(topics.DAYS, day())
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: delivered(service, made))
    assert [json.loads(one.body)["type"] for one in receiver.received] == ["insight.created"]


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
        above = spans[child].parent
        assert above is not None
        assert spans[parent].context is not None
        assert above.span_id == spans[parent].context.span_id
    assert f"{spans['webhook deliver'].context.span_id:016x}" in receiver.received[0].headers["traceparent"]
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
