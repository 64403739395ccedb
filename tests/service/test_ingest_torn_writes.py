"""A process may end between any two writes of a joint write (MongoDB has no transaction): what comes again mends it."""

import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.ingest.app import create_app
from services.ingest.held import all_held
from services.ingest.records import COLLECTIONS, DIRTY_DAYS
from services.ingest.samples import check, decode
from services.ingest.settings import Settings
from services.ingest.store import Store
from services.ingest.storing import Caused, Storing
from shared import topics
from shared.documents import Documents, Put, open_documents
from shared.errors import Unavailable
from shared.events.gateway import BatchSubmitted, DeletionSubmitted, SessionSubmitted
from shared.kafka import make_broker
from tests.batches import batch, encoded, series
from tests.polling import eventually
from tests.service.running import SCAN_S, Running, common_settings, running

CET = timezone(timedelta(hours=1))
EIGHT = datetime(2026, 3, 1, 8, tzinfo=CET)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
BEGAN = datetime.now(UTC)
DAYS = ("2026-03-01", "2026-03-02")


class Torn:
    """Documents whose next `put_many` ends after so many writes, as if the process were killed there."""

    def __init__(self, documents: Documents, after: int) -> None:
        self._documents = documents
        self.after: int | None = after
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Sequence[Put]) -> Any:
        self.writes = len(puts)
        await self._documents.put_many(puts[: self.after])
        raise Unavailable("database")


def identity(of: str) -> bytes:
    return hashlib.blake2b(of.encode(), digest_size=16).digest()


def walked(at: datetime, count: float, of: str, version: int) -> Any:
    return (at, at + MINUTE, count, of, version)


def first() -> BatchSubmitted:
    heart = series("heart_rate", [(EIGHT + n * MINUTE, EIGHT + n * MINUTE, 60.0) for n in range(50)])
    steps = series("steps", [walked(EIGHT + n * MINUTE, 100, f"s{n}", 1) for n in range(4)], 50)
    return batch("r1", heart, steps)


def second() -> BatchSubmitted:
    """New samples, one that repeats, a correction, one that moves to the next day, a workout and a deletion."""
    heart = series("heart_rate", [(EIGHT + n * MINUTE, EIGHT + n * MINUTE, 70.0) for n in range(49, 120)])
    steps = series("steps", [walked(EIGHT, 150, "s0", 2), walked(EIGHT + DAY, 80, "s1", 2)], 71)
    micros = round((EIGHT + 60 * MINUTE).timestamp() * 1_000_000)
    workout = SessionSubmitted(
        index=73,
        type="workout",
        start_us=micros,
        end_us=micros + 1_800_000_000,
        offset_minutes=60,
        identity=identity("w"),
        sport="running",
        totals={"distance_m": 5000.0},
    )
    start = round((EIGHT + 2 * MINUTE).timestamp() * 1_000_000)
    gone = DeletionSubmitted(index=74, identity=identity("s2"), metric="steps", start_us=start)
    return batch("r2", heart, steps, sessions=(workout,), deletions=(gone,), received=75)


@asynccontextmanager
async def ingest(folder: Path, url: str) -> AsyncGenerator[Running]:
    settings = Settings(**common_settings(folder) | {"database_url": url, "objects_url": f"file:///{folder}/objects"})
    broker = make_broker(settings, "ingest")
    app = create_app(settings, broker=broker, clock=later, scan_seconds=SCAN_S)
    async with running(app, broker, "ingest", folder) as one:
        yield one


def later() -> datetime:
    """A day later, and ten times as fast as the real clock."""
    return NOW + DAY + 10 * (datetime.now(UTC) - BEGAN)


async def told(one: Running) -> dict[str, Any]:
    """What can be read of the user, but for when something was replaced and how often a day was computed."""
    answers: dict[str, Any] = {}
    for metric in ("heart_rate", "steps"):
        for path in ("/v1/timeseries?resolution=raw&", "/v1/timeseries/history?"):
            range = "from=2026-03-01T00:00:00Z&to=2026-03-04T00:00:00Z"
            found = await one.get(f"{path}metric={metric}&{range}", user_id="user-1")
            assert found.status_code == 200, found.text
            answers[f"{path} {metric}"] = re.sub('"replaced_at":"[^"]*"', "", found.text)
    for day in DAYS:
        found = await one.get(f"/v1/days/{day}", user_id="user-1")
        answers[day] = found.json().get("metrics")
    return answers


async def outcome(folder: Path, url: str, after: int) -> tuple[dict[str, Any], int]:
    """What is told after a crash in the second batch, and how many writes that batch is."""
    documents = open_documents(url, "ingest")
    await documents.open(COLLECTIONS)
    await Storing(documents, lambda: NOW).store([(check(decode(encoded(first()))), None)])
    torn = Torn(documents, after)
    with pytest.raises(Unavailable):
        await Storing(torn, lambda: NOW).store([(check(decode(encoded(second()))), None)])
    async with ingest(folder, url) as one:
        await one.send_bytes(topics.BATCHES, encoded(second()))

        async def computed() -> bool:
            return await documents.count(DIRTY_DAYS, "due") == 0

        await eventually(computed)
        found = await told(one)
    await documents.close()
    return found, torn.writes


@pytest.mark.timeout(180)  # some 13 systems one after another
async def test_a_batch_that_comes_again_after_a_crash_anywhere_ends_the_same(tmp_path: Path, fake_mongo: str) -> None:
    def url() -> str:
        return f"{fake_mongo}/torn_{uuid4().hex}"

    expected, writes = await outcome(tmp_path, url(), 0)
    assert all(expected[day] for day in DAYS)
    assert writes > 8
    for after in range(1, writes + 1):
        found, _ = await outcome(tmp_path, url(), after)
        assert found == expected, f"after {after} of {writes} writes"


@pytest.mark.parametrize("left", [1, 2])
@pytest.mark.parametrize("searched", [(), ("r1",), ("r2",), ("r3",)])
async def test_a_crash_between_receipts_leaves_none_untold_and_puts_no_older_sample_in_force(
    tmp_path: Path, left: int, searched: tuple[str, ...]
) -> None:
    documents = open_documents(common_settings(tmp_path)["database_url"], "ingest")
    await documents.open(COLLECTIONS)
    caused: list[Caused] = []
    for place, id in enumerate(("r3", "r1", "r2")):
        beat = series("heart_rate", [(EIGHT, EIGHT, 60.0 + place)])
        gone = (DeletionSubmitted(index=1, identity=identity("never seen")),) if id in searched else ()
        one = batch(id, beat, deletions=gone, received=1 + len(gone))
        caused.append((check(decode(encoded(one))), None))
    torn = Torn(documents, -left)
    with pytest.raises(Unavailable):
        await Storing(torn, lambda: NOW).store(caused)
    stored = await Storing(documents, lambda: NOW).store(caused)
    told = [*await Store(documents).told_with(stored.known), *stored.written]
    assert {one.id for one in told} == {"r1", "r2", "r3"} - set(searched)
    (held,) = await all_held(documents, "user-1", "heart_rate", 0, 2**31 - 1)
    assert held.rows["value"].tolist() == [62]
    await documents.close()
