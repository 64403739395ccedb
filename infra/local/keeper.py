"""Keeps one process alive: starts it, asks whether it is ready, starts it again with back-off when it ends."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.local import processes
from infra.local.parts import Part

EXIT_POLL_S = 0.1
PROBE_STARTING_S = 0.2
PROBE_READY_S = 2.0
FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0
# Who was ready this long is forgiven its former crashes.
STEADY_S = 30.0


@dataclass
class Status:
    """What `./mymacro status` shows of a process. `since` is Unix time of the last change."""

    port: int
    state: str = "waiting"  # waiting, starting, ready, not ready, backing off, stopped
    pid: int | None = None
    restarts: int = 0
    since: float = 0.0
    last_end: str = ""

    def as_json(self) -> dict[str, object]:
        """For the state file."""
        return asdict(self)


class Keeper:
    """One process under supervision. `changed` is called after every change of `status`."""

    def __init__(self, part: Part, log: Path, changed: Callable[[], None]) -> None:
        self.part = part
        self.log = log
        self.status = Status(part.port)
        self._changed = changed
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._reason = ""
        # Of this life the first and the last good probe; what says "not ready" before it ends was ready all the same.
        self._good_from = self._good_until = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the last probe was good."""
        return self.status.state == "ready"

    def start(self) -> None:
        """Start, and keep alive until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when its time is over; returns when the process and all that it started are gone."""
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=self.part.stop_s)
            if not done and self._child is not None:
                processes.signal_group(self._child.pid, signal.SIGKILL)
                await asyncio.wait([self._task], timeout=self.part.stop_s)
        self.part.clear()
        self.status.pid = None
        self._set("stopped")

    async def _keep(self) -> None:
        back_off = FIRST_BACK_OFF_S
        while not self._stopping:
            ready_for = await self._live()
            if self._stopping:
                return
            if ready_for > STEADY_S:
                back_off = FIRST_BACK_OFF_S
            self.status.restarts += 1
            self._set("backing off")
            await asyncio.sleep(back_off)
            back_off = min(back_off * 2, LONGEST_BACK_OFF_S)

    async def _live(self) -> float:
        """One life of the process; returns the seconds that it was ready."""
        self._reason = ""
        self._good_from = self._good_until = 0.0
        try:
            self.part.prepare()
            part = self.part
            self._child = processes.spawn(part.command, cwd=part.cwd, env=part.env, log=self.log)
        except OSError as error:
            self.status.last_end = f"could not start: {error.strerror or error}"
            return 0.0
        self.status.pid = self._child.pid
        self._set("starting")
        probing = asyncio.create_task(self._probe(self._child))
        while self._child.poll() is None:  # noqa: ASYNC110 - asyncio's own child watcher needs its own spawn
            await asyncio.sleep(EXIT_POLL_S)
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        # What it started, such as Triton's stub, goes with it.
        processes.signal_group(self._child.pid, signal.SIGKILL)
        self.status.last_end = self._reason or _ending(self._child.returncode)
        self.status.pid = None
        return self._good_until - self._good_from

    async def _probe(self, child: subprocess.Popen[bytes]) -> None:
        started, failures = time.monotonic(), 0
        was_ready = False
        while True:
            if await self.part.ready():
                self._good_until = time.monotonic()
                if not was_ready:
                    self._good_from = self._good_until
                failures, was_ready = 0, True
                self._set("ready")
            elif was_ready:
                failures += 1
                self._set("not ready")
                if self.part.give_up_after and failures >= self.part.give_up_after:
                    self._give_up(child, f"failed {failures} probes")
            elif time.monotonic() - started > self.part.start_s:
                self._give_up(child, f"not ready within {self.part.start_s:.0f} s")
            await asyncio.sleep(PROBE_READY_S if was_ready else PROBE_STARTING_S)

    def _give_up(self, child: subprocess.Popen[bytes], reason: str) -> None:
        self._reason = reason
        processes.signal_group(child.pid, signal.SIGKILL)

    def _set(self, state: str) -> None:
        if self._stopping and state != "stopped":
            return
        if self.status.state != state:
            self.status.state = state
            self.status.since = time.time()
            self._changed()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
