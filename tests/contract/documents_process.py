"""A process of its own on the database under test: `python -m tests.contract.documents_process ROLE URL [MORE]`."""

import asyncio
import itertools
import os
import resource
import signal
import sqlite3
import sys
from datetime import timedelta
from typing import Any

from pymongo import monitoring

from shared.clock import utc_now
from shared.documents import Documents, Put, open_documents
from shared.errors import Unavailable
from tests.contract.documents_models import ALL, ENTRIES, TASKS, Entry, Task


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def claim(documents: Documents) -> None:
    """Claim until nothing is due, one to three at a time; say each."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for limit in itertools.cycle((1, 2, 3)):
        claimed = await documents.claim(TASKS, "due", now=utc_now(), lease=timedelta(seconds=60), limit=limit)
        if not claimed:
            return
        for task in claimed:
            say(task.id)


async def write(documents: Documents) -> None:
    """Write for ever: steps one after the other, and pairs in one `put_many`; say what was acknowledged."""
    say("ready")
    for n in itertools.count():
        await documents.put(ENTRIES, Entry(id=f"bucket-{n}", photo=bytes(3000)))
        say(f"bucket-{n}")
        await documents.put(ENTRIES, Entry(id=f"day-{n}"))
        say(f"day-{n}")
        pair = [Put(ENTRIES, Entry(id=f"left-{n}", photo=bytes(3000))), Put(TASKS, Task(id=f"right-{n}"))]
        await asyncio.gather(documents.put_many(pair), documents.put(ENTRIES, Entry(id=f"beside-{n}")))
        say(f"left-{n}")
        say(f"beside-{n}")


async def fill_disk(documents: Documents) -> None:
    """Write under a limit on the size of files until refused, then without it; say what was acknowledged."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    n = 0
    try:
        for n in range(1000):
            await documents.put(ENTRIES, Entry(id=f"e{n}", photo=bytes(10_000)))
            say(f"e{n}")
    except Unavailable as unavailable:
        say("unavailable", unavailable.system)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await documents.put(ENTRIES, Entry(id="after"))
    say("after")


async def outlive(documents: Documents) -> None:
    """Store "e", wait until the server is gone, and say what each verb says then."""
    await documents.put(ENTRIES, Entry(id="e"))
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for verb in (
        documents.get(ENTRIES, "e"),
        documents.get_many(ENTRIES, ["e"]),
        documents.put(ENTRIES, Entry(id="f")),
        documents.find(ENTRIES, "by_time"),
        documents.count(ENTRIES, "by_time"),
        documents.delete(ENTRIES, "e"),
        documents.delete_where(ENTRIES, "by_time", ["u1"]),
    ):
        try:
            await verb
        except Unavailable as unavailable:
            say(unavailable.system)


class Death(monitoring.CommandListener):
    """Ends this process with SIGKILL right before its next write but `after`, on either engine."""

    def __init__(self) -> None:
        self.after: int | None = None
        self.connections: list[sqlite3.Connection] = []
        monitoring.register(self)
        sys.addaudithook(self._heard)

    def arm(self, after: int) -> None:
        self.after = after
        for connection in self.connections:
            connection.set_trace_callback(lambda statement: self._write(statement.split()[0] in ("INSERT", "UPDATE")))

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect/handle":
            self.connections.append(arguments[0])

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._write(event.command_name == "update")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    def _write(self, is_one: bool) -> None:
        if is_one and self.after is not None:
            if self.after == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.after -= 1


def six_writes() -> list[Put]:
    """A put_many in which no two neighbours can travel together; half of it is over version 1."""
    return [
        Put(ENTRIES, Entry(id="e0", version=1, position=1)),
        Put(TASKS, Task(id="t0", queue="after")),
        Put(ENTRIES, Entry(id="e1", position=1)),
        Put(TASKS, Task(id="t1", version=1, queue="after")),
        Put(ENTRIES, Entry(id="e2", version=1, position=1)),
        Put(TASKS, Task(id="t2", queue="after")),
    ]


async def die(documents: Documents, death: Death, after: str) -> None:
    """Begin a put_many of six writes and die after so many of them."""
    death.arm(int(after))
    await documents.put_many(six_writes())


ROLES = {"claim": claim, "write": write, "fill_disk": fill_disk, "outlive": outlive}


async def main(role: str, url: str, *more: str) -> None:
    death = Death() if role == "die" else None
    documents = open_documents(url, "contract")
    await documents.open(ALL)
    await (die(documents, death, *more) if death else ROLES[role](documents))
    await documents.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
