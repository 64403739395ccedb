"""The partner's story, as `./mymacro demo partner` tells it, on real parts and in a real browser."""

import asyncio
from io import StringIO

import pytest
from rich.console import Console

from infra.local import account
from infra.local.browser import CHROMIUM
from tests.running_stack import Stack

PNG = b"\x89PNG"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.timeout(180)
async def test_a_partner_reads_and_hears_until_the_user_takes_it_back(stack: Stack) -> None:
    told = StringIO()
    code = await asyncio.to_thread(account.tell_partner, stack.instance, Console(file=told, width=160))
    assert code == 0, told.getvalue()
    assert (stack.instance.data / "demo" / "consent.png").read_bytes().startswith(PNG)
