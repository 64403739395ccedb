"""How long `./mymacro up` takes after the set-up, from the command to everything ready, each time on new data."""

import time

from benchmarks import measure
from benchmarks.stacks import fresh_stack

ROUNDS = 5
TARGET_SECONDS = 15.0


def main() -> None:
    """Start and stop the whole stack several times."""
    machine = measure.fingerprint()
    seconds: list[float] = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        with fresh_stack():
            seconds.append(time.monotonic() - started)
    figures = {"ready_seconds": measure.spread(seconds), "target_seconds": TARGET_SECONDS}
    measure.report("ready", figures, machine)


if __name__ == "__main__":
    main()
