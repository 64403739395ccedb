"""A service whose MongoDB steps down and loses connections: who asks is told to come back, and nothing is lost."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.uri_parser import parse_uri

from services.ingest.app import create_app
from services.ingest.settings import Settings
from shared.documents import open_documents
from shared.errors import Unavailable
from shared.events.gateway import BatchSubmitted
from shared.kafka import make_broker
from tests.batches import batch
from tests.contract.failing_mongo import Choose, Failing, Fault, at_random
from tests.polling import eventually
from tests.service.ingesting import EIGHT, LISTEN, MINUTE, FakeClock, Ingest, Meddled, heart, steps
from tests.service.running import SCAN_S, common_settings, running

# Each failure costs half a second, on a busy machine several.
pytestmark = pytest.mark.timeout(180)
COMMANDS = frozenset({"update", "find", "delete", "insert", "findAndModify", "aggregate"})
BATCHES, SAMPLES, IN_VAIN = 4, 5, 3
DATE = "2026-03-01"


class Switched:
    """Faults as `choose` has them, while `on`."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self.on = False

    def __call__(self, command: str) -> Fault | None:
        return self._choose(command) if self.on else None


@asynccontextmanager
async def shaken(
    folder: Path, address: str, faults: Choose, answer_ms: int = 5000
) -> AsyncGenerator[tuple[Ingest, Failing]]:
    """Ingest on a MongoDB with these faults, for whose answers it waits so long."""
    (host, port) = parse_uri(address)["nodelist"][0]
    async with Failing(host, port or 27017, faults).running() as failing:
        # Where the server says it is, clients would follow it past this one.
        url = f"mongodb://127.0.0.1:{failing.port}/{folder.name}?directConnection=true&timeoutMS={answer_ms}"
        values: dict[str, Any] = common_settings(folder) | {"database_url": url}
        settings = Settings(**values)
        documents = open_documents(url, "ingest")
        broker, clock = make_broker(settings, "ingest"), FakeClock()
        app = create_app(settings, broker=broker, documents=documents, clock=clock, scan_seconds=SCAN_S)
        async with running(app, broker, "ingest", folder, listen=LISTEN) as one:
            yield Ingest(one, clock, Meddled(documents)), failing


def sent(number: int) -> BatchSubmitted:
    """Every batch has its own minutes, of its user's same hours."""
    start = EIGHT + number * SAMPLES * MINUTE
    return batch(
        f"r{number}", heart(SAMPLES, 60 + number, start), steps(*[100.0] * SAMPLES, start=start, first_index=5)
    )


async def delivered(ingest: Ingest, one: BatchSubmitted) -> int:
    """Deliver it as Kafka does, again and again until it is handled; how often that was in vain."""
    in_vain = 0
    while True:
        try:
            await ingest.send(one)
        except Unavailable:
            in_vain += 1
        else:
            return in_vain


async def test_every_batch_is_stored_once_and_told(tmp_path: Path, fake_mongo: str) -> None:
    faults = Switched(at_random(1, 0.08, COMMANDS))
    async with shaken(tmp_path, fake_mongo, faults) as (ingest, failing):
        faults.on = True
        count = in_vain = 0
        # Scans meet faults too, so how many a batch meets is up to the machine.
        while count < BATCHES or in_vain < IN_VAIN:
            in_vain += await delivered(ingest, sent(count))
            count += 1
        # The same once more, as after a rebalance.
        await delivered(ingest, sent(0))
        faults.on = False
        assert sum(failing.made.values()) >= IN_VAIN

        # A batch whose first write was done although its answer got lost counts as one it knew.
        for number in range(count):
            counted = await ingest.counts(f"r{number}")
            assert set(counted) <= {"stored", "duplicates"}
            assert sum(counted.values()) == 2 * SAMPLES
        assert await ingest.values("steps") == [100.0] * SAMPLES * count
        assert await ingest.values("heart_rate") == [60.0 + n for n in range(count) for _ in range(SAMPLES)]
        told = {one.receipt_id for message in ingest.told() for one in message.receipts}
        assert told == {f"r{number}" for number in range(count)}
        await eventually(lambda: last_steps(ingest) == 100.0 * SAMPLES * count, seconds=30)


def last_steps(ingest: Ingest) -> float | None:
    """The sum of steps of the last revision of the day that was told."""
    last = max(ingest.days(), key=lambda day: day.revision, default=None)
    return last.metrics["steps"].sum if last is not None else None


@pytest.mark.parametrize("fault", ["unsent", "unanswered", "stepped down"])
async def test_who_reads_is_told_to_come_back(tmp_path: Path, fake_mongo: str, fault: Fault) -> None:
    faults = Switched(lambda command: fault if command == "find" else None)
    # A read is tried again until then.
    async with shaken(tmp_path, fake_mongo, faults, answer_ms=2000) as (ingest, _):
        await delivered(ingest, sent(0))
        faults.on = True
        for answer in (await ingest.day(DATE), await ingest.receipt("r0")):
            assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (503, "database-unavailable")
            assert int(answer.headers["retry-after"]) > 0
        faults.on = False

        async def is_back() -> bool:
            answer = await ingest.receipt("r0")
            return answer.status_code == 200 and answer.json()["received"] == 2 * SAMPLES

        await eventually(is_back, seconds=30)
