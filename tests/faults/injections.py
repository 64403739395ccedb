"""The faults by name: each hits the running stack under load and returns once it is over."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from infra.local import processes
from infra.local.instance import free_ports, service_environment
from infra.local.parts import http_ok
from infra.local.stack import StackError
from tests.faults import small_disks
from tests.faults.ledger import Ledger
from tests.faults.load import SAMPLES, SENDERS, Load, Mark
from tests.faults.supervisor import Exchanged, page_limit_file
from tests.polling import eventually
from tests.running_stack import Stack

STOPPED_S = 15.0
LOCKED_S = 25.0
FULL_S = 10.0
REBALANCE_S = 10.0
FIRST_BATCHES_OF = 60
# 54 bytes a sample: more than the 512 KiB that a message may hold.
LARGE = 10_000
LARGE_BATCHES = 4


@dataclass
class Scene:
    """What a fault works on. `mark` is the fault under way."""

    stack: Stack
    exchanged: Exchanged
    load: Load
    ledger: Ledger
    rng: Random
    disks: dict[str, str]
    mark: Mark = field(default_factory=lambda: Mark("none"))

    def names(self, kind: str) -> list[str]:
        """The processes of a kind."""
        return list(self.stack.instance.members(kind))

    def pick(self, kind: str) -> str:
        """One of them."""
        names = self.names(kind)
        name = self.rng.choice(names)
        self.mark.note = name if len(names) > 1 else ""
        return name

    async def under_load(self) -> None:
        """Return with requests in flight, half of the senders' if that can be had, or after 20 s without any."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < 20:
            self.load.press()
            for _ in range(20):
                await asyncio.sleep(0.001)
                if self.load.door.under_way >= (SENDERS // 2 if waited < 2 else 1):
                    return

    def hit(self) -> None:
        """The fault hits now."""
        self.mark.hit_at = time.monotonic()
        self.mark.in_flight, self.mark.waiting = self.load.door.under_way, self.load.waiting
        self.load.watch(self.mark)

    def signal(self, name: str, number: int) -> int:
        """Signal a part of the stack, or say that it is not there just now; returns its pid."""
        return self.stack.kill(name, number)

    async def back(self, name: str, killed: int) -> None:
        """Wait until the next process of that name is ready; `killed` was the pid of the last one."""
        await eventually(lambda: self.stack.state.processes[name]["pid"] != killed, seconds=60, every=0.05)
        await self.ready(name)

    async def ready(self, *names: str) -> None:
        """Wait until these parts run and are ready."""
        await eventually(lambda: self.stack.ready(*names), seconds=150, every=0.1)


Inject = Callable[[Scene], Awaitable[None]]


async def kill(scene: Scene, name: str) -> None:
    """kill -9; over when the supervisor's next process is ready."""
    scene.mark.ends_processes = True
    await scene.ready(name)
    await scene.under_load()
    scene.hit()
    await scene.back(name, scene.signal(name, signal.SIGKILL))


def killed(kind: str) -> Inject:
    """kill -9 of one of that kind."""

    async def inject(scene: Scene) -> None:
        await kill(scene, scene.pick(kind))

    return inject


def stopped(kind: str, seconds: tuple[float, float] = (STOPPED_S, STOPPED_S)) -> Inject:
    """SIGSTOP of one of that kind, for 15 s or a time between two."""

    async def inject(scene: Scene) -> None:
        # Its members leave their groups meanwhile, so what it had in hand is done again.
        scene.mark.ends_processes = True
        name = scene.pick(kind)
        await scene.ready(name)
        await scene.under_load()
        scene.hit()
        pid = scene.signal(name, signal.SIGSTOP)
        try:
            await asyncio.sleep(scene.rng.uniform(*seconds))
        finally:
            os.kill(pid, signal.SIGCONT)

    return inject


@asynccontextmanager
async def _locked(scene: Scene) -> AsyncIterator[None]:
    path = scene.stack.instance.data / "db" / "ingest.sqlite"
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def database_locked(scene: Scene) -> None:
    """Another process holds the write lock of ingest's database for 25 s."""
    async with _locked(scene):
        await scene.under_load()
        scene.hit()
        await asyncio.sleep(LOCKED_S)


async def killed_while_locked(scene: Scene) -> None:
    """kill -9 of ingest while a turn of it waits for its database: the surest moment to lose what is in hand."""
    scene.mark.ends_processes = True
    name = scene.pick("ingest")
    await scene.ready(name)
    async with _locked(scene):
        await scene.under_load()
        scene.hit()
        before = scene.load.waiting
        await eventually(lambda: scene.load.waiting >= before + 8, seconds=4, every=0.005)
        pid = scene.signal(name, signal.SIGKILL)
    await scene.back(name, pid)


async def database_full(scene: Scene) -> None:
    """Ingest's database may not grow by a page for 10 s (`PRAGMA max_page_count`)."""
    await scene.under_load()
    file = page_limit_file(scene.stack.instance)
    file.touch()
    try:
        scene.hit()
        await asyncio.sleep(FULL_S)
    finally:
        file.unlink()


async def broker_disk_full(scene: Scene) -> None:
    """The broker's small file system is full to the last byte for 10 s, which ends it again and again."""
    scene.mark.ends_processes = True
    await scene.under_load()
    scene.hit()
    with small_disks.filled(small_disks.place(scene.stack.instance, "kafka")):
        await asyncio.sleep(FULL_S)
    await scene.ready("kafka")


async def objects_disk_full(scene: Scene) -> None:
    """The same of the objects, while batches are sent that are too large to travel without them."""
    users = scene.rng.sample(list(scene.load.users), LARGE_BATCHES)
    batches = [scene.ledger.fresh(user_id, scene.rng, LARGE) for user_id in users]
    with small_disks.filled(small_disks.place(scene.stack.instance, "objects")):
        sending = [asyncio.create_task(scene.load.send(batch)) for batch in batches]
        await eventually(lambda: scene.load.door.under_way >= LARGE_BATCHES, seconds=20, every=0)
        scene.hit()
        await asyncio.sleep(FULL_S)
        scene.mark.note = f"{sum(task.done() for task in sending)} large batches taken meanwhile"
    await asyncio.gather(*sending)
    await eventually(lambda: all(batch.receipt is not None for batch in batches), seconds=120, every=0.05)


async def rebalanced(scene: Scene) -> None:
    """1 → 3 → 1 processes of ingest, 10 s each; of the two that go one ends cleanly and one by kill -9."""
    scene.mark.ends_processes = True
    await scene.under_load()
    scene.hit()
    instance = scene.stack.instance
    ports = free_ports(2)  # the stack listens on its own already
    extra: list[subprocess.Popen[bytes]] = []
    try:
        for port in ports:
            env = {**os.environ, **service_environment(instance), **scene.exchanged.environment(instance)}
            env |= {"INGEST_PORT": str(port), "HOST": "127.0.0.1", processes.MARK: str(instance.data)}
            log = instance.logs / f"ingest-{port}.log"
            extra.append(processes.spawn(scene.exchanged.command("ingest"), cwd=instance.root, env=env, log=log))
        for port in ports:
            await eventually(lambda port=port: http_ok(port), seconds=60, every=0.1)
        await asyncio.sleep(REBALANCE_S)
        await scene.under_load()
        for child, number in zip(extra, (signal.SIGTERM, signal.SIGKILL), strict=True):
            child.send_signal(number)
        await eventually(lambda: all(child.poll() is not None for child in extra), seconds=30)
        await asyncio.sleep(REBALANCE_S)
    finally:
        for child in extra:
            child.kill()
            child.wait()


async def first_batches(scene: Scene) -> None:
    """120 batches at once, two of each of 60 users of whom nothing is known yet."""
    users = await scene.load.door.sign_up(FIRST_BATCHES_OF)
    batches = [scene.ledger.fresh(user_id, scene.rng, SAMPLES) for user_id in users for _ in range(2)]
    sending = [asyncio.create_task(scene.load.send(batch)) for batch in batches]
    await eventually(lambda: scene.load.door.under_way >= len(batches), seconds=20, every=0)
    scene.hit()
    await asyncio.gather(*sending)
    await eventually(lambda: all(batch.receipt is not None for batch in batches), seconds=120, every=0.05)


@dataclass(frozen=True)
class Fault:
    """A fault; `disk` names the small file system that it needs."""

    inject: Inject
    disk: str = ""

    def hindrance(self, scene: Scene) -> str:
        """Why it can't be run here; empty when it can."""
        return scene.disks.get(self.disk, "") if self.disk else ""


FAULTS: dict[str, Fault] = {
    "broker-killed": Fault(killed("kafka")),
    "ingest-killed": Fault(killed("ingest")),
    "gateway-killed": Fault(killed("gateway")),
    "broker-stopped": Fault(stopped("kafka")),
    "ingest-stopped": Fault(stopped("ingest")),
    "gateway-stopped": Fault(stopped("gateway")),
    "database-locked": Fault(database_locked),
    "ingest-killed-while-locked": Fault(killed_while_locked),
    "database-full": Fault(database_full),
    "broker-disk-full": Fault(broker_disk_full, disk="kafka"),
    "objects-disk-full": Fault(objects_disk_full, disk="objects"),
    "rebalance": Fault(rebalanced),
    "first-batches": Fault(first_batches),
}


async def inject(name: str, fault: Fault, scene: Scene) -> Mark:
    """Let the fault hit; returns its mark, healed. Raises StackError when a part never came back."""
    scene.mark = Mark(name)
    try:
        await fault.inject(scene)
    except AssertionError as error:
        raise StackError(f"{name}: {error}") from error
    scene.mark.healed_at = time.monotonic()
    return scene.mark
