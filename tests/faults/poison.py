"""Records that no ingest can store, produced straight to its topic: each must end as exactly one dead letter."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec.structs import replace

from services.gateway.receipts import RECEIPT_PREFIX, Ids
from shared.topics import BATCHES
from tests.batches import batch, encoded, series

AGAIN_AFTER_S = 0.5
LETTERS = BATCHES.dead_letters("ingest")


@dataclass(frozen=True)
class Letter:
    """A dead letter: where its record stood, and when it was buried (Unix time)."""

    value: bytes
    partition: int
    offset: int
    failed_at: float


@dataclass
class Poison:
    """Poison under the users' own keys, so that it lies between their batches. `rejected`: user by receipt id."""

    servers: str
    ids: Ids
    users: list[str]
    rng: Random
    acknowledged: set[bytes] = field(default_factory=set[bytes])
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    _wanted: "asyncio.Queue[None]" = field(default_factory=lambda: asyncio.Queue())
    _made: int = 0
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Begin to produce what is asked for."""
        self._task = asyncio.create_task(self._produce(), name="poison")

    def ask(self) -> None:
        """Want one more."""
        self._wanted.put_nowait(None)

    async def finish(self, patience_s: float = 60) -> None:
        """Wait until everything wanted is acknowledged, and stop."""
        assert self._task is not None
        async with asyncio.timeout(patience_s):
            await self._wanted.join()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _produce(self) -> None:
        # Without idempotence, as our services: a record sent again is poison of its own, at an offset of its own.
        producer: Any = AIOKafkaProducer(bootstrap_servers=self.servers, acks="all", enable_idempotence=False)
        await producer.start()
        try:
            while True:
                await self._wanted.get()
                user_id, value = self._next()
                while True:
                    try:
                        await producer.send_and_wait(BATCHES.name, value, user_id.encode())
                        break
                    except (KafkaError, OSError):
                        await asyncio.sleep(AGAIN_AFTER_S)
                self.acknowledged.add(value)
                self._wanted.task_done()
        finally:
            await producer.stop()

    def _next(self) -> tuple[str, bytes]:
        self._made += 1
        user_id = self.rng.choice(self.users)
        if self._made % 2:
            return user_id, b"\xc1 no MessagePack, number %d" % self._made
        receipt_id = self.ids.make(RECEIPT_PREFIX, user_id, "poison", str(self._made), b"")
        self.rejected[receipt_id] = user_id
        at = datetime(2026, 2, 1, tzinfo=UTC)
        columns = series("steps", [(at, at + timedelta(minutes=1), 10.0)])
        return user_id, encoded(batch(receipt_id, replace(columns, value=b""), user_id=user_id))


async def letters(servers: str) -> list[Letter]:
    """All dead letters that ingest has written."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        place = TopicPartition(LETTERS, 0)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        found: list[Letter] = []
        async with asyncio.timeout(30):
            while len(found) < end:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [_letter(record) for record in records]
        return found
    finally:
        await consumer.stop()


def _letter(record: Any) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    at = datetime.fromisoformat(headers["failed-at"]).timestamp()
    return Letter(record.value, int(headers["origin-partition"]), int(headers["origin-offset"]), at)


def repeated(found: list[Letter]) -> list[Letter]:
    """Letters beyond the first of their record."""
    seen: Counter[tuple[int, int]] = Counter()
    again: list[Letter] = []
    for letter in found:
        place = (letter.partition, letter.offset)
        seen[place] += 1
        if seen[place] > 1:
            again.append(letter)
    return again
