"""MongoDB while connections break and primaries step down: failures are "later", and what is repeated is done once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from msgspec.structs import replace
from pymongo.uri_parser import parse_uri

from shared.clock import utc_now
from shared.documents import Collection, Conflict, Document, Documents, open_documents
from shared.errors import Unavailable
from shared.jobs import DUE_INDEX, Job, Workers
from tests.contract.conftest import dropped
from tests.contract.failing_mongo import Failing, at_random
from tests.polling import eventually

# Each failure costs half a second, on a busy machine several.
pytestmark = pytest.mark.timeout(180)
COMMANDS = frozenset({"update", "find", "delete", "insert", "findAndModify"})
# After a failure a client looks for the primary half a second later.
WRITERS, STEPS = 2, 12


class Tally(Document, frozen=True, kw_only=True):
    """Which steps were taken."""

    steps: tuple[str, ...] = ()


class Task(Job, frozen=True, kw_only=True):
    """A job that ends at its first success."""

    ended_at: datetime | None = None


TALLIES = Collection("tallies", Tally, ())
TASKS = Collection("failing_tasks", Task, (DUE_INDEX,))


@asynccontextmanager
async def both(address: str, seed: int, share: float) -> AsyncGenerator[tuple[Documents, Documents, Failing]]:
    """One database through a server that fails, and as it is."""
    (host, port), name = parse_uri(address)["nodelist"][0], f"contract_{uuid4().hex}"
    plain = open_documents(f"{address}/{name}", "contract")
    await plain.open([TALLIES, TASKS])
    async with Failing(host, port or 27017, at_random(seed, share, COMMANDS)).running() as failing:
        # It says itself where it is, and clients would follow that past this one.
        url = f"mongodb://127.0.0.1:{failing.port}/{name}?directConnection=true"
        shaken = open_documents(url, "contract")
        try:
            while True:
                try:
                    await shaken.open([TALLIES, TASKS])
                    break
                except Unavailable:
                    continue
            yield shaken, plain, failing
        finally:
            await shaken.close()
            await plain.close()
            await dropped(f"{address}/{name}")


async def step(documents: Documents, name: str) -> None:
    """Take a step as handlers do: what is there decides, and "later" is tried again."""
    while True:
        try:
            known = await documents.get(TALLIES, "t") or Tally(id="t")
            if name in known.steps:
                return
            await documents.put(TALLIES, replace(known, steps=(*known.steps, name)))
        except (Unavailable, Conflict):
            await asyncio.sleep(0)  # the proxy drops or answers meanwhile
        else:
            return


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_step_is_taken_once_however_answers_get_lost(fake_mongo: str, seed: int) -> None:
    async with both(fake_mongo, seed, 0.25) as (shaken, plain, failing):

        async def writer(number: int) -> None:
            for at in range(STEPS):
                await step(shaken, f"{number}-{at}")

        async with asyncio.timeout(60):
            await asyncio.gather(*(writer(number) for number in range(WRITERS)))
        tally = await plain.get(TALLIES, "t")
        assert tally is not None
        assert sorted(tally.steps) == sorted(f"{number}-{at}" for number in range(WRITERS) for at in range(STEPS))
        assert tally.version == WRITERS * STEPS
        assert set(failing.made) == {"unsent", "unanswered", "stepped down"}


async def test_every_job_ends_while_claims_and_results_get_lost(fake_mongo: str) -> None:
    async with both(fake_mongo, 7, 0.2) as (shaken, plain, failing):
        ids = [f"task-{number}" for number in range(12)]
        for id in ids:
            await plain.put(TASKS, Task(id=id, due_at=utc_now()))

        async def work(task: Task) -> Task:
            return replace(task, due_at=None, ended_at=utc_now())

        lease = timedelta(seconds=1)
        workers = Workers(shaken, TASKS, work, concurrency=4, lease=lease, scan_seconds=0.05, grace_seconds=0.1)
        running = asyncio.create_task(workers.run())

        async def ended() -> bool:
            found = await plain.get_many(TASKS, ids)
            return all(task is not None and task.ended_at is not None and task.due_at is None for task in found)

        try:
            await eventually(ended, seconds=60)
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert sum(failing.made.values()) >= 3
