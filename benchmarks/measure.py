"""How benchmarks measure: CPU seconds from /proc, interleaved rounds, medians with spread, JSON with the machine."""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds a process has used so far (its threads, not its children)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    """A process's share of resident memory in MiB: PSS, so that pages shared by processes count once."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, 90th percentile and maximum."""
    ordered = sorted(values)
    at = min(len(ordered) - 1, int(len(ordered) * 0.9))
    summary = {"min": ordered[0], "median": statistics.median(ordered), "p90": ordered[at], "max": ordered[-1]}
    return {name: round(value, 4) for name, value in summary.items()}


def fingerprint() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = Path("/proc/meminfo").read_text().split()[1]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607 - git of whoever measures, wherever it lies
    return {
        "cpus": os.cpu_count(),
        "cpu": model.partition(":")[2].strip(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "load_before": os.getloadavg()[0],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(name: str, figures: dict[str, Any], machine: dict[str, Any]) -> None:
    """Print the figures and write them to `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": name, "machine": machine, "figures": figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


async def interleaved(
    rounds: int, contenders: dict[str, Callable[[], Awaitable[float]]]
) -> dict[str, dict[str, float]]:
    """Run A B A B …, after one round that is thrown away; the spread of each contender's figure."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, measured in contenders.items():
            value = await measured()
            if turn:
                values[name].append(value)
    return {name: spread(found) for name, found in values.items()}


async def _client(host: str, port: int, request: bytes, until: float) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    answered = 0
    try:
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 2"):
                raise RuntimeError(head.decode(errors="replace").splitlines()[0])
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            answered += 1
    finally:
        writer.close()
    return answered


async def load(host: str, port: int, path: str, *, seconds: float, connections: int = 16, token: str = "") -> int:
    """GETs in a closed loop over keep-alive connections; how many were answered with 2xx.

    Raises:
        RuntimeError: an answer was not 2xx.
    """
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}\r\n".encode()
    until = time.monotonic() + seconds
    counts = await asyncio.gather(*(_client(host, port, request, until) for _ in range(connections)))
    return sum(counts)


async def cpu_per_request(pid: int, port: int, path: str, *, seconds: float, token: str = "") -> float:
    """CPU microseconds of process `pid` for one request of the load."""
    before = cpu_seconds(pid)
    answered = await load("127.0.0.1", port, path, seconds=seconds, token=token)
    return (cpu_seconds(pid) - before) / answered * 1e6
