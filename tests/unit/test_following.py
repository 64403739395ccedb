"""A reader without a group: nothing that its consumer does ends it."""

import asyncio
from typing import Any, cast

from aiokafka import AIOKafkaConsumer

from shared import topics
from shared.following import Follower
from shared.settings import ServiceSettings
from tests.polling import eventually


class Consumer:
    """Fails at its first poll with something that Kafka's errors do not cover, then has nothing to say."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.polls = 0

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        self.polls += 1
        await asyncio.sleep(0.01)
        if self.fails:
            raise AssertionError("a defect of the client")
        return {}

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
