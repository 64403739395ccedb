"""Operating-system parts of the supervisor: starting children that die with it, finding and ending what is left."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LINUX = sys.platform == "linux"
PROC = Path("/proc")
PR_SET_PDEATHSIG = 1
# Every process of an instance carries its folder here, so that orphans are found after a kill -9.
MARK = "MYMACRO_INSTANCE"
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel for `signal_number` when the thread that started this process ends; 0 takes that back."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def _preparation(parent: int) -> Callable[[], None] | None:
    if not LINUX:
        return None

    def prepare() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return prepare


def spawn(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own, output appended to `log`. Call from the main thread only.

    Raises:
        OSError: the program could not be started.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=_preparation(os.getpid()),
        )


def signal_group(pid: int, number: int) -> None:
    """Signal a child and all that it started; nothing happens when they are gone."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def marked(data: Path) -> list[int]:
    """Processes of the instance at `data`, whoever their parent is now; empty where there is no /proc."""
    found: list[int] = []
    wanted = f"{MARK}={data}".encode()
    for entry in PROC.glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def end_all(pids: Sequence[int], *, seconds: float) -> None:
    """Kill these processes and wait until they are gone, at most `seconds`."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not LINUX or _stat(pid)[:1] != ["Z"]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: state, parent, process group, …"""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def group(pid: int) -> list[int]:
    """The processes of the group that `pid` leads."""
    members: list[int] = []
    for entry in PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if len(fields) > 2 and fields[2] == str(pid):
            members.append(int(entry.name))
    return members


def named(pids: Sequence[int], part: str) -> list[int]:
    """Those of the processes whose program's path contains `part`."""
    found: list[int] = []
    for pid in pids:
        try:
            if part in (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace"):
                found.append(pid)
        except OSError:
            continue
    return found


def resident_bytes(pids: Sequence[int]) -> int:
    """Resident memory of these processes together."""
    total = 0
    for pid in pids:
        try:
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total
