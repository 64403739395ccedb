"""A stack of the benchmark's own: new data, free ports, everything as shipped."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local import control
from infra.local.control import State
from infra.local.instance import Instance, on_free_ports
from infra.local.settings import ROOT

# One benchmark's user calls as often as thousands of people's apps; limits are counted as shipped, and not reached.
UNREACHED = {f"GATEWAY_RATE_{name}": "999999/1" for name in ("READ", "WRITE", "SIGN_IN", "STREAM", "FAILED", "KEY")}


@contextmanager
def fresh_stack(*, topics: Sequence[str] = (), only: str = "", cluster: bool = False) -> Iterator[Instance]:
    """An instance, ready, with these one-partition topics besides; stopped and removed at the end.

    `only`: the processes that it runs, or kinds of them, comma-separated; empty for all. `cluster`: as up --cluster.
    """
    instance = on_free_ports(ROOT / ".mymacro" / f"bench-{secrets.token_hex(4)}", only=only, cluster=cluster)
    os.environ.update(UNREACHED)
    supervisor = control.launch(instance, attached=True)
    try:
        control.wait_ready(instance, supervisor)
        if topics:
            asyncio.run(_create(instance.bootstrap_servers, topics))
        yield instance
    finally:
        control.stop(instance, supervisor)
        shutil.rmtree(instance.data, ignore_errors=True)


async def _create(bootstrap: str, topics: Sequence[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in topics])
    finally:
        await admin.close()


def running(instance: Instance) -> State:
    """The supervisor's last words of a stack that runs."""
    state = control.state(instance)
    if state is None:
        raise RuntimeError("the stack does not run")
    return state
