"""The metric of dead letters that nobody has dealt with, counted by the service whose they are."""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.kafka import Broker
from shared.kafka_access import client_arguments
from shared.metrics import METRICS
from shared.redaction import whereabouts
from shared.topics import dead_letters
from shared.unresolved import LOG, Resolved, beginnings, ends

COUNT_EVERY_S = 15.0
log = logging.getLogger(__name__)


class Counter:
    """Shows how many dead letters of a running service nobody has dealt with, as a metric."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._resolved = Resolved()

    async def run(self) -> None:
        """Count every 15 s until cancelled; a broker that is away leaves the last count standing."""
        while True:
            try:
                await self.count()
            except (KafkaError, OSError, TimeoutError) as error:
                log.debug("dead letters are not counted: %s", type(error).__name__)
            except Exception as error:
                log.error("dead letters are not counted: %s", whereabouts(error))
            await asyncio.sleep(COUNT_EVERY_S)

    async def count(self) -> None:
        """Count once; asks little of the broker while no operator does anything.

        Raises:
            KafkaError, TimeoutError: the broker does not answer.
        """
        service = self._broker.service
        letters = {TopicPartition(dead_letters(one.topic, service), 0): one.topic for one in self._broker.places}
        consumer = next((one.consumer for one in self._broker.places if one.consumer is not None), None)
        if consumer is None:
            return
        # The log's end first: every letter it speaks of by then is below the ends asked for next.
        log_end = (await ends(consumer, [LOG]))[LOG]
        first, after = await beginnings(consumer, letters), await ends(consumer, letters)
        self._resolved.cover(first, after)
        if log_end > self._resolved.next and any(after[one] > first[one] for one in letters):
            await self._read(log_end)
        for name, open_ in self._resolved.unresolved(first, after).items():
            METRICS.dead_letters.labels(letters[TopicPartition(name, 0)], service).set(open_)

    async def _read(self, end: int) -> None:
        # The subscribers' own consumers keep their places.
        consumer = AIOKafkaConsumer(
            bootstrap_servers=",".join(self._broker.settings.bootstrap_servers),
            **client_arguments(self._broker.settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            await self._resolved.read(consumer, end)
        finally:
            await consumer.stop()
