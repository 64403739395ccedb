"""The faults of a cluster: of several processes one is hit, of three brokers one or two, or all in turn."""

import asyncio
import os
import signal
import time
from contextlib import suppress

from infra.local import brokers, processes, rolling
from infra.local.instance import SERVICES
from infra.local.stack import StackError
from shared.publishing import partition_of_key
from shared.topics import BATCHES
from tests.faults.injections import (
    Fault,
    Inject,
    Scene,
    first_batches,
    kill,
    killed,
    killed_while_locked,
    stopped,
)
from tests.faults.load import SAMPLES
from tests.polling import eventually

# Longer than the time within which a broker that is not heard of is out, shorter than any client waits.
BROKER_STOPPED_S = (5.0, 8.0)
# Longer than a gateway waits for an acknowledgement.
MAJORITY_S = 30.0
# With all its followers paused, a leader gets so long to acknowledge on its own.
ALONE_S = 1.5


async def instance_killed(scene: Scene) -> None:
    """kill -9 of any process of any service."""
    await kill(scene, scene.pick(scene.rng.choice(SERVICES)))


async def leader_killed(scene: Scene) -> None:
    """kill -9 of the broker that leads the partition of a user's batches."""
    numbers = list(range(BATCHES.partitions))
    partition = partition_of_key(scene.rng.choice(scene.load.users).encode(), numbers, numbers)
    servers = scene.stack.bootstrap_servers
    number = await eventually(lambda: brokers.leader(servers, BATCHES, partition), seconds=30, every=0.1)
    name = f"kafka-{number}"
    scene.mark.note = f"{name}, which led {BATCHES.name}-{partition}"
    await kill(scene, name)


def restarted(kind: str = "") -> Inject:
    """SIGTERM to each process of that kind in turn, the next when it is back; by default of any service."""

    async def inject(scene: Scene) -> None:
        scene.mark.ends_processes = True
        meant = kind or scene.rng.choice(SERVICES)
        names = scene.names(meant)
        await scene.ready(*names)
        await scene.under_load()
        scene.hit()
        await asyncio.to_thread(rolling.restart, scene.stack.instance, names, lambda _text: None)
        scene.mark.note = ", ".join(names)

    return inject


async def leader_lost(scene: Scene) -> None:
    """A leader of three is killed while its followers stand still: what it acknowledged alone is gone with it."""
    scene.mark.ends_processes = True
    names = scene.names("kafka")
    await scene.ready(*names)
    victim = scene.pick("kafka")
    paused = [scene.stack.state.pid(name) for name in names if name != victim]
    await scene.under_load()
    scene.hit()
    try:
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        until = time.monotonic() + ALONE_S
        # The phones under way soon wait for the paused brokers, so others must go on.
        sending: list[asyncio.Task[None]] = []
        while time.monotonic() < until:
            batches = [scene.ledger.fresh(user_id, scene.rng, SAMPLES) for user_id in scene.load.users]
            sending += [asyncio.create_task(scene.load.send(batch)) for batch in batches]
            await asyncio.sleep(ALONE_S / 6)
        gone = scene.signal(victim, signal.SIGKILL)
        await eventually(lambda: not processes.alive(gone), seconds=10)
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    await scene.back(victim, gone)
    await scene.ready(*names)
    await asyncio.gather(*sending)


async def majority_lost(scene: Scene) -> None:
    """Two of three brokers are killed again and again for 30 s: nothing can be acknowledged, and gateways say so."""
    scene.mark.ends_processes = True
    names = scene.names("kafka")
    await scene.ready(*names)
    victims = scene.rng.sample(names, 2)
    batch = scene.ledger.fresh(scene.load.users[0], scene.rng, SAMPLES)
    await scene.under_load()
    scene.hit()
    until = time.monotonic() + MAJORITY_S
    killing = asyncio.create_task(_kept_down(scene, victims, until))
    await asyncio.sleep(1)  # the followers' sessions end, nothing is on its way to them any more
    status, wait, after = await scene.load.door.patiently(batch.user_id, batch.key, batch.body())
    scene.mark.note = f"{' and '.join(victims)}; answered {status} after {after:.0f} s, Retry-After {wait or 'missing'}"
    await killing
    assert status == 503, scene.mark.note
    assert wait.isdigit(), scene.mark.note
    await scene.ready(*names)
    # It was not taken, or not said to be: repeated, it is there once.
    await scene.load.send(batch)
    await eventually(lambda: batch.receipt is not None, seconds=120, every=0.05)


async def _kept_down(scene: Scene, names: list[str], until: float) -> None:
    while time.monotonic() < until:
        for name in names:
            with suppress(StackError, ProcessLookupError):  # it is down just now
                scene.signal(name, signal.SIGKILL)
        await asyncio.sleep(0.1)


CLUSTER_FAULTS: dict[str, Fault] = {
    "instance-killed": Fault(instance_killed),
    "ingest-killed": Fault(killed("ingest")),
    "gateway-killed": Fault(killed("gateway")),
    "broker-killed": Fault(killed("kafka")),
    "leader-killed": Fault(leader_killed),
    "broker-stopped": Fault(stopped("kafka", BROKER_STOPPED_S)),
    "gateways-restarted": Fault(restarted("gateway")),
    "ingest-restarted": Fault(restarted("ingest")),
    "service-restarted": Fault(restarted()),
    "brokers-restarted": Fault(restarted("kafka")),
    "ingest-killed-while-locked": Fault(killed_while_locked),
    "first-batches": Fault(first_batches),
    "leader-lost": Fault(leader_lost),
    "majority-lost": Fault(majority_lost),
}
