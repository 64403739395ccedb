"""The ingest service as it runs, for tests of what it does with batches."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from services.ingest.app import create_app
from services.ingest.held import read_held
from services.ingest.settings import Settings
from shared import topics
from shared.documents import Collection, Documents, Put, open_documents
from shared.errors import Unavailable
from shared.events.gateway import BatchSubmitted, DeletionSubmitted, SessionSubmitted
from shared.events.ingest import DayRecomputed, DayUpdated, ReceiptsCompleted
from shared.kafka import make_broker
from tests.batches import encoded, series
from tests.service.running import SCAN_S, Running, common_settings, running

CET = timezone(timedelta(hours=1))
EIGHT = datetime(2026, 3, 1, 8, tzinfo=CET)
MINUTE = timedelta(minutes=1)
DEAD = topics.BATCHES.dead_letters("ingest")
LISTEN = (topics.RECEIPTS.name, topics.DAYS.name, DEAD)
EVER = 2**31 - 1


@dataclass
class FakeClock:
    """Runs with the real one, from `first` on and shifted."""

    first: datetime = datetime(2026, 3, 1, 19, tzinfo=UTC)
    ahead: timedelta = field(default_factory=timedelta)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        moment = self.first + (datetime.now(UTC) - self.began) + self.ahead
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def days_told(running: Running) -> list[DayUpdated | DayRecomputed]:
    """The days it published, in order."""
    return [
        (DayRecomputed if b'"day.recomputed"' in one else DayUpdated).model_validate_json(one)
        for one in running.published[topics.DAYS.name]
    ]


@dataclass
class Ingest:
    running: Running
    clock: FakeClock
    documents: "Meddled"

    async def send(self, *batches: BatchSubmitted, traceparent: str | None = None) -> None:
        for one in batches:
            await self.running.send_bytes(topics.BATCHES, encoded(one), traceparent=traceparent)

    def told(self) -> list[ReceiptsCompleted]:
        return [ReceiptsCompleted.model_validate_json(one) for one in self.running.published[topics.RECEIPTS.name]]

    def days(self) -> list[DayUpdated | DayRecomputed]:
        return days_told(self.running)

    async def counts(self, receipt_id: str) -> dict[str, Any]:
        """What the receipt counts, but for zeros; all of it adds up to what was received."""
        answer = (await self.receipt(receipt_id)).json()
        names = ("stored", "duplicates", "corrections", "deleted")
        refused = [(one["index"], one["code"]) for one in answer["refused"]]
        assert sum(answer[name] for name in names) + len(refused) == answer["received"], answer
        counted = {name: answer[name] for name in names if answer[name]}
        return counted | ({"refused": refused} if refused else {})

    async def values(self, metric: str, device_id: str = "watch-1") -> list[float]:
        """What is readable of that metric, in order of time."""
        held = read_held(self.documents, "user-1", metric, 0, EVER, device_id=device_id)
        return [value async for one in held for value in one.rows["value"].tolist()]

    async def all(self, collection: Collection[Any], index: str, *equals: Any) -> list[Any]:
        return list((await self.documents.find(collection, index, equals, limit=500)).documents)

    async def receipt(self, receipt_id: str, user_id: str = "user-1") -> Any:
        return await self.running.get(f"/v1/receipts/{receipt_id}", user_id=user_id)

    async def day(self, day: str, user_id: str = "user-1") -> Any:
        return await self.running.get(f"/v1/days/{day}", user_id=user_id)


class Meddled:
    """The real documents; before a joint write, `meddle` may write something else."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.meddle: Any = None
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Sequence[Put]) -> Any:
        if self.down:
            raise Unavailable("database")
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            await meddle(self._documents)
        return await self._documents.put_many(puts)


@asynccontextmanager
async def ingesting(folder: Path) -> AsyncGenerator[Ingest]:
    """The service with its real database and objects in `folder`."""
    settings = Settings(**common_settings(folder))
    broker = make_broker(settings, "ingest")
    clock = FakeClock()
    documents = Meddled(open_documents(settings.database_url, "ingest"))
    app = create_app(settings, broker=broker, documents=documents, clock=clock, scan_seconds=SCAN_S)
    async with running(app, broker, "ingest", folder, listen=LISTEN) as one:
        yield Ingest(one, clock, documents)


def heart(count: int, value: float = 60, start: datetime = EIGHT) -> Any:
    return series("heart_rate", [(start + place * MINUTE, start + place * MINUTE, value) for place in range(count)])


def steps(*values: float, start: datetime = EIGHT, first_index: int = 0) -> Any:
    times = [start + place * MINUTE for place in range(len(values))]
    return series("steps", [(at, at + MINUTE, value) for at, value in zip(times, values, strict=True)], first_index)


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def named(of: str) -> bytes:
    """The identity of a source's id."""
    return hashlib.blake2b(of.encode(), digest_size=16).digest()


def gone(
    of: str = "",
    metric: str = "",
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    version: int = 0,
    index: int = 0,
) -> DeletionSubmitted:
    """A deletion by id, or by metric and time."""
    return DeletionSubmitted(
        index=index,
        identity=named(of) if of else bytes(16),
        metric=metric,
        start_us=None if start is None else micros(start),
        end_us=None if end is None else micros(end),
        version=version,
    )


def session(type: str, of: str, start: datetime, end: datetime, **more: Any) -> SessionSubmitted:
    """A sleep or a workout."""
    values: dict[str, Any] = {
        "index": 0,
        "type": type,
        "start_us": micros(start),
        "end_us": micros(end),
        "offset_minutes": 60,
        "identity": named(of) if of else bytes(16),
    }
    return SessionSubmitted(**(values | more))
