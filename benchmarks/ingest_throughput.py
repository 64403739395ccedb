"""Samples stored and readable a second at batches of 100, 1,000 and 5,000, and 500 users who stream one by one.

Twelve users send over four connections (the 500 over 32), each a heart rate a second with an id. The clock runs from
the first POST until the event behind the durable write of the last batch; then every user's count is read back through
the API. Everything runs as shipped: identity checks, tracing, receipts, days and all consumers; the client shares the
two cores.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks import ingest_load, measure
from benchmarks.ingest_load import CONNECTIONS, USERS, Stored, User, batch, introduce, pour, warm_up
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance

ROUNDS = 3
WARM_UP_SECONDS = 45.0
# So many samples a round that it lasts some seconds, and the targets a second.
SIZES = {100: (480_000, 80_000), 1_000: (1_800_000, 300_000), 5_000: (2_400_000, 450_000)}
STREAMERS, STREAMED, STREAM_TARGET = 500, 20_000, 3_000
STREAM_CONNECTIONS = 32
CPU_TARGET_MS = 0.005
BYTES_TARGETS = {100: 600, 1_000: 150, 1: 10_000}
# open-wearables 0.6.3, tuned, the same shape on two cores of another run: samples a second and CPU ms a sample.
PEER = {100: (3_161, 0.55), 1_000: (4_310, 0.33), 5_000: (5_400, 0.33)}


@dataclass(frozen=True)
class Used:
    """CPU seconds and bytes written since `before`, by part of the stack."""

    cpu: dict[str, float]
    written: dict[str, int]


def used(instance: Instance) -> Used:
    """What the stack's parts have used so far."""
    parts = ingest_load.pids(instance)
    return Used(
        {name: sum(map(measure.cpu_seconds, group)) for name, group in parts.items()},
        {name: sum(map(ingest_load.bytes_written, group)) for name, group in parts.items()},
    )


async def measured(
    instance: Instance, stored: Stored, requests: list[bytes], size: int, connections: int = CONNECTIONS
) -> dict[str, Any]:
    """Send all, wait until all is stored: rates, and what each part used."""
    samples, already = len(requests) * size, stored.samples
    before, begun = used(instance), time.monotonic()
    port, *others = instance.members("gateway").values()
    poured = await pour(port, requests, connections=connections, others=others)
    accepted = time.monotonic()
    done = await stored.until(already + samples)
    after = used(instance)
    cpu = {name: after.cpu[name] - before.cpu[name] for name in before.cpu}
    written = {name: after.written[name] - before.written[name] for name in before.written}
    ordered = sorted(poured.seconds)
    return {
        "per_second": samples / (done - begun),
        "stored_after_accepted_ms": (done - accepted) * 1000,
        "cpu_ms_per_sample": sum(cpu.values()) / samples * 1000,
        "cpu_us_by_part": {name: round(value / samples * 1e6, 3) for name, value in cpu.items()},
        "bytes_per_sample": sum(written.values()) / samples,
        "bytes_by_part": {name: round(value / samples, 1) for name, value in written.items() if value},
        "post_p50_ms": ordered[len(ordered) // 2] * 1000,
        "post_p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "refused": poured.refused,
    }


async def readable(instance: Instance, users: list[User], expected: int) -> None:
    """Raises RuntimeError unless the API finds exactly what was sent."""
    found = 0
    async with aiohttp.ClientSession() as session:
        for user in users:
            query = {
                "metric": "heart_rate",
                "from": ingest_load.FIRST_SECOND.isoformat(),
                "to": user.sent_until.isoformat(),
                "resolution": "1h",
            }
            headers = {"Authorization": f"Bearer {user.token}", "Accept": "application/x-ndjson"}
            async with session.get(f"{instance.url}/v1/timeseries", params=query, headers=headers) as answer:
                answer.raise_for_status()
                found += ingest_load.counted(await answer.text())
    if found != expected:
        raise RuntimeError(f"{expected} samples were sent, {found} can be read")


async def of_size(instance: Instance, stored: Stored, size: int) -> dict[str, Any]:
    """Rounds of one batch size, each with users of its own."""
    samples, target = SIZES[size]
    rounds: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        users = await introduce(instance, USERS)
        requests = [batch(users[turn % USERS], size) for turn in range(samples // size)]
        rounds.append(await measured(instance, stored, requests, size))
        await readable(instance, users, samples // size * size)
    return summary(rounds) | {"target_per_second": target, "peer_per_second": PEER[size][0]}


async def streaming(instance: Instance, stored: Stored) -> dict[str, Any]:
    """500 users, one sample a POST."""
    users = await introduce(instance, STREAMERS)
    # The devices have been at it for a while: the buckets of this hour are not empty.
    first = [batch(user, 1_800) for user in users]
    already = stored.samples
    await pour(instance.settings.gateway_port, first)
    await stored.until(already + 1_800 * len(users))
    requests = [batch(users[turn % STREAMERS], 1) for turn in range(STREAMED)]
    found = await measured(instance, stored, requests, 1, STREAM_CONNECTIONS)
    await readable(instance, users, 1_800 * len(users) + STREAMED)
    return summary([found]) | {"target_per_second": STREAM_TARGET}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Spreads over the rounds; the parts as in the last one."""
    numbers = [name for name, value in rounds[0].items() if not isinstance(value, dict)]
    found: dict[str, Any] = {name: measure.spread([one[name] for one in rounds]) for name in numbers}
    return found | {name: rounds[-1][name] for name in ("cpu_us_by_part", "bytes_by_part")}


async def measure_throughput(instance: Instance) -> dict[str, Any]:
    """All sizes on one stack, the broker warmed first."""
    stored = Stored(instance.bootstrap_servers)
    await stored.start()
    await warm_up(instance.settings.gateway_port, stored, await introduce(instance, USERS), WARM_UP_SECONDS)
    found: dict[str, Any] = {str(size): await of_size(instance, stored, size) for size in SIZES}
    found["1"] = await streaming(instance, stored)
    found["resident_mib"] = {
        name: round(sum(map(measure.resident_mib, group)), 1) for name, group in ingest_load.pids(instance).items()
    }
    await stored.stop()
    return found


def table(found: dict[str, Any]) -> None:
    """The figures beside the peer's, to read."""
    print(
        f"{'batch':>6} {'samples/s':>10} {'target':>8} {'peer':>6} {'times':>6} {'CPU ms':>8} {'peer':>6} {'bytes':>7}"
    )
    for size in SIZES:
        one = found[str(size)]
        rate, cpu = one["per_second"]["median"], one["cpu_ms_per_sample"]["median"]
        peer_rate, peer_cpu = PEER[size]
        print(
            f"{size:>6} {rate:>10,.0f} {SIZES[size][1]:>8,} {peer_rate:>6,} {rate / peer_rate:>6.0f} {cpu:>8.4f} "
            f"{peer_cpu:>6} {one['bytes_per_sample']['median']:>7.0f}"
        )
    one = found["1"]
    rate, cpu = one["per_second"]["median"], one["cpu_ms_per_sample"]["median"]
    written = one["bytes_per_sample"]["median"]
    print(f"{1:>6} {rate:>10,.0f} {STREAM_TARGET:>8,} {'':>6} {'':>6} {cpu:>8.4f} {'':>6} {written:>7.0f}")


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack() as instance:
        figures = asyncio.run(measure_throughput(instance))
    targets = {"cpu_ms_per_sample_at_1000": CPU_TARGET_MS, "bytes_per_sample": BYTES_TARGETS}
    measure.report("ingest_throughput", figures | {"targets": targets}, machine)
    table(figures)


if __name__ == "__main__":
    main()
