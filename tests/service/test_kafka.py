"""Outcomes on TestKafkaBroker: what becomes of each record, without a broker that could deliver again."""

from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord
from faststream.kafka import TestKafkaBroker

from infra.topics import wanted
from shared import kafka, spans, telemetry
from shared.dead_letters import DeadLetterCause
from shared.errors import Rejected, Unavailable
from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.events.ingest import DayUpdated
from shared.kafka import Broker, make_broker, publish, publish_bytes, subscribe
from shared.redaction import whereabouts
from shared.settings import ServiceSettings
from shared.start import start_broker
from shared.topics import DAYS, Topic
from tests.service.kafka_letters import PARENT, collect, headers, user

TOPIC = Topic("auth.users.v1", "state", "user_id", (UserUpdated,), ("nutrition",))


@pytest.fixture
def broker() -> Broker:
    return make_broker(ServiceSettings(), "nutrition")


@pytest.fixture
def dead(broker: Broker) -> list[ConsumerRecord[Any, Any]]:
    """The dead letters, as another consumer sees them."""
    return collect(broker, TOPIC.dead_letters("nutrition"))


async def test_an_event_arrives_in_the_trace_of_its_publisher(broker: Broker) -> None:
    seen: list[tuple[Event, str | None]] = []

    async def handle(event: UserUpdated) -> None:
        seen.append((event, telemetry.current_trace_id()))

    subscribe(broker, TOPIC, "nutrition", handle)
    async with TestKafkaBroker(broker):
        await start_broker(broker)
        await publish(broker, TOPIC, user("u1"), traceparent=PARENT)
        await publish(broker, TOPIC, user("u1"), traceparent=PARENT)
    assert [(event.user_id, trace) for event, trace in seen] == [("u1", spans.trace_id_of(PARENT))] * 2
    assert broker.places[0].outcomes == 2


async def test_a_rejected_record_is_a_dead_letter_at_once(broker: Broker, dead: list[ConsumerRecord[Any, Any]]) -> None:
    bad = user("bad")
    told: list[tuple[bytes, DeadLetterCause]] = []
    seen: list[str] = []

    async def handle(event: UserUpdated) -> None:
        seen.append(event.user_id)
        if event.user_id == "bad":
            raise Rejected("not-wanted", "Jane Doe is not wanted")

    async def on_dead_letter(raw: bytes, cause: DeadLetterCause) -> None:
        told.append((raw, cause))

    subscribe(broker, TOPIC, "nutrition", handle, on_dead_letter=on_dead_letter)
    async with TestKafkaBroker(broker):
        await publish(broker, TOPIC, bad, traceparent=PARENT)
        await publish(broker, TOPIC, user("good"))
    assert seen == ["bad", "good"]
    (letter,) = dead
    assert (letter.value, letter.key) == (bad.model_dump_json().encode(), b"bad")
    found = headers(letter)
    assert {
        "origin-topic": "auth.users.v1",
        "origin-partition": "0",
        "origin-offset": "0",
        "service": "nutrition",
        "group": "nutrition.auth.users.v1",
        "error": "Rejected",
        "reason": "not-wanted",
        "text": "not-wanted",
        "attempts": "1",
    }.items() <= found.items()
    assert spans.trace_id_of(found["traceparent"]) == spans.trace_id_of(PARENT)
    assert "Jane" not in str(found)
    ((raw, cause),) = told
    assert raw == letter.value
    assert (cause.reason, cause.detail) == ("not-wanted", "Jane Doe is not wanted")


async def test_a_record_as_large_as_the_broker_takes_fits_into_a_dead_letter(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    async def handle(_: UserUpdated) -> None:
        raise AssertionError("never called")

    subscribe(broker, TOPIC, "nutrition", handle)
    value = b"x" * (1024 * 1024 - 100)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, TOPIC.name, value, "k", max_bytes=len(value))
    (letter,) = dead
    assert letter.value == value
    (topic,) = [one for one in wanted() if one.name == TOPIC.dead_letters("nutrition")]
    assert int(topic.topic_configs["max.message.bytes"]) > len(value) + 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\xff\x00", "no JSON object with a type"),
        (b"[]", "no JSON object with a type"),
        (b'{"user_id": "u"}', "no JSON object with a type"),
        (b'{"type": "user.updated", "user_id": 7}', "event_id: missing"),
    ],
)
async def test_what_does_not_decode_is_a_dead_letter(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]], value: bytes, text: str
) -> None:
    async def handle(_: UserUpdated) -> None:
        raise AssertionError("never called")

    subscribe(broker, TOPIC, "nutrition", handle)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, TOPIC.name, value, "k")
    (letter,) = dead
    assert letter.value == value
    assert headers(letter)["reason"] == "undecodable"
    assert headers(letter)["text"].startswith(text)


