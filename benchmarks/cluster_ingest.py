"""Samples stored and readable a second of a cluster on this one machine, against the embedded stack in the same run.

Three brokers with three copies of each record, two gateways and two of each other service, one or three processes of
ingest; the same two cores for all. So it tells what the copies and the processes cost, and that more processes of
ingest do no harm: what they gain shows on more cores only.
"""

import asyncio
from typing import Any

from benchmarks import measure
from benchmarks.ingest_load import USERS, Stored, batch, introduce, warm_up
from benchmarks.ingest_throughput import measured, readable, summary
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance

SIZE, SAMPLES, ROUNDS = 1_000, 900_000, 3
WARM_UP_SECONDS = 30.0
BESIDE = "kafka,redis,auth,insights,webhooks,gateway"
# What runs, and whether as a cluster.
CONTENDERS = {
    "embedded": ("kafka,auth,ingest,insights,webhooks,gateway", False),
    "cluster_1_ingest": (f"{BESIDE},ingest-1", True),
    "cluster_3_ingest": (f"{BESIDE},ingest", True),
}


async def rounds(instance: Instance) -> dict[str, Any]:
    """Spreads over the rounds on one stack, warmed first."""
    stored = Stored(instance.bootstrap_servers)
    await stored.start()
    port = next(iter(instance.members("gateway").values()))
    await warm_up(port, stored, await introduce(instance, USERS), WARM_UP_SECONDS)
    found: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        users = await introduce(instance, USERS)
        requests = [batch(users[turn % USERS], SIZE) for turn in range(SAMPLES // SIZE)]
        found.append(await measured(instance, stored, requests, SIZE))
        await readable(instance, users, SAMPLES)
    await stored.stop()
    return summary(found)


def main() -> None:
    """Measure one stack after the other."""
    machine = measure.fingerprint()
    figures: dict[str, Any] = {}
    for name, (only, cluster) in CONTENDERS.items():
        with fresh_stack(only=only, cluster=cluster) as instance:
            figures[name] = asyncio.run(rounds(instance))
    embedded = figures["embedded"]["per_second"]["median"]
    ratios = {name: round(figures[name]["per_second"]["median"] / embedded, 3) for name in CONTENDERS}
    measure.report("cluster_ingest", figures | {"against_embedded": ratios}, machine)


if __name__ == "__main__":
    main()
