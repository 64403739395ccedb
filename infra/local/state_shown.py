"""The supervisor's state in words and rows, as the command line shows it."""

from collections.abc import Mapping

from rich.console import Console

from infra.local import processes, tables
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


def show(console: Console, state: State, readers: Mapping[str, str]) -> None:
    """Print the processes, with the partitions that each reads where there are `readers`."""
    about, right = rows(state), {"pid", "port", "memory", "restarts"}
    with_readers = [(*row, readers.get(row[0], "")) for row in about]
    titles = (*TITLES, "partitions")
    if readers and tables.fits(console, titles, with_readers):
        tables.listed(console, titles, with_readers, right)
        return
    tables.listed(console, TITLES, about, right)
    if readers:
        console.print("\npartitions read by", highlight=False)
        tables.facts(console, [(name, readers[name]) for name in state.processes if name in readers])


def rows(state: State) -> list[tuple[str, ...]]:
    """Process, pid, port, state, memory, restarts and last end of each, the supervisor first and the sum last."""
    total = processes.resident_bytes([state.supervisor])
    found: list[tuple[str, ...]] = [("supervisor", str(state.supervisor), "", state.phase, _mib(total), "", "")]
    for name, process in state.processes.items():
        pid = process["pid"]
        memory = processes.resident_bytes(processes.group(pid)) if pid else 0
        total += memory
        about = (str(process["port"]), process["state"], _mib(memory), str(process["restarts"]), process["last_end"])
        found.append((name, str(pid or ""), *about))
    return [*found, ("all", "", "", "", _mib(total), "", "")]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size else ""
