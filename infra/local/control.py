"""Starting, asking and stopping an instance's supervisor from outside; used by the command line and by tests."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local import lock, private, processes, triton
from infra.local.instance import Instance, drain_s, kind_of
from infra.local.parts import STOP_S
from infra.local.stack import ALL_READY_S, LAUNCHER, StackError

POLL_S = 0.05
# Three stages, each at most 15 s beside what services go on for, and some seconds for the rest.
STOP_ALL_S = 3 * STOP_S + 10
HEARD_S = 10.0


@dataclass(frozen=True)
class State:
    """The supervisor's last words; `processes` maps a name to the fields of `keeper.Status`."""

    supervisor: int
    phase: str
    error: str
    notes: list[str]
    started_at: float
    ready_after_s: float | None
    url: str
    settings: dict[str, str]
    processes: dict[str, dict[str, Any]]

    @property
    def kinds(self) -> set[str]:
        """What runs, whether once or several times."""
        return {kind_of(name) for name in self.processes}

    def pid(self, name: str) -> int:
        """Pid of a running process; `triton-stub` is the model's process that Triton started.

        In a cluster a kind means the first of it: `ingest` is ingest-1.

        Raises:
            StackError: there is no such process now.
        """
        if name == "triton-stub":
            stubs = processes.named(processes.group(self.pid("triton")), "triton_python_backend_stub")
            found = stubs[0] if stubs else None
        else:
            found = (self.processes.get(name) or self.processes.get(f"{name}-1", {})).get("pid")
        if found is None:
            raise StackError(f"{name} does not run; there are {', '.join(self.processes)} and triton-stub.")
        return int(found)


def running(instance: Instance) -> bool:
    """Whether a supervisor holds the instance."""
    return lock.held(instance.run)


def state(instance: Instance) -> State | None:
    """What the supervisor last wrote, None before the first start."""
    try:
        return State(**json.loads((instance.run / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def launch(
    instance: Instance, *, attached: bool = False, program: Sequence[str] = ("infra.local.stack",)
) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own; it dies with the calling thread, until ready or, attached, ever.

    `program` is the module that supervises, and its arguments.

    Raises:
        private.SharedFolder: the data folder is one that others use too.
    """
    private.close(instance.data)
    instance.run.mkdir(parents=True, exist_ok=True)
    instance.logs.mkdir(parents=True, exist_ok=True)
    (instance.run / "state.json").unlink(missing_ok=True)
    env = {**os.environ, **instance.environment(), LAUNCHER: "attached" if attached else "detached"}
    with (instance.logs / "supervisor.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *program],
            cwd=instance.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=private.UMASK,
        )


def wait_ready(
    instance: Instance, supervisor: subprocess.Popen[bytes] | None, seen: Callable[[State], None] = lambda _state: None
) -> State:
    """Wait until all is ready; `seen` gets every state read. `supervisor` is None when another call started it.

    Raises:
        StackError: the start failed; the supervisor has stopped everything again.
    """
    deadline = time.monotonic() + ALL_READY_S + STOP_ALL_S
    while time.monotonic() < deadline:
        if supervisor is not None and supervisor.poll() is not None and running(instance):
            supervisor = None  # another call's was there a moment sooner
        ended = supervisor.poll() is not None if supervisor else not running(instance)
        now = state(instance)
        if now is not None:
            seen(now)
            if now.phase == "ready" and not ended:
                _wait_for_partner(instance, now)
                return now
        if ended:
            raise StackError(now.error if now and now.error else _last_words(instance.logs / "supervisor.log"))
        time.sleep(POLL_S)
    raise StackError(f"The stack is not ready; see {instance.logs}.")


def _wait_for_partner(instance: Instance, state: State) -> None:
    """Wait until the gateways have heard of the demo partner: at the first start a moment after auth is ready."""
    key = instance.keys / "demo-partner.key"
    if not {"kafka", "auth", "gateway"} <= state.kinds or not key.exists():
        return
    deadline = time.monotonic() + HEARD_S
    for url in instance.urls("gateway"):
        while not _knows(url, key.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _knows(url: str, key: str) -> bool:
    """Whether the gateway at `url` knows that key."""
    request = urllib.request.Request(  # noqa: S310 - the scheme is ours
        f"{url}/v1/whoami", headers={"Authorization": f"Bearer {key}"}
    )
    # A proxy from the environment has no business on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=HEARD_S):
            return True
    except OSError:  # HTTPError is one
        return False


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"The supervisor ended: {lines[-1] if lines else 'it said nothing'} (see {log})"


def stop(instance: Instance, supervisor: subprocess.Popen[bytes] | None = None) -> bool:
    """Stop everything and wait until it is gone; returns whether anything ran. Safe to repeat.

    Where `supervisor`, that of this call, found that another one holds the instance, that one's stack goes on.
    """
    ran = running(instance)
    deadline = time.monotonic() + STOP_ALL_S + 2 * drain_s(instance)
    while ran and time.monotonic() < deadline:
        now = state(instance)
        pid = supervisor.pid if supervisor else now.supervisor if now else None
        if pid is not None:
            _terminate(pid)
        over = supervisor is not None and supervisor.poll() is not None
        if not running(instance):
            break
        if over:
            return False
        time.sleep(POLL_S)
    else:
        now = state(instance)
        if ran and now is not None:
            processes.end_all([now.supervisor], seconds=5)
    if supervisor is not None:
        supervisor.wait()
    left = processes.marked(instance.data)
    processes.end_all(left, seconds=5)
    # A supervisor that was killed could not do it.
    triton.clear_shared_memory(instance.data / "triton")
    return ran or bool(left)


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
