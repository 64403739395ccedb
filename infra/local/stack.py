"""The supervisor: one process that starts the stack, keeps every part alive and stops it in order.

Run as `python -m infra.local.stack`, described by `MYMACRO_*`; `control.py` starts it and talks to it.
Children are started from its main thread only: the kernel ends them when that thread ends, however it ends.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from infra.local import kafka, private, processes, traces, triton
from infra.local.instance import Instance, from_environment, port_is_free, service_environment
from infra.local.keeper import Keeper
from infra.local.parts import ENGINE, GATEWAY, SERVICE, Part, all_parts

logger = logging.getLogger("supervisor")

ALL_READY_S = 150.0
# Crashes of one part before the first "ready" after which the start has failed.
CRASHES = 4
LOOP_S = 0.1
LOG_BYTES = 20_000_000
LOG_CHECK_S = 10.0
FREE_BYTES = 200_000_000
LAUNCHER = "MYMACRO_LAUNCHER"


class StackError(Exception):
    """The stack can't run; the message is one sentence for people."""


class Supervisor:
    """Runs one instance until it is told to stop; `parts` are the processes it keeps."""

    def __init__(self, instance: Instance, parts: Sequence[Part]) -> None:
        self.instance = instance
        self.keepers = [Keeper(part, self._log(part.name), self.save) for part in parts]
        self.phase = "starting"  # starting, ready, stopping, failed
        self.error = ""
        self.started_at = time.time()
        self.notes = [note for note in [triton.problem()] if note]
        self.stop_asked = asyncio.Event()
        self._receiver = traces.Receiver(instance.traces, port=instance.settings.otlp_port)

    def _log(self, name: str) -> Path:
        return self.instance.logs / f"{name}.log"

    def save(self) -> None:
        """Write the state file, whole or not at all."""
        state = {
            "supervisor": os.getpid(),
            "phase": self.phase,
            "error": self.error,
            "notes": self.notes,
            "started_at": self.started_at,
            "ready_after_s": getattr(self, "ready_after_s", None),
            "url": self.instance.url,
            "settings": self.instance.environment(),
            "processes": {keeper.part.name: keeper.status.as_json() for keeper in self.keepers},
        }
        fresh = self.instance.run / "state.new"
        fresh.write_text(json.dumps(state, indent=1))
        fresh.replace(self.instance.run / "state.json")

    async def run(self) -> int:
        """Start, watch, stop; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop_asked.set)
        try:
            await self._start()
            await self._watch()
        except StackError as error:
            self.phase, self.error = "failed", str(error)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.phase = "failed"
            self.error = f"The disk of {self.instance.data} is full." if full else f"The stack could not start: {error}"
        await self._stop()
        return 1 if self.error else 0

    async def _start(self) -> None:
        self.save()
        self._check()
        self._make_folders()
        self._receiver.start()
        names = {keeper.part.name for keeper in self.keepers}
        if "kafka" in names:
            await self._format_kafka()
        topics = self._spawn("topics", [sys.executable, "-m", "infra.topics"]) if "kafka" in names else None
        self._start_stage([ENGINE])
        if topics is not None:
            await self._finished(topics, "topics", "The topics could not be created")
        self._start_stage([SERVICE, GATEWAY])
        await self._all_ready()

    def _check(self) -> None:
        processes.end_all(processes.marked(self.instance.data), seconds=5)
        ports = {f"MYMACRO_{keeper.part.name.upper()}_PORT": keeper.part.port for keeper in self.keepers}
        settings = self.instance.settings
        for field in ("otlp", "kafka_controller", "triton_http", "triton_grpc", "triton_metrics"):
            if field.partition("_")[0] in ("otlp", *(keeper.part.name for keeper in self.keepers)):
                ports[f"MYMACRO_{field.upper()}_PORT"] = int(getattr(settings, f"{field}_port"))
        ports.pop("MYMACRO_TRITON_PORT", None)
        for name, port in ports.items():
            host = settings.host if name == "MYMACRO_GATEWAY_PORT" else "127.0.0.1"
            if not port_is_free(port, host):
                raise StackError(f"Port {port} is taken by another program; stop it, or choose another with {name}.")
        free = shutil.disk_usage(self.instance.run).free
        if free < FREE_BYTES:
            raise StackError(f"The disk of {self.instance.data} is nearly full ({free / 1e6:.0f} MB free).")

    def _make_folders(self) -> None:
        for name in ("db", "objects", "keys"):
            (self.instance.data / name).mkdir(parents=True, exist_ok=True)
        self.instance.keys.chmod(0o700)
        for keeper in self.keepers:
            if keeper.log.exists():
                keeper.log.replace(keeper.log.with_suffix(".log.1"))
        if any(keeper.part.stage != ENGINE for keeper in self.keepers):
            from shared.keys import generate_key_files

            generate_key_files(self.instance.keys)

    def _spawn(self, name: str, command: list[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
        env = {**os.environ, **service_environment(self.instance), processes.MARK: str(self.instance.data)}
        return processes.spawn(command, cwd=cwd or self.instance.root, env=env, log=self._log(name))

    async def _format_kafka(self) -> None:
        node = kafka.only_node(self.instance)
        if kafka.formatted(node):
            return
        kafka.clear(node)
        kafka.prepare(node)
        env = {**kafka.environment(), processes.MARK: str(self.instance.data)}
        child = processes.spawn(kafka.format_command(node), cwd=node.home, env=env, log=self._log("kafka"))
        await self._finished(child, "kafka", "Kafka's folder could not be prepared")
        kafka.mark_formatted(node)

    async def _finished(self, child: subprocess.Popen[bytes], name: str, failure: str) -> None:
        while child.poll() is None:
            self._heed_stop()
            self._fail_when_crashing()
            await asyncio.sleep(LOOP_S / 2)
        if child.returncode:
            raise StackError(f"{failure}: {self._last_line(name)}")

    def _start_stage(self, stages: Sequence[int]) -> None:
        for keeper in self.keepers:
            if keeper.part.stage in stages:
                keeper.start()

    def _heed_stop(self) -> None:
        if self.stop_asked.is_set():
            raise StackError("The start was interrupted.")

    def _fail_when_crashing(self) -> None:
        for keeper in self.keepers:
            if keeper.status.restarts >= CRASHES:
                name, end = keeper.part.name, keeper.status.last_end
                raise StackError(f"{name} does not start ({end}): {self._last_line(name)} (all of it: {keeper.log})")

    async def _all_ready(self) -> None:
        deadline = time.monotonic() + ALL_READY_S
        while not all(keeper.ready for keeper in self.keepers):
            self._heed_stop()
            self._fail_when_crashing()
            if time.monotonic() > deadline:
                late = ", ".join(keeper.part.name for keeper in self.keepers if not keeper.ready)
                raise StackError(f"Not ready within {ALL_READY_S:.0f} s: {late}; see {self.instance.logs}.")
            await asyncio.sleep(LOOP_S)
        self.ready_after_s = round(time.time() - self.started_at, 2)
        if os.environ.get(LAUNCHER) != "attached":
            processes.die_with_parent(0)
        self.phase = "ready"
        self.save()

    def _last_line(self, name: str) -> str:
        try:
            lines = self._log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:300] if lines else "it said nothing"

    async def _watch(self) -> None:
        checked = time.monotonic()
        while not self.stop_asked.is_set():
            if time.monotonic() - checked > LOG_CHECK_S:
                checked = time.monotonic()
                for keeper in self.keepers:
                    _bound(keeper.log)
            await asyncio.sleep(LOOP_S)

    async def _stop(self) -> None:
        if not self.error:
            self.phase = "stopping"
        self.save()
        for stage in (GATEWAY, SERVICE, ENGINE):
            await asyncio.gather(*(keeper.stop() for keeper in self.keepers if keeper.part.stage == stage))
        self._receiver.stop()
        processes.end_all(processes.marked(self.instance.data), seconds=5)
        self.phase = "failed" if self.error else "stopped"
        self.save()


def _bound(log: Path) -> None:
    """Children append, so a log may be cut while it is written."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def hold(instance: Instance) -> IO[str] | None:
    """The instance's lock, held as long as the file stays open; None when a supervisor has it."""
    instance.run.mkdir(parents=True, exist_ok=True)
    lock = (instance.run / "supervisor.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def main(parts: Callable[[Instance], Sequence[Part]] = all_parts) -> None:
    """Supervise the instance described by the environment; `parts` says what it is made of."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Until all is ready, who started us may still interrupt; and an attached supervisor never outlives its owner.
    processes.die_with_parent(signal.SIGTERM)
    os.umask(private.UMASK)
    if os.getppid() == 1:
        sys.exit("Who asked for the stack is gone.")
    instance = from_environment()
    lock = hold(instance)
    if lock is None:
        sys.exit("The stack runs already.")
    with lock:
        sys.exit(asyncio.run(Supervisor(instance, parts(instance)).run()))


if __name__ == "__main__":
    main()
