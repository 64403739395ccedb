"""Events inside documents are published in order, at least once, and cleared without touching anything else."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from msgspec.structs import replace

from shared.documents import Documents, Put
from shared.errors import Rejected, Unavailable
from shared.events.gateway import PhotoSubmitted
from shared.metrics import METRICS
from shared.outbox import MAX_PENDING, Relay, outbox_event, with_events
from shared.topics import PHOTOS
from tests.polling import eventually
from tests.service.outbox.scene import DAYS, LEDGERS, Broker, Day, cleared, event, running


async def test_a_nudge_publishes_in_order_and_clears(documents: Documents, broker: Broker) -> None:
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=60)) as relay:
        await documents.put(DAYS, with_events(Day(id="d", revision=3), event("a"), event("b"), event("c")))
        relay.nudge(DAYS, "d")
        day = await eventually(lambda: cleared(documents, "d"))
    assert broker.sent == ["a", "b", "c"]
    assert broker.traceparents == ["tp-a", "tp-b", "tp-c"]
    assert (day.revision, day.outbox_at) == (3, None)
    assert await documents.count(DAYS, "outbox") == 0


async def test_the_scan_finds_what_nobody_nudged_in_every_collection(documents: Documents, broker: Broker) -> None:
    days = [Put(DAYS, with_events(Day(id=str(n)), event(f"d{n}"))) for n in range(450)]
    await documents.put_many([*days, Put(LEDGERS, with_events(Day(id="l"), event("l")))])
    async with running(Relay(documents, [DAYS, LEDGERS], broker.publish, scan_seconds=0.05)):
        await eventually(lambda: len(broker.sent) >= 451)
        await eventually(lambda: cleared(documents, "449"))
    assert sorted(broker.sent) == sorted([f"d{n}" for n in range(450)] + ["l"])


async def test_a_failure_stops_its_document_only_and_is_repeated(documents: Documents, broker: Broker) -> None:
    broker.refuse = lambda value: value == "a2"
    await documents.put(DAYS, with_events(Day(id="a"), event("a1"), event("a2"), event("a3")))
    await documents.put(DAYS, with_events(Day(id="b"), event("b1")))
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=0.05)):
        await eventually(lambda: cleared(documents, "b"))
        await eventually(lambda: "a1" in broker.sent)
        broker.refuse = lambda value: False
        await eventually(lambda: cleared(documents, "a"))
    assert [sent for sent in broker.sent if sent.startswith("a")] == ["a1", "a2", "a3"]


async def test_an_event_that_can_never_be_sent_is_dropped_and_the_next_ones_go(
    documents: Documents, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(value: str) -> None:
        if value == "b":
            raise Rejected("event-too-large", "1000001 bytes; send it by reference")

    broker.before_ack = too_large
    dropped = METRICS.published.labels("ingest.days.v1", "dropped")
    before = dropped._value.get()
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=60)) as relay:
        await documents.put(DAYS, with_events(Day(id="d"), event("a"), event("b"), event("c")))
        relay.nudge(DAYS, "d")
        await eventually(lambda: cleared(documents, "d"))
    assert broker.sent == ["a", "c"]
    assert dropped._value.get() == before + 1
    assert "event b of days d is dropped" in caplog.text


async def test_what_is_written_while_sending_is_kept_and_sent_after(documents: Documents, broker: Broker) -> None:
    async def update(value: str) -> None:
        if value == "a":
            day = await documents.get(DAYS, "d")
            assert day is not None
            await documents.put(DAYS, with_events(replace(day, revision=2), event("b")))

    broker.before_ack = update
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=60)) as relay:
        await documents.put(DAYS, with_events(Day(id="d", revision=1), event("a")))
        relay.nudge(DAYS, "d")
        day = await eventually(lambda: cleared(documents, "d"))
    assert broker.sent == ["a", "b"]
    assert day.revision == 2


async def test_an_update_right_before_clearing_is_kept(documents: Documents, broker: Broker) -> None:
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=60)) as relay:
        for revision in range(1, 40):
            day = await documents.get(DAYS, "d") or Day(id="d")
            try:
                await documents.put(DAYS, with_events(replace(day, revision=revision), event(f"r{revision:02}")))
            except Exception:  # noqa: S112 (the relay was quicker; the next round tells)
                continue
            relay.nudge(DAYS, "d")
        written = await documents.get(DAYS, "d")
        day = await eventually(lambda: cleared(documents, "d"))
    assert written is not None
    assert day.revision == written.revision
    assert broker.sent == sorted(set(broker.sent)), "each once, in order"


async def test_a_relay_cut_off_between_sending_and_clearing_sends_again(documents: Documents, broker: Broker) -> None:
    await documents.put(DAYS, with_events(Day(id="d"), event("a")))
    sent = asyncio.Event()

    async def stand_still(value: str) -> None:
        if not sent.is_set():
            broker.sent.append(value)
            sent.set()
            await asyncio.Event().wait()

    broker.before_ack = stand_still
    async with running(Relay(documents, [DAYS], broker.publish)):
        await asyncio.wait_for(sent.wait(), 5)
    async with running(Relay(documents, [DAYS], broker.publish)):
        await eventually(lambda: cleared(documents, "d"))
    assert broker.sent == ["a", "a"]


async def test_a_deleted_document_is_no_trouble(documents: Documents, broker: Broker) -> None:
    async def delete(value: str) -> None:
        await documents.delete(DAYS, "d")

    broker.before_ack = delete
    async with running(Relay(documents, [DAYS], broker.publish, scan_seconds=0.05)) as relay:
        await documents.put(DAYS, with_events(Day(id="d"), event("a")))
        relay.nudge(DAYS, "d")
        relay.nudge(DAYS, "nobody")
        await eventually(lambda: broker.sent == ["a"])
        await documents.put(DAYS, with_events(Day(id="e"), event("b")))
        await eventually(lambda: "b" in broker.sent)
    assert await documents.get(DAYS, "d") is None
    assert broker.sent.count("a") == 1


async def test_an_event_that_waits_already_is_not_added_again() -> None:
    day = with_events(Day(id="d"), event("a"))
    again = with_events(day, event("a"), event("b"))
    assert [waiting.event_id for waiting in again.outbox] == ["a", "b"]
    assert again.outbox_at == day.outbox_at
    assert with_events(again) is again


async def test_a_document_takes_no_more_than_its_share() -> None:
    day = with_events(Day(id="d"), *(event(str(n)) for n in range(MAX_PENDING)))
    with pytest.raises(Unavailable, match="broker"):
        with_events(day, event("one more"))
    assert with_events(day, event("0")) is day


async def test_an_event_becomes_its_record() -> None:
    photo = PhotoSubmitted.model_validate(
        {
            "event_id": "e1",
            "occurred_at": datetime(2026, 3, 1, tzinfo=UTC),
            "user_id": "u1",
            "photo_id": "p1",
            "object": {"key": "k", "sha256": "s", "size_bytes": 1, "content_type": "image/png"},
            "grams": Decimal("30.0"),
        }
    )
    made = outbox_event(PHOTOS, photo, "tp")
    assert (made.event_id, made.topic, made.key, made.traceparent) == ("e1", PHOTOS.name, "u1", "tp")
    assert PhotoSubmitted.model_validate_json(made.value) == photo
