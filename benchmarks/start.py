"""Resident memory of the whole stack, idle, after one batch and one photo went through."""

import asyncio

import psutil
from rich.console import Console

from benchmarks import measure
from benchmarks.stacks import fresh_stack
from infra.local import demo
from infra.local.processes import pids

TARGET_GIB = 1.8


def main() -> None:
    """Tell the demo once, then add up what every process holds, its children included."""
    machine = measure.fingerprint()
    with fresh_stack() as instance:
        asyncio.run(demo.run(demo.target_of(instance), Console(quiet=True)))
        held: dict[str, float] = {}
        for name, pid in pids(instance).items():
            family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
            held[name] = round(sum(measure.resident_mib(member) for member in family), 1)
    total = round(sum(held.values()) / 1024, 3)
    measure.report("start", {"pss_mib": held, "total_gib": total, "target_gib": TARGET_GIB}, machine)


if __name__ == "__main__":
    main()
