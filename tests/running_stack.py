"""A whole stack of a test's own, on free ports, beside any other."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from infra.local import account, control
from infra.local.account import Account
from infra.local.control import State
from infra.local.instance import Instance, on_free_ports
from infra.local.settings import ROOT


@dataclass
class Stack:
    """A running instance: where it listens, its demo user, and a way to kill its parts."""

    instance: Instance

    @property
    def url(self) -> str:
        return self.instance.url

    @property
    def bootstrap_servers(self) -> str:
        return self.instance.bootstrap_servers

    @property
    def partner_key(self) -> str:
        return (self.instance.keys / "demo-partner.key").read_text().strip()

    @cached_property
    def demo_user(self) -> Account:
        return account.sign_in(self.instance)

    @property
    def state(self) -> State:
        state = control.state(self.instance)
        assert state is not None
        return state

    def ready(self, *names: str) -> bool:
        """Whether these processes (all of them, when none is named) are ready."""
        found = self.state.processes
        return all(found[name]["state"] == "ready" for name in names or found)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal a process by its name (`triton-stub` too); returns its pid."""
        pid = self.state.pid(name)
        os.kill(pid, number)
        return pid


async def mymacro(stack: Stack, *words: str, code: int = 0) -> str:
    """What `./mymacro words…` says for that stack; it must end with `code`."""
    env = {**os.environ, **stack.instance.environment(), "COLUMNS": "250"}
    command = [sys.executable, "-m", "infra.local.cli", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def running_stack(**settings: object) -> "RunningStack":
    """A stack of its own for a test that needs other settings: `with running_stack(only="kafka") as stack`."""
    data = ROOT / ".mymacro" / f"test-{secrets.token_hex(4)}"
    return RunningStack(on_free_ports(data, **settings))


class RunningStack:
    """Starts an instance and always stops it and removes its folder; on failure the ends of its logs are printed."""

    def __init__(self, instance: Instance, program: Sequence[str] = ("infra.local.stack",)) -> None:
        self.instance = instance
        self._supervisor = control.launch(instance, attached=True, program=program)

    def __enter__(self) -> Stack:
        try:
            control.wait_ready(self.instance, self._supervisor)
        except BaseException as failure:
            self.__exit__(type(failure))
            raise
        return Stack(self.instance)

    def __exit__(self, failure: type[BaseException] | None = None, *_: object) -> None:
        if failure is not None and issubclass(failure, Exception):
            self._print_logs()
        control.stop(self.instance, self._supervisor)
        shutil.rmtree(self.instance.data, ignore_errors=True)

    def _print_logs(self) -> None:
        for log in sorted(self.instance.logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            os.write(2, "\n".join([f"--- {log.name}", *lines, ""]).encode())
