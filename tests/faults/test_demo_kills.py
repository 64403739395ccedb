"""`./mymacro demo --kill NAME`: the stories end well whichever process is killed (-9) in the middle of them."""

import io
import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from infra.local import account
from tests.running_stack import Stack, running_stack

ALWAYS = ["ingest", "kafka", "triton-stub"]
ON_REQUEST = ["gateway", "auth", "inference", "nutrition", "insights", "webhooks", "triton"]
VICTIMS = ALWAYS + (ON_REQUEST if os.environ.get("MYMACRO_TEST_ALL") else [])


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as found:
        yield found


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_stories_end_well(stack: Stack, victim: str):
    if victim.startswith("triton") and stack.state.notes:
        pytest.skip(stack.state.notes[0])
    told = io.StringIO()
    code = account.tell_demo(stack.instance, victim, Console(file=told, width=160))
    assert code == 0, told.getvalue()
    assert f"kill -9 {victim}" in told.getvalue()
    assert "Both stories told" in told.getvalue()
