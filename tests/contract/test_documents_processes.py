"""What the document port promises when several processes share a database, and when one of them is killed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from shared.documents import Documents, Put
from tests.contract.documents_models import ALL, ENTRIES, TASKS, Task

Connect = Callable[[], Documents]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def started(role: str, url: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.documents_process", role, url, stdin=PIPE, stdout=PIPE
    )


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def test_eight_claimers_get_each_job_once(connect: Connect, database_url: str) -> None:
    documents = connect()
    await documents.open(ALL)
    due = [Task(id=f"t{n:03}", due_at=NOON + timedelta(seconds=n)) for n in range(400)]
    await documents.put_many([Put(TASKS, task) for task in due])
    claimers = await asyncio.gather(*(started("claim", database_url) for _ in range(8)))
    assert await asyncio.gather(*map(line, claimers)) == ["ready"] * 8
    outputs = await asyncio.gather(*(claimer.communicate(b"go\n") for claimer in claimers))
    assert [claimer.returncode for claimer in claimers] == [0] * 8
    claimed = Counter(id for out, _ in outputs for id in out.decode().split())
    assert claimed == Counter(task.id for task in due)
    found = await documents.get_many(TASKS, [task.id for task in due])
    assert {(task.version, task.attempts) for task in found if task} == {(2, 1)}


@pytest.mark.parametrize("lines", [1, 2, 7, 40, 203])
async def test_kill_9_keeps_every_acknowledged_write(connect: Connect, database_url: str, lines: int) -> None:
    writer = await started("write", database_url)
    assert await line(writer) == "ready"
    acknowledged = [await line(writer) for _ in range(lines)]
    writer.kill()
    assert writer.stdout is not None
    # What was said before the kill counts, a line cut in half does not.
    acknowledged += (await writer.stdout.read()).decode().split("\n")[:-1]
    await writer.wait()

    documents = connect()
    await documents.open(ALL)
    found = await documents.get_many(ENTRIES, acknowledged)
    assert [id for id, document in zip(acknowledged, found, strict=True) if document is None] == []
    rounds = range(len(acknowledged) // 4 + 2)
    days = await documents.get_many(ENTRIES, [f"day-{n}" for n in rounds])
    buckets = await documents.get_many(ENTRIES, [f"bucket-{n}" for n in rounds])
    assert [n for n in rounds if days[n] and not buckets[n]] == [], "a later write without the one before it"


async def test_kill_9_leaves_put_many_whole_or_undone(connect: Connect, database_url: str) -> None:
    for _ in range(3):
        writer = await started("write", database_url)
        while not (await line(writer)).startswith("day-"):
            pass
        writer.kill()
        await writer.communicate()
        documents = connect()
        await documents.open(ALL)
        lefts = await documents.get_many(ENTRIES, [f"left-{n}" for n in range(50)])
        rights = await documents.get_many(TASKS, [f"right-{n}" for n in range(50)])
        assert [left is None for left in lefts] == [right is None for right in rights]
        for collection in (ENTRIES, TASKS):
            for document in await documents.get_many(collection, [f"{name}-{n}" for name in NAMES for n in range(50)]):
                if document is not None:
                    await documents.delete(collection, document.id)


NAMES = ("bucket", "day", "left", "right", "beside")
