"""The two stories end to end over HTTP, on real parts, with assertions on their content."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from infra.local import labels, trace_tree
from infra.local.demo import LABEL
from infra.local.phone import Phone, Refused, half_a_day
from infra.local.receiver import Delivered, Receiver
from tests.client import signed_in, with_partner
from tests.polling import eventually
from tests.running_stack import Stack

DATE = "2026-03-01"
MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)


def batch(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": samples}


async def stored(phone: Phone, receipt_id: str) -> dict[str, Any]:
    answer = await phone.poll(f"/v1/receipts/{receipt_id}", lambda body: body["state"] != "queued")
    assert answer.body["state"] == "stored"
    return answer.body


async def delivered(receiver: Receiver | None, type: str, user_id: str, **data: object) -> Delivered:
    assert receiver is not None
    return await receiver.wait_for(type, user_id, deadline=time.monotonic() + 30, **data)


async def test_a_batch_becomes_a_day_a_ledger_an_insight_and_signed_webhooks(stack: Stack):
    async with signed_in(stack.url) as user, with_partner(user, stack.partner_key) as client:
        listening = asyncio.create_task(client.phone.listen())
        samples = half_a_day(MORNING)
        answer = await client.phone.send("POST", "/v1/batches", key=str(uuid4()), body=batch(samples))
        receipt = await stored(client.phone, answer.body["receipt_id"])
        assert (receipt["received"], receipt["stored"], receipt["refused"]) == (1440, 1440, [])

        day = await delivered(client.receiver, "day.updated", client.user_id, date=DATE)
        steps = sum(sample["value"] for sample in samples if sample["metric"] == "steps")
        assert day.body["data"]["metrics"]["steps"]["sum"] == steps
        ledger = await delivered(client.receiver, "ledger.updated", client.user_id, date=DATE)
        insight = await delivered(client.receiver, "insight.created", client.user_id, date=DATE)
        assert f"{steps:,}" in insight.body["data"]["text"]
        for message in (day, ledger, insight):
            sequence = message.body["data"]["sequence"]
            live = await client.phone.wait_for(message.body["type"], sequence=sequence)
            assert live["data"] == message.body["data"]
            assert message.body["data"]["trace_id"] == answer.trace_id

        shown = (await client.phone.send("GET", f"/v1/ledger/{DATE}")).body
        assert Decimal(shown["expenditure_kcal"]) == sum(
            Decimal(line["energy_kcal"]) for line in shown["lines"] if line["direction"] == "out"
        )
        hops = {"gateway", "ingest", "insights", "webhooks"}
        found = await asyncio.to_thread(trace_tree.wait_for, stack.instance.traces, answer.trace_id, hops, 15)
        roots = [span for span in found if not span.parent_id]
        assert [(root.service, root.name) for root in roots] == [("gateway", "POST /v1/batches")]
        listening.cancel()


async def test_a_label_becomes_a_food_a_diary_entry_and_intake(stack: Stack):
    async with signed_in(stack.url) as user, with_partner(user, stack.partner_key) as client:
        path = f"/v1/photos?grams=80&eaten_at={DATE}T12:30:00%2B01:00"
        picture = labels.render_label(LABEL)
        sent = await client.phone.send("PUT", path, key=str(uuid4()), content_type="image/png", body=picture)
        photo = f"/v1/photos/{sent.body['photo_id']}"
        answer = await client.phone.poll(photo, lambda body: body["state"] != "queued")
        assert answer.body["state"] == "read"
        amounts = {name: answer.body["reading"][name]["amount"] for name in LABEL}
        assert {name: Decimal(amount) for name, amount in amounts.items()} == {
            name: Decimal(printed) for name, printed in LABEL.items()
        }

        created = await delivered(client.receiver, "entry.created", client.user_id)
        assert created.body["data"]["entry"]["date"] == DATE
        diary = (await client.phone.send("GET", f"/v1/diary/{DATE}")).body
        assert len(diary["entries"]) == 1
        assert Decimal(diary["totals"]["energy_kcal"]) == Decimal("299.2")
        counted = await client.phone.poll(
            f"/v1/ledger/{DATE}", lambda body: Decimal(body["intake_kcal"]) == Decimal("299.2")
        )
        assert Decimal(counted.body["balance_kcal"]) == Decimal("299.2") - Decimal(counted.body["expenditure_kcal"])
        hops = {"gateway", "inference", "triton", "nutrition", "insights", "webhooks"}
        await asyncio.to_thread(trace_tree.wait_for, stack.instance.traces, sent.trace_id, hops, 15)


async def test_the_same_batch_twice_is_stored_once(stack: Stack):
    async with signed_in(stack.url) as client:
        samples = half_a_day(MORNING)
        first = await client.phone.send("POST", "/v1/batches", key="one", body=batch(samples))
        again = await client.phone.send("POST", "/v1/batches", key="one", body=batch(samples))
        other = await client.phone.send("POST", "/v1/batches", key="two", body=batch(samples))
        assert again.body["receipt_id"] == first.body["receipt_id"] != other.body["receipt_id"]
        assert (await stored(client.phone, first.body["receipt_id"]))["stored"] == 1440
        repeated = await stored(client.phone, other.body["receipt_id"])
        assert (repeated["stored"], repeated["duplicates"]) == (0, 1440)
        day = (await client.phone.send("GET", f"/v1/days/{DATE}")).body
        assert day["metrics"]["steps"]["count"] == 720


async def test_what_is_refused_stands_on_the_receipt(stack: Stack):
    async with signed_in(stack.url) as client:
        start = MORNING.isoformat()
        samples = [
            {"metric": "heart_rate", "start": start, "value": 61},
            {"metric": "heart_rate", "start": "yesterday", "value": 61},
            {"metric": "mood", "start": start, "value": 1},
            {"metric": "heart_rate", "start": start, "value": 4000},
            {"metric": "heart_rate", "start": (datetime.now(UTC) + timedelta(days=3)).isoformat(), "value": 61},
        ]
        answer = await client.phone.send("POST", "/v1/batches", key="one", body=batch(samples))
        receipt = await stored(client.phone, answer.body["receipt_id"])
        assert receipt["stored"] == 1
        codes = {refused["index"]: refused["code"] for refused in receipt["refused"]}
        assert codes == {1: "bad-time", 2: "unknown-metric", 3: "out-of-range", 4: "in-future"}


async def test_a_picture_without_a_label_is_rejected_with_what_to_do(stack: Stack):
    async with signed_in(stack.url) as user, with_partner(user, stack.partner_key) as client:
        picture = labels.render_label({})
        sent = await client.phone.send("PUT", "/v1/photos", key="one", content_type="image/png", body=picture)
        photo = f"/v1/photos/{sent.body['photo_id']}"
        answer = await client.phone.poll(photo, lambda body: body["state"] != "queued")
        assert answer.body["state"] == "rejected"
        assert answer.body["detail"]
        await delivered(client.receiver, "photo.rejected", client.user_id)


async def test_what_belongs_to_another_user_is_not_there(stack: Stack):
    async with signed_in(stack.url) as owner, signed_in(stack.url) as other:
        answer = await owner.phone.send("POST", "/v1/batches", key="one", body=batch(half_a_day(MORNING)))
        receipt = f"/v1/receipts/{answer.body['receipt_id']}"
        await stored(owner.phone, answer.body["receipt_id"])
        answers: list[dict[str, Any]] = []
        for path in (receipt, f"/v1/receipts/rcp_{'a' * 39}"):
            try:
                await other.phone.send("GET", path)
            except Refused as refused:
                answers.append(refused.problem | {"instance": ""})
        assert len(answers) == 2
        assert answers[0] == answers[1]
        assert answers[0]["status"] == 404


async def test_live_resumes_without_gap_or_repeat(stack: Stack):
    async with signed_in(stack.url) as client:
        for minute in range(3):
            start = (MORNING + timedelta(minutes=minute)).isoformat()
            sample = [{"metric": "heart_rate", "start": start, "value": 60 + minute}]
            await client.phone.send("POST", "/v1/batches", key=str(minute), body=batch(sample))
        await client.phone.poll("/v1/events?after=0", lambda body: len(body["events"]) >= 4)
        client.phone.seen = {1: {"type": "seen before", "data": {}}}
        listening = asyncio.create_task(client.phone.listen())
        known = (await client.phone.send("GET", "/v1/events?after=0")).body["events"]
        last = known[-1]["sequence"]
        await eventually(lambda: last in client.phone.seen, seconds=20)
        assert sorted(client.phone.seen)[:last] == list(range(1, last + 1))
        assert client.phone.seen[1]["type"] == "seen before"
        listening.cancel()
