"""Documents with events inside, and the broker that these go to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from shared.documents import Collection, Documents
from shared.errors import Unavailable
from shared.outbox import OUTBOX_INDEX, Outboxed, OutboxEvent, Relay
from shared.topics import GRANTS


class Day(Outboxed, frozen=True, kw_only=True):
    revision: int = 0


DAYS = Collection("days", Day, (OUTBOX_INDEX,))
LEDGERS = Collection("ledgers", Day, (OUTBOX_INDEX,))


class Broker:
    """The outermost edge: what a broker would have acknowledged."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.traceparents: list[str | None] = []
        self.refuse: Callable[[str], bool] = lambda value: False
        self.before_ack: Callable[[str], object] = lambda value: None

    async def publish(self, topic_name: str, value: bytes, key: str, *, traceparent: str | None = None) -> None:
        await asyncio.sleep(0)  # others' turn, as while a broker answers
        if self.refuse(value.decode()):
            raise Unavailable("broker")
        waiting = self.before_ack(value.decode())
        if asyncio.iscoroutine(waiting):
            await waiting
        self.sent.append(value.decode())
        self.traceparents.append(traceparent)


def event(name: str) -> OutboxEvent:
    return OutboxEvent(event_id=name, topic="ingest.days.v1", key="u1", value=name.encode(), traceparent=f"tp-{name}")


def state(name: str) -> OutboxEvent:
    return replace(event(name), topic=GRANTS.name)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    task = asyncio.create_task(relay.run())
    yield relay
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cleared(documents: Documents, id: str) -> Day | None:
    day = await documents.get(DAYS, id)
    return day if day is not None and not day.outbox else None
