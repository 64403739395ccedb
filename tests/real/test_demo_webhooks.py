"""The webhooks' story, as `./mymacro demo webhooks` tells it, and the commands beside it, on real parts."""

import asyncio
from contextlib import suppress
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from infra.local import account
from infra.local.as_partner import asked
from infra.local.cli import app
from infra.local.operating import NoAnswer
from tests.polling import eventually
from tests.running_stack import Stack


@pytest.mark.timeout(180)
async def test_a_server_that_was_down_gets_all_in_order_and_the_last_minute_again(stack: Stack) -> None:
    told = StringIO()
    code = await asyncio.to_thread(account.tell_webhooks, stack.instance, Console(file=told, width=160))
    assert code == 0, told.getvalue()
    for tries in ("try 1 of sequence 1 failed", "try 2 of sequence 1 failed"):
        assert f"{tries}: the connection was refused" in told.getvalue()
    assert "came once each, verified, in order" in told.getvalue()
    assert "5 messages in that time, 5 sent again" in told.getvalue()
    assert "came again with the same ids, in order" in told.getvalue()


@pytest.mark.timeout(120)
async def test_a_partner_replays_and_looks_at_attempts_from_the_command_line(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYMACRO_API_URL", stack.instance.url)
    monkeypatch.setenv("MYMACRO_PARTNER_KEY", (stack.instance.keys / "demo-partner.key").read_text().strip())

    async def said(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["webhooks", *arguments])
        return result.exit_code, result.output

    wanted = {"url": "http://127.0.0.1:9/nobody", "event_types": ["photo.rejected"]}

    async def created() -> str:
        with suppress(NoAnswer):  # until the gateway has heard of the partner
            made = await asyncio.to_thread(asked, "POST", "/v1/webhook-endpoints", wanted, "command-line")
            return made["endpoint_id"]
        return ""

    endpoint = await eventually(created, seconds=30, every=0.2)
    path = f"/v1/webhook-endpoints/{endpoint}"
    await asyncio.to_thread(asked, "POST", f"{path}/tests", None, "command-line")

    async def tried() -> bool:
        return "endpoint.test" in (await said("attempts", endpoint, "--state", "failed"))[1]

    await eventually(tried, seconds=30, every=0.2)
    code, told = await said("replay", endpoint, "--last", "1s")
    assert (code, "messages sent again" in told) == (0, True), told
    for wrong in (["--last", "soon"], ["--last", "1s", "--failed", "1s"], []):
        assert (await said("replay", endpoint, *wrong))[0] == 1, wrong
    assert (await said("replay", "nowhere", "--last", "1s"))[0] == 1
    await asyncio.to_thread(asked, "DELETE", path)
