"""Whole stories through all services, from the phone to the partner."""

from collections import Counter
from decimal import Decimal
from typing import Any

import httpx2
import msgspec

from services.gateway.receipts import RECEIPT_PREFIX, Ids
from shared import topics
from shared.events.gateway import BatchSubmitted
from tests.flows.people import (
    DATE,
    LUNCH,
    OF_A_BATCH,
    OF_A_PHOTO,
    Person,
    delivered,
    register_endpoint,
    signed_in,
    walk,
)
from tests.flows.whole import Whole
from tests.labels import LABELS
from tests.polling import eventually
from tests.service.gateway_edges import Stream


def as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """A stored message as webhooks and streams show it."""
    return {name: message[name] for name in ("type", "timestamp", "data")}


async def test_a_batch_becomes_a_day_a_ledger_an_insight_and_signed_deliveries(system: Whole) -> None:
    await register_endpoint(system)
    person = await signed_in(system)
    await person.grant()
    stream = Stream(system.apps["gateway"], {"Authorization": f"Bearer {person.token}", "Last-Event-ID": "0"})
    assert await stream.open() == 200

    sent = await person.send_batch(walk(minutes=30))
    receipt = await person.ended(sent)
    assert (receipt["state"], receipt["received"], receipt["stored"], receipt["refused"]) == ("stored", 60, 60, [])

    messages = await person.told(*OF_A_BATCH)
    assert [one["sequence"] for one in messages] == [1, 2, 3, 4]
    told = {one["type"]: one["data"] for one in messages}
    assert sorted(told) == sorted(OF_A_BATCH)
    assert {one["trace_id"] for one in told.values()} == {sent.headers["trace-id"]} == {sent.json()["trace_id"]}
    assert [one["receipt_id"] for one in told["receipts.completed"]["receipts"]] == [receipt["receipt_id"]]

    day = await person.get(f"/v1/days/{DATE}")
    assert day["metrics"]["steps"]["sum"] == 30 * 90
    assert day["metrics"] == told["day.updated"]["metrics"]
    ledger = await person.get(f"/v1/ledger/{DATE}")
    spent = [Decimal(line["energy_kcal"]) for line in ledger["lines"] if line["direction"] == "out"]
    assert Decimal(ledger["expenditure_kcal"]) == sum(spent) > 0
    assert ledger["lines"] == told["ledger.updated"]["lines"]
    (insight,) = (await person.get("/v1/insights"))["insights"]
    assert "2,700 steps" in insight["text"] == told["insight.created"]["text"]

    assert await delivered(system, person, 4) == [as_sent(one) for one in messages]
    assert system.receiver.refused == 0
    assert [event[2] for event in await stream.events(4)] == [as_sent(one) for one in messages]
    await stream.close()


async def test_a_photo_becomes_a_food_a_diary_entry_and_intake(system: Whole) -> None:
    person = await signed_in(system)
    photo = await person.ended(await person.send_photo())
    assert (photo["state"], photo["name"]) == ("read", "Crunchy Oat Muesli")
    read = {name: Decimal(one["amount"]) for name, one in photo["reading"].items()}
    assert read == LABELS[0].expected

    messages = await person.told(*OF_A_PHOTO)
    diary = await person.get(f"/v1/diary/{DATE}")
    (entry,) = diary["entries"]
    assert (entry["food_name"], entry["date"], entry["grams"]) == ("Crunchy Oat Muesli", DATE, "80")
    for name, amount in read.items():
        # 80 g of what the label says of 100 g, to a tenth
        assert abs(Decimal(entry["nutrients"][name]) - amount * Decimal("0.8")) <= Decimal("0.05"), name
    assert diary["totals"] == entry["nutrients"]
    assert [one["data"]["entry"] for one in messages if one["type"] == "entry.created"] == [entry]

    await person.send_photo("again at night", LUNCH.replace("12:30", "22:30").replace("=80", "=35"))
    await eventually(lambda: _entries(person, 2))
    diary = await person.get(f"/v1/diary/{DATE}")
    for name, total in diary["totals"].items():
        assert Decimal(total) == sum(Decimal(one["nutrients"][name]) for one in diary["entries"]), name
    ledger = await eventually(lambda: _eaten(person, Decimal(diary["totals"]["energy_kcal"])))
    assert Decimal(ledger["balance_kcal"]) == Decimal(ledger["intake_kcal"]) - Decimal(ledger["expenditure_kcal"])


async def _entries(person: Person, count: int) -> bool:
    return len((await person.get(f"/v1/diary/{DATE}"))["entries"]) == count


async def _eaten(person: Person, energy_kcal: Decimal) -> dict[str, Any]:
    ledger = await person.get(f"/v1/ledger/{DATE}")
    return ledger if Decimal(ledger["intake_kcal"]) == energy_kcal else {}


