"""Ends a process that has stopped working on Kafka, so that its supervisor starts a fresh one.

aiokafka's group code can hang or die while the process looks well (its issues #847, #1154). Two signs count: records
wait and nothing has had an outcome for 60 s, "later" included, while the broker answers; or the event loop stands
still. A broker that is away is no reason to end.
"""

# aiokafka has no types for some of what is used here.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.cancelling import cancelled
from shared.dead_letter_count import Counter
from shared.kafka import Broker
from shared.metrics import METRICS
from shared.places import Places

STALL_SECONDS = 60.0
LOOK_EVERY_S = 5.0
ANSWER_S = 3.0
EXIT_CODE = 70
log = logging.getLogger(__name__)


def end_process(reason: str) -> None:
    """Say why, show where every thread stands, and go without waiting for anything."""
    log.critical("the watchdog ends this process: %s", reason)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    sys.stdout.flush()
    os._exit(EXIT_CODE)


@dataclass
class _Seen:
    outcomes: int
    since: float
    stalled: bool = False


class Watchdog:
    """Watches all subscribers of a broker: `async with Watchdog(broker):` around the service's life."""

    def __init__(
        self,
        broker: Broker,
        *,
        stall_seconds: float = STALL_SECONDS,
        look_every_s: float = LOOK_EVERY_S,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._broker = broker
        self._stall_seconds = stall_seconds
        self._look_every_s = look_every_s
        self._end = end
        self._seen: dict[str, _Seen] = {}
        self._beat = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    async def __aenter__(self) -> "Watchdog":
        self._beat = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="watchdog")
        self._counting = asyncio.create_task(Counter(self._broker).run(), name="count dead letters")
        threading.Thread(target=self._watch_loop, name="watchdog", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        await cancelled(*(task for task in (self._task, self._counting) if task is not None))

    def live(self) -> bool:
        """Whether the poll loops turn: the watchdog's own task does, and no subscriber is stalled."""
        turning = self._task is None or time.monotonic() - self._beat < self._stall_seconds
        return turning and not any(seen.stalled for seen in self._seen.values())

    async def ready(self) -> bool:
        """Whether Kafka answers and every subscriber runs."""
        running = all(subscriber.running for subscriber in self._broker.subscribers)
        return running and await self._broker.ping(timeout=ANSWER_S / 2)

    async def _run(self) -> None:
        while True:
            for places in self._broker.places:
                await self._look(places)
            for _ in range(max(1, round(self._look_every_s))):
                self._beat = time.monotonic()
                await asyncio.sleep(min(1.0, self._look_every_s))

    async def _look(self, places: Places) -> None:
        now = time.monotonic()
        seen = self._seen.setdefault(places.topic, _Seen(places.outcomes, now))
        waiting = await self._waiting(places)
        if places.outcomes != seen.outcomes or not waiting:
            self._seen[places.topic] = _Seen(places.outcomes, now)
        elif now - seen.since > self._stall_seconds:
            seen.stalled = True
            self._end(f"{waiting} records of {places.topic} wait, no outcome for {now - seen.since:.0f} s")

    async def _waiting(self, places: Places) -> int:
        """Records in hand or beyond the position; 0 while the broker does not answer."""
        consumer = places.consumer
        if consumer is None:
            return 0
        try:
            async with asyncio.timeout(ANSWER_S):
                assigned = list(consumer.assignment())
                # A consumer that is still starting has no assignment, and cannot be asked.
                ends = cast(dict[TopicPartition, int], await consumer.end_offsets(assigned)) if assigned else {}
        except (KafkaError, TimeoutError, OSError):
            return 0
        positions = await asyncio.gather(*(_position(consumer, partition) for partition in ends))
        lag = sum(max(0, end - position) for end, position in zip(ends.values(), positions, strict=True))
        METRICS.consumer_lag.labels(places.topic).set(lag)
        return lag + places.in_hand + _out_of_group(consumer)

    def _watch_loop(self) -> None:
        """In a thread of its own: the event loop beats, or the process ends."""
        while not self._closed.wait(1.0):
            woken = time.monotonic()
            if woken - self._beat < self._stall_seconds or self._closed.wait(1.0):
                continue
            # Looked at twice, for a process that was stopped and continued beats late.
            if time.monotonic() - self._beat >= self._stall_seconds:
                self._end(f"the event loop stands still since {time.monotonic() - self._beat:.0f} s")
                return


async def _position(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    """The next offset to read; 0 while it is unknown, so that a position that never comes counts as waiting."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await consumer.position(partition)
    except (KafkaError, TimeoutError):
        return 0


def _out_of_group(consumer: AIOKafkaConsumer) -> bool:
    """Whether aiokafka's task that joins the group has died; nothing public tells."""
    task = getattr(getattr(consumer, "_coordinator", None), "_coordination_task", None)
    return isinstance(task, asyncio.Task) and task.done()
