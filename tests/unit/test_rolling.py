"""A rolling restart: one at a time, and never the last of a kind that is ready."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import lock, rolling
from infra.local.instance import Instance, on_free_ports
from infra.local.stack import StackError

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_restart_waits_for_nobody_and_says_so(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path)
    assert rolling.restart(instance, [], print) >= 0
    held = lock.hold(instance.run, lock.RESTARTS)
    assert held is not None
    with held, pytest.raises(StackError, match="Another restart"):
        rolling.restart(instance, [], print)
    assert rolling.restart(instance, [], print) >= 0


@contextmanager
def supervised(instance: Instance, states: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor's last words: all processes are this one, in these states."""
    held = lock.hold(instance.run)
    assert held is not None
    with held, subprocess.Popen(FOREVER) as process:
        said = {"supervisor": 0, "phase": "ready", "error": "", "notes": [], "started_at": 0.0, "ready_after_s": 1.0}
        processes = {name: {"state": state, "pid": process.pid} for name, state in states.items()}
        said |= {"url": "", "settings": {}, "processes": processes}
        (instance.run / "state.json").write_text(json.dumps(said))
        try:
            yield process
        finally:
            process.kill()


def test_nobody_is_ended_while_the_others_of_the_kind_are_not_ready(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path, cluster=True)
    with supervised(instance, {"gateway-1": "ready", "gateway-2": "backing off", "auth-1": "ready"}) as process:
        with pytest.raises(StackError, match="gateway-2 is not ready, so gateway-1 is not ended"):
            rolling.restart(instance, ["gateway-1"], print, patience_s=0.1)
        assert process.poll() is None


def test_one_that_is_not_ready_itself_is_ended_when_the_others_are(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path, cluster=True)
    with supervised(instance, {"gateway-1": "not ready", "gateway-2": "ready", "auth-1": "backing off"}) as process:
        # Nobody supervises here who would start it again.
        with pytest.raises(StackError, match="gateway-1 is not ready 0 s after it was ended"):
            rolling.restart(instance, ["gateway-1"], print, patience_s=0.1)
        assert process.wait(10) < 0
