"""Who started the stack, or could not because it runs already, ends what is its own."""

import json
import os
import subprocess
import sys
import threading
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


def test_a_start_is_not_refused_because_somebody_asks_whether_the_stack_runs(tmp_path: Path) -> None:
    asking = lock.hold(tmp_path)
    assert asking is not None
    assert lock.hold(tmp_path) is None
    threading.Timer(0.1, asking.close).start()
    held = lock.hold(tmp_path, patience_s=30)
    assert held is not None
    held.close()


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
