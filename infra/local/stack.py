"""The supervisor: one process that starts the stack, keeps every part alive and stops it in order.

Run as `python -m infra.local.stack`, described by `MYMACRO_*`; `control.py` starts it and talks to it.
Children are started from its main thread only: the kernel ends them when that thread ends, however it ends.
"""

import asyncio
import errno
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

from infra.local import kafka, lock, private, processes, redis, traces, triton
from infra.local.instance import Instance, from_environment, kind_of, port_is_free, service_environment
from infra.local.keeper import Keeper
from infra.local.parts import ENGINE, GATEWAY, SERVICE, Part, all_parts

logger = logging.getLogger("supervisor")

ALL_READY_S = 150.0
# Crashes of one part before the first "ready" after which the start has failed.
CRASHES = 4
LOOP_S = 0.1
# Services that start at once, each 0.9 s of CPU: more only make each other, and the brokers, wait.
STARTED_TOGETHER = 8
LOG_BYTES = 20_000_000
LOG_CHECK_S = 10.0
FREE_BYTES = 200_000_000
# Commands that ask whether the stack runs have its lock for a moment.
ASKED_S = 0.5
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
        brokers = [name for name in kafka.nodes(self.instance) if name in self._names()]
        await self._format_kafka(brokers)
        topics = self._spawn("topics", [sys.executable, "-m", "infra.topics"]) if brokers else None
        for keeper in self.keepers:
            if keeper.part.stage == ENGINE:
                keeper.start()
        if topics is not None:
            await self._finished(topics, "topics", "The topics could not be created")
        await self._start_services()

    def _names(self) -> list[str]:
        return [keeper.part.name for keeper in self.keepers]

    def _check(self) -> None:
        processes.end_all(processes.marked(self.instance.data), seconds=5)
        if "redis" in self._names() and (missing := redis.problem()):
            raise StackError(missing)
        settings = self.instance.settings
        ports = self._ports()
        for name, port in ports.items():
            host = settings.host if name.startswith("MYMACRO_GATEWAY_") else "127.0.0.1"
            if not port_is_free(port, host):
                raise StackError(f"Port {port} is taken by another program; stop it, or choose another with {name}.")
        free = shutil.disk_usage(self.instance.run).free
        if free < FREE_BYTES:
            raise StackError(f"The disk of {self.instance.data} is nearly full ({free / 1e6:.0f} MB free).")

    def _ports(self) -> dict[str, int]:
        """Every port that is listened on, by the setting that chooses it."""
        kinds = {kind_of(name) for name in self._names()}
        wanted = {"otlp_port", *(f"triton_{kind}_port" for kind in ("http", "grpc", "metrics") if "triton" in kinds)}
        for name in self._names():
            field = name.removesuffix("-1").replace("-", "_")
            wanted |= {f"{field}_port"} if name != "triton" else set()
            wanted |= {f"{field}_controller_port"} if kind_of(name) == "kafka" else set()
        return {f"MYMACRO_{field.upper()}": getattr(self.instance.settings, field) for field in sorted(wanted)}

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

    async def _format_kafka(self, names: Sequence[str]) -> None:
        """Prepare the folders of these brokers, side by side."""
        children: list[tuple[kafka.Node, subprocess.Popen[bytes], str]] = []
        for name in names:
            node = kafka.nodes(self.instance)[name]
            if not kafka.formatted(node):
                kafka.clear(node)
                kafka.prepare(node)
                env = {**kafka.environment(), processes.MARK: str(self.instance.data)}
                child = processes.spawn(kafka.format_command(node), cwd=node.home, env=env, log=self._log(name))
                children.append((node, child, name))
        for node, child, name in children:
            await self._finished(child, name, "Kafka's folder could not be prepared")
            kafka.mark_formatted(node)

    async def _finished(self, child: subprocess.Popen[bytes], name: str, failure: str) -> None:
        while child.poll() is None:
            self._heed_stop()
            self._fail_when_crashing()
            await asyncio.sleep(LOOP_S / 2)
        if child.returncode:
            raise StackError(f"{failure}: {self._last_line(name)}")

    def _heed_stop(self) -> None:
        if self.stop_asked.is_set():
            raise StackError("The start was interrupted.")

    def _fail_when_crashing(self) -> None:
        for keeper in self.keepers:
            if keeper.status.restarts >= CRASHES:
                name, end = keeper.part.name, keeper.status.last_end
                raise StackError(f"{name} does not start ({end}): {self._last_line(name)} (all of it: {keeper.log})")

    async def _start_services(self) -> None:
        """Start them, so many together, and wait until all is ready."""
        deadline = time.monotonic() + ALL_READY_S
        waiting = [keeper for keeper in self.keepers if keeper.part.stage != ENGINE]
        started: list[Keeper] = []
        while not all(keeper.ready for keeper in self.keepers):
            self._heed_stop()
            self._fail_when_crashing()
            while waiting and sum(not keeper.ready for keeper in started) < STARTED_TOGETHER:
                started.append(waiting.pop(0))
                started[-1].start()
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


def main(parts: Callable[[Instance], Sequence[Part]] = all_parts) -> None:
    """Supervise the instance described by the environment; `parts` says what it is made of."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Until all is ready, who started us may still interrupt; and an attached supervisor never outlives its owner.
    processes.die_with_parent(signal.SIGTERM)
    os.umask(private.UMASK)
    if os.getppid() == 1:
        sys.exit("Who asked for the stack is gone.")
    instance = from_environment()
    held = lock.hold(instance.run, patience_s=ASKED_S)
    if held is None:
        sys.exit("The stack runs already.")
    with held:
        sys.exit(asyncio.run(Supervisor(instance, parts(instance)).run()))


if __name__ == "__main__":
    main()
