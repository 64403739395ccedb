"""A reader without a group: nothing that its consumer does ends it, and it leaves unread what nobody wants."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from shared import topics
from shared.clock import utc_now
from shared.events.event import Event
from shared.events.webhooks import MessagePublished
from shared.following import Follower
from shared.metrics import METRICS
from shared.places import Record
from shared.settings import ServiceSettings
from tests.polling import eventually

PARTITION = TopicPartition(topics.MESSAGES.name, 0)


class Consumer:
    """Fails at its first poll with something that Kafka's errors do not cover, then has nothing to say."""

    def __init__(self, fails: bool, records: Sequence[Record] = ()) -> None:
        self.fails = fails
        self.records = list(records)
        self.polls = 0

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        self.polls += 1
        await asyncio.sleep(0.01)  # as Kafka does where there is nothing to tell
        if self.fails:
            raise AssertionError("a defect of the client")
        records, self.records = self.records, []
        return {PARTITION: records} if records else {}

    async def position(self, _: Any) -> int:
        return 0

    def last_poll_timestamp(self, _: Any) -> int:
        return 0

    async def stop(self) -> None:
        return


class Reader(Follower):
    """A follower whose consumers are made here."""

    def __init__(self) -> None:
        async def apply(*_: Any) -> None:
            return

        super().__init__(ServiceSettings(), topics.MESSAGES, apply, "end")
        self.consumers: list[Consumer] = []

    async def _open(self) -> AIOKafkaConsumer:
        self.consumers.append(Consumer(fails=not self.consumers))
        self._next = dict.fromkeys(self._partitions, 0)
        return cast(AIOKafkaConsumer, self.consumers[-1])


async def test_a_defect_of_the_client_makes_a_new_consumer_and_not_an_end() -> None:
    reader = Reader()
    await reader.begin()
    try:
        assert await eventually(lambda: len(reader.consumers) == 2 and reader.consumers[1].polls)
        assert reader.alive()
    finally:
        await reader.stop()


def record(offset: int, key: str, value: bytes) -> Record:
    return ConsumerRecord(PARTITION.topic, 0, offset, 0, 0, key.encode(), value, None, len(key), len(value), ())


def handled(outcome: str) -> float:
    return METRICS.registry.get_sample_value("messages_total", {"topic": PARTITION.topic, "outcome": outcome}) or 0.0


class Picky(Follower):
    """A follower of one user, whose consumer has these records."""

    def __init__(self, user_id: str, *records: Record) -> None:
        async def apply(key: str, event: Event | None) -> None:
            assert event is not None
            self.seen.append((key, event.event_id))

        super().__init__(ServiceSettings(), topics.MESSAGES, apply, "end", wanted=user_id.__eq__)
        self.seen: list[tuple[str, str]] = []
        self._records = records

    async def _open(self) -> AIOKafkaConsumer:
        self._next = dict.fromkeys(self._partitions, 0)
        return cast(AIOKafkaConsumer, Consumer(fails=False, records=self._records))


async def test_what_nobody_wants_is_counted_and_left_unread() -> None:
    message = MessagePublished(
        event_id="e1",
        occurred_at=utc_now(),
        user_id="u1",
        message_id="m1",
        message_type="day.updated",
        message_time=utc_now(),
        sequence=1,
        trace_id="",
        data={},
    )
    value = message.model_dump_json().encode()
    done, dead = handled("done"), handled("dead_letter")
    reader = Picky("u1", record(0, "u2", b"no JSON"), record(1, "u1", value), record(2, "u1", b"no JSON"))
    await reader.begin()
    try:
        assert await eventually(lambda: handled("done") == done + 2 and handled("dead_letter") == dead + 1)
        assert reader.seen == [("u1", "e1")]
    finally:
        await reader.stop()
