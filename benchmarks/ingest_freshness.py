"""How fresh the data is: POST answered → stored and readable, idle and at half of full load, against raw Kafka.

The limit is a bare produce → consume on the same broker, taken between the posts and under the same load. Readable is a
sample when the event behind its durable write comes: from then on every read finds it. Under full load the benchmark
also watches how far what was accepted runs ahead of what is stored.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks import measure
from benchmarks.ingest_load import (
    USERS,
    Poured,
    Stored,
    User,
    batch,
    headers,
    heart_rates,
    introduce,
    pour,
    receipt_of,
    warm_up,
)
from benchmarks.path import PROBE_TOPIC, RawPath
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance

WARM_UP_SECONDS = 45.0
IDLE_POSTS, FULL_POSTS, LOADED_SECONDS = 100, 2_000, 30.0
GAP_SECONDS = (0.5, 1.0)
SIZE = 1_000
PROBE_EVERY_SECONDS = 0.1
TARGETS = {"idle_ratio_p50": 4.0, "half_ratio_p99": 30.0, "half_p99_ms": 150.0}


@dataclass(frozen=True)
class Probe:
    """One user's single samples: how long until each is readable."""

    url: str
    session: aiohttp.ClientSession
    stored: Stored
    user: User

    async def milliseconds(self) -> float:
        """From the POST's answer to the event behind the durable write."""
        body = heart_rates(self.user, 1)
        async with self.session.post(f"{self.url}/v1/batches", data=body, headers=headers(self.user)) as answer:
            answer.raise_for_status()
            receipt, answered = receipt_of(await answer.read()), time.monotonic()
        return (await self.stored.told(receipt) - answered) * 1000


async def idle(probe: Probe, raw: RawPath) -> dict[str, Any]:
    """Single samples after random gaps."""
    ours: list[float] = []
    limit: list[float] = []
    for _ in range(IDLE_POSTS):
        await asyncio.sleep(random.uniform(*GAP_SECONDS))
        ours.append(await probe.milliseconds())
        await asyncio.sleep(random.uniform(*GAP_SECONDS) / 2)
        limit.append(await raw.seconds() * 1000)
    return {"ours_ms": percentiles(ours), "raw_ms": percentiles(limit)}


async def full(port: int, stored: Stored, users: list[User]) -> dict[str, Any]:
    """Batches of 1,000 as fast as they are taken: the rate, and how far accepted ran ahead of stored."""
    requests = [batch(users[turn % len(users)], SIZE) for turn in range(FULL_POSTS)]
    already, begun, poured = stored.samples, time.monotonic(), Poured()
    pouring = asyncio.create_task(pour(port, requests, poured=poured))
    ahead: list[int] = []
    while not pouring.done():
        await asyncio.sleep(0.05)
        ahead.append(len(poured.seconds) * SIZE - (stored.samples - already))
    await pouring
    accepted = time.monotonic()
    done = await stored.until(already + len(requests) * SIZE)
    rate = len(requests) * SIZE / (done - begun)
    return {
        "per_second": round(rate),
        "accepted_ahead_of_stored_samples": measure.spread(ahead),
        "the_largest_in_seconds_of_work": round(max(ahead) / rate, 3),
        "stored_after_last_accepted_ms": round((done - accepted) * 1000, 1),
        "refused": poured.refused,
    }


async def half(probe: Probe, raw: RawPath, port: int, users: list[User], rate: float) -> dict[str, Any]:
    """A probe's single samples and raw records while batches come at half of full load."""
    requests = [batch(users[turn % len(users)], SIZE) for turn in range(int(rate / 2 / SIZE * LOADED_SECONDS))]
    load = asyncio.create_task(pour(port, requests, every=SIZE / (rate / 2)))
    ours: list[float] = []
    limit: list[float] = []
    while not load.done():
        await asyncio.sleep(random.uniform(0, 2 * PROBE_EVERY_SECONDS))
        ours.append(await probe.milliseconds())
        limit.append(await raw.seconds() * 1000)
    await load
    return {"ours_ms": percentiles(ours), "raw_ms": percentiles(limit), "load_per_second": round(rate / 2)}


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90 and p99."""
    ordered = sorted(values)
    return {
        f"p{share}": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 3) for share in (50, 90, 99)
    }


async def measure_freshness(instance: Instance) -> dict[str, Any]:
    """Full load first, which warms the broker; then half of it, then idle."""
    port = instance.settings.gateway_port
    raw, stored = RawPath(instance.bootstrap_servers), Stored(instance.bootstrap_servers)
    await raw.start()
    await stored.start()
    *users, single = await introduce(instance, USERS + 1)
    await warm_up(port, stored, users, WARM_UP_SECONDS)
    async with aiohttp.ClientSession() as session:
        probe = Probe(instance.url, session, stored, single)
        found: dict[str, Any] = {"full": await full(port, stored, users)}
        found["half"] = await half(probe, raw, port, users, found["full"]["per_second"])
        found["idle"] = await idle(probe, raw)
    await stored.stop()
    await raw.stop()
    found["idle_ratio_p50"] = round(found["idle"]["ours_ms"]["p50"] / found["idle"]["raw_ms"]["p50"], 2)
    found["half_ratio_p99"] = round(found["half"]["ours_ms"]["p99"] / found["half"]["raw_ms"]["p99"], 2)
    return found | {"targets": TARGETS}


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack(topics=[PROBE_TOPIC]) as instance:
        figures = asyncio.run(measure_freshness(instance))
    measure.report("ingest_freshness", figures, machine)


if __name__ == "__main__":
    main()
