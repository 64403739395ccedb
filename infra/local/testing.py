"""`./mymacro test`: what needs no stack beside what runs several services, the faults behind both."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from infra.local.environment import ROOT

NOTHING_COLLECTED = 5  # pytest's exit code
# Each part picks its own from the same options, so it says how many it left to the others ("deselected").
HEADLINES = {
    "one at a time": "units, each service by itself",
    "all together": "contracts, flows, whole stacks on real servers; they ran beside the part above",
    "faults": "what is killed, stopped, locked and filled while load runs",
}
STOP_SECONDS = 30  # real stacks are taken down by their fixtures
IN_THE_TERMINAL = {"-s", "--capture=no", "--pdb", "--trace", "--collect-only", "--co"}
# Two parts that take about as long, one a core.
SINGLE = ["tests/unit", "tests/service"]
FAULTS = ["tests/faults"]  # what is acknowledged while they hit is counted, hence nothing runs beside them
# All that is in neither, also in folders to come.
TOGETHER = ["tests", *(f"--ignore={path}" for path in SINGLE + FAULTS), "-o", "cache_dir=.pytest_cache/together"]


def run(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; returns its exit code, or the first failing one of several runs.

    A test process computes on one core, so where no path is named two run at once. What the second one says is printed
    when the first has ended.
    """
    if any(_names_tests(argument) or argument in IN_THE_TERMINAL for argument in arguments):
        return subprocess.call(_pytest([], arguments), cwd=ROOT)
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            _pytest(TOGETHER, arguments), cwd=ROOT, stdout=said, stderr=said, start_new_session=True, close_fds=True
        )
        _headline(1, "one at a time")
        try:
            codes = [subprocess.call(_pytest(SINGLE, arguments), cwd=ROOT), beside.wait()]
        finally:
            _end(beside)
        _headline(2, "all together")
        _print(said)
    _headline(3, "faults")
    codes.append(subprocess.call(_pytest(FAULTS, arguments), cwd=ROOT))
    return verdict(codes)


def _headline(number: int, name: str) -> None:
    sys.stdout.write(f"\n{number} of {len(HEADLINES)}, {name}: {HEADLINES[name]}\n")
    sys.stdout.flush()


def verdict(codes: Sequence[int]) -> int:
    """The exit code of several runs as one: a run without any test counts only where all are without."""
    ran = [code for code in codes if code != NOTHING_COLLECTED]
    return next((code for code in ran if code), 0) if ran else NOTHING_COLLECTED


def _names_tests(argument: str) -> bool:
    return not argument.startswith("-") and (ROOT / argument.split("::")[0]).exists()


def _pytest(paths: Sequence[str], arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *paths, *arguments]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that nobody waits for any more, with what it started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _print(said: IO[bytes]) -> None:
    said.seek(0)
    sys.stdout.buffer.write(said.read())
    sys.stdout.flush()
