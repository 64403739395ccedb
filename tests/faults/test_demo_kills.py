"""The demo's stories end well whatever is killed in the middle. Three victims by default, all with `test --all`."""

import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from infra.local import account
from tests.running_stack import Stack, running_stack

DEFAULT = ("ingest", "kafka", "triton-stub")
REST = ("gateway", "auth", "inference", "nutrition", "insights", "webhooks", "triton")
VICTIMS = (*DEFAULT, *REST) if os.environ.get("MYMACRO_TEST_ALL") else DEFAULT


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as found:
        yield found


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_stories_end_well_though_it_is_killed(stack: Stack, victim: str, capfd: pytest.CaptureFixture[str]):
    code = account.tell_demo(stack.instance, victim, Console(width=160))
    told = capfd.readouterr().out
    assert code == 0
    assert f"kill -9 {victim}" in told
    assert "Both stories told" in told
