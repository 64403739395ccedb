"""Resident memory of the whole stack, idle, after a batch and a photo went through."""

from rich.console import Console

from benchmarks import measure
from benchmarks.stacks import fresh_stack, running
from infra.local import account, processes

TARGET_GIB = 1.8


def main() -> None:
    """Tell the demo once, then add up what every process holds, its children included."""
    machine = measure.fingerprint()
    with fresh_stack() as instance:
        account.tell_demo(instance, None, Console(quiet=True))
        state = running(instance)
        groups = {name: processes.group(state.pid(name)) for name in state.processes}
        groups["supervisor"] = [state.supervisor]
        held = {name: round(sum(map(measure.resident_mib, group)), 1) for name, group in groups.items()}
    total = round(sum(held.values()) / 1024, 3)
    measure.report("start", {"pss_mib": held, "total_gib": total, "target_gib": TARGET_GIB}, machine)


if __name__ == "__main__":
    main()
