"""The supervisor's state in words and rows, as the command line shows it."""

from collections.abc import Mapping

from infra.local import processes
from infra.local.control import State

TITLES = ("process", "pid", "port", "state", "memory", "restarts", "last end")


def progress(state: State) -> str:
    """How far the start is."""
    ready = [name for name, process in state.processes.items() if process["state"] == "ready"]
    waiting = [name for name in state.processes if name not in ready]
    return f"Starting: {len(ready)} of {len(state.processes)} ready, waiting for {', '.join(waiting) or 'nothing'}"


def where(state: State, url: str) -> str:
    """The API's address, or without a gateway what runs instead and on which ports."""
    if "gateway" in state.kinds:
        return url
    running = ", ".join(f"{name} on port {process['port']}" for name, process in state.processes.items())
    return f"{running or 'nothing runs'} (no gateway, so there is no API)"


def rows(state: State, readers: Mapping[str, str] | None = None) -> list[tuple[str, ...]]:
    """Process, pid, port, state, memory, restarts and last end of each, the supervisor first and the sum last.

    With `readers` there is one more cell, of the partitions that each reads.
    """
    total = processes.resident_bytes([state.supervisor])
    found: list[tuple[str, ...]] = [("supervisor", str(state.supervisor), "", state.phase, _mib(total), "", "")]
    for name, process in state.processes.items():
        pid = process["pid"]
        memory = processes.resident_bytes(processes.group(pid)) if pid else 0
        total += memory
        about = (str(process["port"]), process["state"], _mib(memory), str(process["restarts"]), process["last_end"])
        found.append((name, str(pid or ""), *about))
    found.append(("all", "", "", "", _mib(total), "", ""))
    return found if readers is None else [(*row, readers.get(row[0], "")) for row in found]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size else ""
