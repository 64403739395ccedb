"""Only one at a time restarts an instance's processes."""

from pathlib import Path

import pytest

from infra.local import lock, rolling
from infra.local.instance import on_free_ports
from infra.local.stack import StackError


def test_a_restart_waits_for_nobody_and_says_so(tmp_path: Path) -> None:
    instance = on_free_ports(tmp_path)
    assert rolling.restart(instance, [], print) >= 0
    held = lock.hold(instance.run, lock.RESTARTS)
    assert held is not None
    with held, pytest.raises(StackError, match="Another restart"):
        rolling.restart(instance, [], print)
    assert rolling.restart(instance, [], print) >= 0
