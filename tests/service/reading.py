"""The ingest service with samples that are already held, for those who read them."""

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from services.ingest.app import create_app
from services.ingest.buckets import HOUR_US, ROW, pack
from services.ingest.metrics import METRICS
from services.ingest.records import (
    BUCKETS,
    Bucket,
)
from services.ingest.settings import Settings
from shared import topics
from shared.documents import Documents, Put, open_documents
from shared.events.gateway import UNKNOWN_OFFSET
from shared.kafka import make_broker
from tests.service.running import Running, common_settings, running

CET = timezone(timedelta(hours=1))
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
DAY_HOUR = int(MIDNIGHT.timestamp()) // 3600
Values = Sequence[tuple[datetime, datetime, float]]


@dataclass
class Reading:
    running: Running
    documents: Documents

    async def ask(self, path: str, user_id: str = "user-1", **query: Any) -> Any:
        return await self.running.http.get(path, params=query, headers=self.running.headers(user_id=user_id))

    async def get(self, path: str, user_id: str = "user-1", **query: Any) -> Any:
        """`since` is the query's `from`."""
        return await self.ask(path, user_id, **{"from" if key == "since" else key: one for key, one in query.items()})

    async def points(self, metric: str, since: datetime, to: datetime, **query: Any) -> list[dict[str, Any]]:
        answer = await self.get("/v1/timeseries", metric=metric, since=since.isoformat(), to=to.isoformat(), **query)
        assert answer.status_code == 200, answer.text
        return answer.json()["points"]

    async def hold(
        self, metric: str, values: Values, device: str = "watch-1", kind: str = "watch", **more: Any
    ) -> None:
        """Samples as the joint write would have stored them."""
        rows = rows_of(values, **more)
        hours = METRICS[metric].bucket_hours
        first = rows["start"] // HOUR_US // hours * hours
        puts: list[Put] = []
        for hour in np.unique(first).tolist():
            id = f"user-1/{metric}/{hour}/{device}"
            known = {"user_id": "user-1", "metric": metric, "device_id": device, "device_kind": kind, "hour": hour}
            puts.append(Put(BUCKETS, Bucket(id=id, columns=pack(rows[first == hour]), **known)))
        await self.documents.put_many(puts)


def rows_of(
    values: Values,
    unknown_offset: bool = False,
    arrived: datetime | None = None,
    identity: bytes | None = None,
    deleted: bool = False,
) -> Any:
    rows = np.zeros(len(values), ROW)
    for place, (start, end, value) in enumerate(values):
        offset = UNKNOWN_OFFSET if unknown_offset else (start.utcoffset() or timedelta()) // MINUTE
        times = [round(one.timestamp() * 1_000_000) for one in (start, end)]
        known = times if identity is None else np.frombuffer(identity, "<u8").tolist()
        minute = 0 if arrived is None else round(arrived.timestamp()) // 60
        rows[place] = (*times, value, offset, *known, 0, minute, deleted)
    return rows[np.argsort(rows["start"], kind="stable")]


def every(step: timedelta, count: int, start: datetime, value: float, *, length: timedelta = timedelta()) -> Any:
    return [(start + place * step, start + place * step + length, value) for place in range(count)]


@asynccontextmanager
async def reading_from(folder: Path) -> AsyncGenerator[Reading]:
    """The running service; its clock begins at `NOW` and goes on a millisecond whenever asked."""
    settings = Settings(**common_settings(folder))
    broker = make_broker(settings, "ingest")
    documents = open_documents(settings.database_url, "ingest")
    ticks = itertools.count()

    def clock() -> datetime:
        return NOW + next(ticks) * timedelta(milliseconds=1)

    app = create_app(settings, broker=broker, documents=documents, clock=clock)
    async with running(app, broker, "ingest", folder, listen=(topics.RECEIPTS.name,)) as one:
        yield Reading(one, documents)
