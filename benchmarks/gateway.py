"""What the gateway costs: CPU of its process for one request, traced as shipped, against bare FastAPI in the same run.

A GET that the gateway answers itself is compared with a bare FastAPI route, a proxied GET with a bare FastAPI route
that makes one bare aiohttp call.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from benchmarks import measure
from benchmarks.stacks import fresh_stack, running
from infra.local.instance import Instance, free_ports
from infra.local.phone import Phone

ROUNDS = 5
SECONDS = 4.0
TARGET = 2.0


@contextmanager
def bare_app(upstream: str) -> Iterator[tuple[int, int]]:
    """The bare application as a process; its pid and port."""
    port = free_ports(1)[0]
    environment = {**os.environ, "PORT": str(port), "UPSTREAM": upstream, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare_app"], env=environment)
    try:
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(10)


async def answering(port: int, path: str) -> None:
    """Wait until the application answers."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            await measure.load("127.0.0.1", port, path, seconds=0.01, connections=1)
            return
        except OSError:
            await asyncio.sleep(0.05)
    raise TimeoutError(f"nothing answers on port {port}")


async def signed_in(instance: Instance) -> str:
    """A new user's token."""
    account = {"email": f"{uuid4().hex}@example.com", "password": uuid4().hex}
    async with aiohttp.ClientSession() as session:
        phone = Phone(instance.url, session, time.monotonic() + 30)
        await phone.send("POST", "/v1/users", key=str(uuid4()), body=account)
        return (await phone.send("POST", "/v1/tokens", body=account)).body["access_token"]


async def measure_gateway(instance: Instance, bare_pid: int, bare_port: int) -> dict[str, Any]:
    """CPU microseconds a request, interleaved, and the two ratios."""
    token = await signed_in(instance)
    gateway, port = running(instance).pid("gateway"), instance.settings.gateway_port
    await answering(bare_port, "/bare")
    cost = partial(measure.cpu_per_request, seconds=SECONDS)
    found = await measure.interleaved(
        ROUNDS,
        {
            "bare": lambda: cost(bare_pid, bare_port, "/bare"),
            "gateway_own": lambda: cost(gateway, port, "/v1/whoami", token=token),
            "bare_call": lambda: cost(bare_pid, bare_port, "/call"),
            "gateway_proxied": lambda: cost(gateway, port, "/v1/insights?limit=1", token=token),
        },
    )
    return {
        "cpu_us_per_request": found,
        "own_ratio": round(found["gateway_own"]["median"] / found["bare"]["median"], 2),
        "proxied_ratio": round(found["gateway_proxied"]["median"] / found["bare_call"]["median"], 2),
        "targets": {"own_ratio": TARGET, "proxied_ratio": TARGET},
    }


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack() as instance:
        # The upstream's own cost is not counted; its liveness answer is as small as an empty page of insights.
        upstream = f"http://127.0.0.1:{instance.settings.insights_port}/livez"
        with bare_app(upstream) as (pid, port):
            figures = asyncio.run(measure_gateway(instance, pid, port))
    measure.report("gateway", figures, machine)


if __name__ == "__main__":
    main()
