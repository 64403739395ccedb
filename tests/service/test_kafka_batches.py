"""Batches on TestKafkaBroker: decided one by one, written once, halved when the write fails."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError
from faststream.kafka import TestKafkaBroker

from shared import spans
from shared.errors import Rejected, Unavailable
from shared.kafka import Broker, make_broker, publish_bytes, subscribe_batches
from shared.settings import ServiceSettings
from shared.topics import BATCHES as TOPIC
from tests.service.kafka_letters import PARENT, collect, headers


@pytest.fixture
def broker() -> Broker:
    return make_broker(ServiceSettings(), "nutrition")


@pytest.fixture
def dead(broker: Broker) -> list[ConsumerRecord[Any, Any]]:
    """The dead letters, as another consumer sees them."""
    return collect(broker, TOPIC.dead_letters("ingest"))


def record(value: bytes | None, offset: int, partition: int = 0) -> ConsumerRecord[Any, Any]:
    return ConsumerRecord(TOPIC.name, partition, offset, 0, 0, b"k", value, None, 1, len(value or b""), ())


async def deliver(broker: Broker, *records: ConsumerRecord[Any, Any]) -> None:
    """One batch, as a real consumer would hand it over; TestKafkaBroker knows batches of one only."""
    subscriber = next(one for one in broker.subscribers if one.group_id == TOPIC.group("ingest"))
    await subscriber.process_message(records)


class Written:
    """A store that refuses joint writes with `guilty` in them."""

    def __init__(self, guilty: bytes = b"?", error: Callable[[], Exception] = lambda: RuntimeError("x")) -> None:
        self.writes: list[list[bytes]] = []
        self.stored: list[bytes] = []
        self._guilty = guilty
        self._error = error

    async def write(self, decisions: list[tuple[bytes, str | None]]) -> None:
        values = [decision for decision, _ in decisions]
        self.writes.append(values)
        if self._guilty in values:
            raise self._error()
        self.stored.extend(values)


def decide(value: bytes) -> bytes:
    if value == b"bad":
        raise Rejected("bad")
    return value


async def test_a_batch_is_decided_one_by_one_and_written_once(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    store = Written()
    subscribe_batches(broker, TOPIC, "ingest", decide, store.write)
    async with TestKafkaBroker(broker):
        await deliver(broker, record(b"a", 1), record(b"bad", 2), record(None, 3), record(b"b", 9, 1))
    assert store.writes == [[b"a", b"b"]]
    assert [letter.value for letter in dead] == [b"bad"]
    assert headers(dead[0])["origin-offset"] == "2"


async def test_a_failing_write_is_halved_until_the_guilty_record_stands_alone(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    store = Written(guilty=b"5")
    subscribe_batches(broker, TOPIC, "ingest", decide, store.write)
    values = [str(number).encode() for number in range(8)]
    async with TestKafkaBroker(broker):
        await deliver(broker, *(record(value, offset) for offset, value in enumerate(values)))
    assert store.stored == [value for value in values if value != b"5"]
    assert [letter.value for letter in dead] == [b"5"]
    assert headers(dead[0])["attempts"] == "3"
    assert store.writes.count([b"5"]) == 3


async def test_a_rejected_write_of_one_is_a_dead_letter_at_once(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    store = Written(guilty=b"a", error=lambda: Rejected("no"))
    subscribe_batches(broker, TOPIC, "ingest", decide, store.write)
    async with TestKafkaBroker(broker):
        await deliver(broker, record(b"a", 1))
    assert store.writes == [[b"a"]]
    assert headers(dead[0])["reason"] == "no"


async def test_a_batch_that_waits_sends_its_dead_letters_once(
    broker: Broker, dead: list[ConsumerRecord[Any, Any]]
) -> None:
    answers: Iterator[Exception | None] = iter([Unavailable("database"), Unavailable("database"), None])
    writes: list[list[bytes]] = []

    async def write(decisions: list[tuple[bytes, str | None]]) -> None:
        writes.append([decision for decision, _ in decisions])
        if (answer := next(answers)) is not None:
            raise answer

    subscribe_batches(broker, TOPIC, "ingest", decide, write)
    async with TestKafkaBroker(broker):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await deliver(broker, record(b"bad", 1), record(b"a", 2))
        await deliver(broker, record(b"bad", 1), record(b"a", 2))
    assert writes == [[b"a"]] * 3
    assert len(dead) == 1


async def test_each_decision_comes_with_its_own_trace(broker: Broker) -> None:
    found: list[tuple[bytes, str | None]] = []

    async def write(decisions: list[tuple[bytes, str | None]]) -> None:
        found.extend(decisions)

    subscribe_batches(broker, TOPIC, "ingest", decide, write, decode=bytes)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, TOPIC.name, b"a", "k", traceparent=PARENT)
        await publish_bytes(broker, TOPIC.name, b"b", "k")
    assert spans.trace_id_of(found[0][1]) == spans.trace_id_of(PARENT)
    assert spans.trace_id_of(found[1][1]) not in (None, spans.trace_id_of(PARENT))


async def test_headers_of_strangers_do_no_harm(broker: Broker) -> None:
    store = Written()
    subscribe_batches(broker, TOPIC, "ingest", decide, store.write)
    strange = record(b"a", 1)
    strange.headers = (("traceparent", b"\xff"), ("reply_to", b"elsewhere"), ("x", None))
    async with TestKafkaBroker(broker):
        await deliver(broker, strange)
    assert store.stored == [b"a"]


async def test_records_that_were_read_are_handled_though_the_next_look_fails(broker: Broker) -> None:
    class Consumer:
        """aiokafka keeps a partition's error for the call after the one that had records of others."""

        def __init__(self) -> None:
            self.answers: list[Any] = [
                {TopicPartition(TOPIC.name, 0): [record(b"a", 0)]},
                TopicAuthorizationFailedError(),
            ]

        async def getmany(self, **_: Any) -> Any:
            if isinstance(answer := self.answers.pop(0), Exception):
                raise answer
            return answer

    subscribe_batches(broker, TOPIC, "ingest", decide, Written().write)
    subscriber: Any = next(one for one in broker.subscribers if one.group_id == TOPIC.group("ingest"))
    assert [one.value for one in await subscriber.get_msg(Consumer())] == [b"a"]