async def test_deletions_and_newer_types_are_skipped(broker: Broker, dead: list[ConsumerRecord[Any, Any]]) -> None:
    async def handle(_: UserUpdated) -> None:
        raise AssertionError("never called")

    subscribe(broker, TOPIC, "nutrition", handle)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, TOPIC.name, None, "k")
        await publish_bytes(broker, TOPIC.name, b'{"type": "user.imagined"}', "k")
    assert dead == []
    assert broker.places[0].outcomes == 2


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_an_unknown_exception_is_tried_three_times(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]], failures: int
) -> None:
    calls = 0

    async def handle(_: UserUpdated) -> None:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise ValueError("secret value")

    subscribe(broker, TOPIC, "nutrition", handle)
    async with TestKafkaBroker(broker):
        await publish(broker, TOPIC, user("u1"))
    assert calls == min(failures + 1, 3)
    assert [headers(letter)["attempts"] for letter in dead] == (["3"] if failures == 3 else [])
    assert all("secret" not in str(headers(letter)) for letter in dead)


async def test_later_reaches_the_caller_where_nothing_is_delivered_again(broker: Broker) -> None:
    async def handle(_: UserUpdated) -> None:
        raise Unavailable("database")

    subscribe(broker, TOPIC, "nutrition", handle)
    async with TestKafkaBroker(broker):
        with pytest.raises(Unavailable, match="database"):
            await publish(broker, TOPIC, user("u1"))


async def test_a_failing_on_dead_letter_does_not_stop_the_dead_letter(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    async def handle(_: UserUpdated) -> None:
        raise Rejected("no")

    async def on_dead_letter(_: bytes, __: DeadLetterCause) -> None:
        raise KeyError("broken")

    subscribe(broker, TOPIC, "nutrition", handle, on_dead_letter=on_dead_letter)
    async with TestKafkaBroker(broker):
        await publish(broker, TOPIC, user("u1"))
    assert len(dead) == 1


async def test_on_dead_letter_without_its_database_means_later(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    async def handle(_: UserUpdated) -> None:
        raise Rejected("no")

    async def on_dead_letter(_: bytes, __: DeadLetterCause) -> None:
        raise Unavailable("database")

    subscribe(broker, TOPIC, "nutrition", handle, on_dead_letter=on_dead_letter)
    async with TestKafkaBroker(broker):
        with pytest.raises(Unavailable):
            await publish(broker, TOPIC, user("u1"))
    assert dead == []


async def test_publishing_before_the_broker_is_connected_is_unavailable(broker: Broker) -> None:
    with pytest.raises(Unavailable, match="broker"):
        await publish(broker, TOPIC, user("u1"))


async def test_what_no_broker_takes_is_refused(broker: Broker) -> None:
    with pytest.raises(Rejected, match="event-too-large"):
        await publish_bytes(broker, TOPIC.name, b"x" * 1_000_001, "k")


def test_dead_letters_are_not_subscribed_to(broker: Broker) -> None:
    async def handle(_: Any) -> None: ...

    with pytest.raises(ValueError, match="circles"):
        subscribe(broker, Topic("a.b.v1.c.dlq", "log", "k", ()), "c", handle)


def test_a_topic_with_several_types_decodes_each() -> None:
    day = {"event_id": "e", "occurred_at": "2026-03-01T00:00:00Z", "user_id": "u", "date": "2026-03-01", "zone": "UTC"}
    found = kafka.event_decoder(DAYS)(msgspec.json.encode({**day, "type": "day.updated", "revision": 1, "metrics": {}}))
    assert isinstance(found, DayUpdated)


def test_whereabouts_name_the_place_and_never_the_message() -> None:
    try:
        raise ValueError("secret")
    except ValueError as error:
        text = whereabouts(error)
    assert text.startswith("ValueError at ")
    assert "test_kafka.py" in text
    assert "secret" not in text
