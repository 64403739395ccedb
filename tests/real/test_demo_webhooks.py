"""The webhooks' story, as `./mymacro demo webhooks` tells it, and the commands beside it, on real parts."""

import asyncio
from io import StringIO

import pytest
from rich.console import Console

from infra.local import account
from tests.running_stack import Stack


@pytest.mark.timeout(180)
async def test_a_server_that_was_down_gets_all_in_order_and_the_last_minute_again(stack: Stack) -> None:
    told = StringIO()
    code = await asyncio.to_thread(account.tell_webhooks, stack.instance, Console(file=told, width=160))
    assert code == 0, told.getvalue()
    assert "came once each, verified, in order" in told.getvalue()
    assert "came again with the same ids, in order" in told.getvalue()