async def test_everything_twice_makes_one_of_each(system: Whole) -> None:
    await register_endpoint(system)
    person = await signed_in(system)
    await person.grant()
    batch = await person.send_batch(walk())
    await person.ended(batch)
    await person.told(*OF_A_BATCH)
    photo = await person.send_photo()
    await person.ended(photo)
    await eventually(lambda: _told(person, 8))
    before = await delivered(system, person, 8), await _seen_by(person)

    assert (await person.send_batch(walk())).json()["receipt_id"] == batch.json()["receipt_id"]
    assert (await person.send_photo()).json()["photo_id"] == photo.json()["photo_id"]
    other = await person.send_batch(walk(), key="another")
    assert other.json()["receipt_id"] != batch.json()["receipt_id"]
    again = await person.ended(other)
    assert (again["stored"], again["duplicates"]) == (0, 60)
    # And Kafka may deliver every record again.
    for record in tuple(system.records):
        await system.publish(record.topic, record.value, record.key, record.headers)

    # What the repeats would have made comes before what follows them: one more receipt, and the next day's batch.
    await person.send_batch(walk(1, days_later=1), key="the next day")
    await eventually(lambda: _told(person, 8 + 1 + 4))
    assert [one["data"]["sequence"] for one in await delivered(system, person, 13)] == list(range(1, 14))
    assert (await delivered(system, person, 13))[:8] == before[0]
    assert await _seen_by(person) == before[1]
    assert sum(span.name == "POST /hook" for span in system.spans()) == 13
    assert system.ocr.pictures == 1


async def _told(person: Person, count: int) -> bool:
    messages = await person.messages()
    assert len(messages) <= count, Counter(one["type"] for one in messages)
    return len(messages) == count


async def _seen_by(person: Person) -> list[dict[str, Any]]:
    return [await person.get(f"/v1/{what}/{DATE}") for what in ("days", "diary", "ledger")]


async def test_poison_becomes_a_dead_letter_with_its_cause_and_the_next_is_handled(system: Whole) -> None:
    person = await signed_in(system)
    for topic in topics.TOPICS:
        if topic.readers:
            await system.publish(topic.name, b"\xff poison", b"key")
    for topic in topics.TOPICS:
        for reader in topic.readers:
            (dead,) = system.of(topic.dead_letters(reader))
            told = {name: dead.headers[name] for name in ("origin-topic", "service", "group", "reason")}
            assert (dead.value, dead.key) == (b"\xff poison", b"key")
            assert told == {
                "origin-topic": topic.name,
                "service": reader,
                "group": f"{reader}.{topic.name}",
                "reason": "undecodable",
            }

    await person.send_batch(walk())
    await person.told(*OF_A_BATCH)
    await person.send_photo()
    await eventually(lambda: _told(person, 8))
    assert sum(record.topic.endswith(".dlq") for record in system.records) == sum(
        len(topic.readers) for topic in topics.TOPICS
    )


async def test_a_batch_that_cannot_be_stored_ends_as_a_failed_receipt(system: Whole) -> None:
    person = await signed_in(system)
    sent = await person.send_batch(walk())
    (record,) = system.of(topics.BATCHES.name)
    whole_batch = msgspec.msgpack.decode(record.value, type=BatchSubmitted)
    ids = Ids(bytes.fromhex((system.folder / "receipts.key").read_text().strip()))
    receipt_id = ids.make(RECEIPT_PREFIX, person.user_id, "POST /v1/batches", "another", b"")
    broken = msgspec.structs.replace(
        whole_batch,
        receipt_id=receipt_id,
        series=(msgspec.structs.replace(whole_batch.series[0], value=b""),),
    )
    await system.publish(record.topic, msgspec.msgpack.encode(broken), record.key)

    failed = await person.get(f"/v1/receipts/{receipt_id}")
    assert (failed["state"], failed["reason"], failed["stored"]) == ("failed", "bad-columns", 0)
    assert (await person.ended(sent))["state"] == "stored"
    receipts = [one["data"]["receipts"][0] for one in await person.told(*OF_A_BATCH) if one["type"] == OF_A_BATCH[0]]
    assert {one["receipt_id"]: one["reason"] for one in receipts} == {
        sent.json()["receipt_id"]: None,
        receipt_id: "bad-columns",
    }


async def test_one_trace_runs_from_the_phone_to_the_partner(system: Whole) -> None:
    await register_endpoint(system)
    person = await signed_in(system)
    await person.grant()
    batch = await person.send_batch(walk())
    await person.ended(batch)
    await delivered(system, person, 4)
    photo = await person.send_photo()
    await delivered(system, person, 8)

    told = {("insights", "webhooks"), ("webhooks", "receiver")}
    of_batch = {("gateway", "ingest"), ("ingest", "insights"), ("ingest", "webhooks")}
    assert await eventually(lambda: _hops(system, batch)) == of_batch | told
    of_photo = {
        ("gateway", "inference"),
        ("inference", "nutrition"),
        ("inference", "webhooks"),
        ("nutrition", "insights"),
        ("nutrition", "webhooks"),
    }
    assert await eventually(lambda: _hops(system, photo)) == of_photo | told


def _hops(system: Whole, answer: httpx2.Response) -> set[tuple[str, str]]:
    """Which service's spans caused which other's, in the one tree of the answer's trace."""
    spans = [span for span in system.spans() if f"{span.context.trace_id:032x}" == answer.headers["trace-id"]]
    known = {span.context.span_id: span for span in spans}
    roots = [span.name for span in spans if span.parent is None]
    assert roots == [f"{answer.request.method} {answer.request.url.path}"]
    assert all(span.parent.span_id in known for span in spans if span.parent is not None)
    assert sum(span.name == "POST /hook" for span in spans) == 4
    pairs = {
        (known[span.parent.span_id].attributes["service"], span.attributes["service"])
        for span in spans
        if span.parent is not None
    }
    return {(cause, effect) for cause, effect in pairs if cause != effect}
