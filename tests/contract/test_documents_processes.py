"""What the document port promises when several processes share a database, and when one of them is killed."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from shared.documents import Documents, Put
from tests.contract.documents_models import ALL, ENTRIES, TASKS, Entry, Task
from tests.contract.documents_process import six_writes

Connect = Callable[[], Documents]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def started(role: str, url: str, *more: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.documents_process", role, url, *more, stdin=PIPE, stdout=PIPE
    )


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def test_eight_claimers_get_each_job_once(connect: Connect, database_url: str) -> None:
    documents = connect()
    await documents.open(ALL)
    due = [Task(id=f"t{n:03}", due_at=NOON + timedelta(seconds=n)) for n in range(240)]
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


@pytest.mark.parametrize("after", range(7))
async def test_a_kill_between_two_writes_of_put_many(
    connect: Connect, engine: str, database_url: str, after: int
) -> None:
    documents = connect()
    await documents.open(ALL)
    before = [replace(put.document, version=0) for put in six_writes() if put.document.version]
    await documents.put_many([Put(ENTRIES if isinstance(one, Entry) else TASKS, one) for one in before])
    process = await started("die", database_url, str(after))
    assert await process.wait() == (0 if after == 6 else -signal.SIGKILL)
    done = after if engine != "sqlite" or after == 6 else 0
    for place, put in enumerate(six_writes()):
        found = await documents.get(put.collection, put.document.id)
        expected = put.document.version + (place < done)
        assert (found.version if found else 0) == expected, f"write {place} of 6 after {after}"
    # Whoever repeats the work reads again and gets it whole.
    versions = [await documents.get(put.collection, put.document.id) for put in six_writes()]
    again = [replace(p.document, version=v.version if v else 0) for p, v in zip(six_writes(), versions, strict=True)]
    await documents.put_many([Put(put.collection, one) for put, one in zip(six_writes(), again, strict=True)])


async def test_kill_9_leaves_put_many_in_order(connect: Connect, engine: str, database_url: str) -> None:
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
        for left, right in zip(lefts, rights, strict=True):
            assert left is not None or right is None, "a later write without the one before it"
            assert right is not None or left is None or engine != "sqlite", "a half of a transaction"
        for collection in (ENTRIES, TASKS):
            for document in await documents.get_many(collection, [f"{name}-{n}" for name in NAMES for n in range(50)]):
                if document is not None:
                    await documents.delete(collection, document.id)


NAMES = ("bucket", "day", "left", "right", "beside")
