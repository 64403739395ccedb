"""Who started the stack, or could not because it runs already, ends what is its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from infra.local import control, lock, processes
from infra.local.instance import on_free_ports

FOREVER = [sys.executable, "-c", "import time; time.sleep(120)"]


def test_an_up_that_came_second_leaves_the_stack_of_the_first_alone(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path)
    held = lock.hold(instance.run)
    assert held is not None
    marked = {**os.environ, processes.MARK: str(instance.data)}
    with held, subprocess.Popen(FOREVER, env=marked) as first, subprocess.Popen(FOREVER) as second:
        try:
            said = {"supervisor": first.pid, "phase": "starting", "error": "", "notes": [], "started_at": 0.0}
            said |= {"ready_after_s": None, "url": "", "settings": {}, "processes": {}}
            (instance.run / "state.json").write_text(json.dumps(said))
            assert control.stop(instance, second) is False
            assert second.poll() is not None
            assert first.poll() is None
        finally:
            first.kill()
            second.kill()


def test_a_start_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path)
    marked = {**os.environ, processes.MARK: str(instance.data)}
    with subprocess.Popen(FOREVER, env=marked) as left, subprocess.Popen([sys.executable, "-c", ""]) as supervisor:
        try:
            assert control.stop(instance, supervisor) is True
            assert left.wait(10) < 0
        finally:
            left.kill()


def test_an_up_that_came_second_waits_for_the_stack_of_the_first(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path)
    held = lock.hold(instance.run)
    assert held is not None
    with held, subprocess.Popen([sys.executable, "-c", ""]) as second:
        second.wait(10)
        said = {"supervisor": os.getpid(), "phase": "ready", "error": "", "notes": [], "started_at": 0.0}
        said |= {"ready_after_s": 1.0, "url": "", "settings": {}, "processes": {}}
        (instance.run / "state.json").write_text(json.dumps(said))
        assert control.wait_ready(instance, second).supervisor == os.getpid()
