"""`./mymacro webhooks listen` against webhooks as it listens on a port."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner, Result

from infra.local.cli import app
from infra.local.instance import free_ports
from shared.clock import utc_now
from tests.polling import eventually
from tests.service.running import Running
from tests.service.webhook_endpoints import created, tell, webhooks
from tests.service.webhook_events import PARTNER


class Terminal:
    """A partner's terminal: its key is what the gateway would make of it."""

    def __init__(self, service: Running, url: str) -> None:
        self.service = service
        key = service.headers(partner_id=PARTNER, scopes=("webhooks:write",))["Authorization"].removeprefix("Bearer ")
        self.environment = {"MYMACRO_API_URL": url, "MYMACRO_PARTNER_KEY": key, "COLUMNS": "300"}
        self.ahead = timedelta(0)
        self.watched = 0
        self.open: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The service; of the port that is watched it is noted whether it was open when somebody asked."""
        if self.watched:
            self.open.append(await is_open(self.watched))
        await self.service.app(scope, receive, send)

    def clock(self) -> datetime:
        return utc_now() + self.ahead

    async def run(self, command: str, **environment: str) -> Result:
        runner = CliRunner()
        return await asyncio.to_thread(
            runner.invoke, app, ["webhooks", *command.split()], env=self.environment | environment
        )

    async def endpoints(self) -> list[dict[str, Any]]:
        headers = self.service.headers(partner_id=PARTNER, scopes=("webhooks:write",))
        return (await self.service.http.get("/v1/webhook-endpoints", headers=headers)).json()["endpoints"]

    async def full(self) -> dict[str, Any]:
        return next((one for one in await self.endpoints() if one["payload"] == "full"), {})


@asynccontextmanager
async def listening(port: int) -> AsyncGenerator[None]:
    """Once something listens there."""

    await eventually(lambda: is_open(port))
    yield


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncGenerator[Terminal]:
    terminals: list[Terminal] = []
    async with webhooks(tmp_path, lambda: terminals[0].clock() if terminals else utc_now()) as service:
        (port,) = free_ports(1)
        terminals.append(Terminal(service, f"http://127.0.0.1:{port}"))
        config = uvicorn.Config(terminals[0], port=port, lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started)
        yield terminals[0]
        server.should_exit = True
        await serving


async def test_it_verifies_prints_and_fails_on_demand(terminal: Terminal):
    (port,) = free_ports(1)
    command = f"listen --port {port} --payload full --answer 500 --times 1 --most 2 --hang 0.05"
    running = asyncio.create_task(terminal.run(command))
    async with listening(port):
        endpoint: dict[str, Any] = await eventually(terminal.full)
        assert endpoint["url"] == f"http://127.0.0.1:{port}/"
        async with httpx2.AsyncClient() as stranger:
            forged = {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
            answer = await stranger.post(endpoint["url"], content=b"{}", headers=forged)
        assert answer.status_code == 401
        await tell(terminal.service)
        terminal.ahead = timedelta(seconds=20)
        result = await running
    assert result.exit_code == 0, result.output
    for said in (
        "refused with 401: webhook-timestamp",
        "verified, answered 500 after 0.05 s",
        "the 2. time: verified, answered 204\n",
        '"title": "Steps"',
        "2 deliveries of 1 messages",
    ):
        assert said in result.output
    assert await terminal.endpoints() == []


async def test_no_delivery_is_lost_before_it_says_that_it_listens(terminal: Terminal):
    (terminal.watched,) = free_ports(1)
    running = asyncio.create_task(terminal.run(f"listen --port {terminal.watched} --most 1"))
    await eventually(lambda: terminal.open)
    await eventually(terminal.endpoints)
    await tell(terminal.service)
    result = await running
    # Already when the endpoint was made, so before anything could be sent there.
    assert terminal.open[0]
    said = [line.split()[0] for line in result.output.splitlines() if not line.startswith(" ")]
    assert said == ["listening", "insight.created", "1"], result.output


@pytest.mark.parametrize("signature", ["hmac", "ed25519"])
async def test_it_listens_for_an_endpoint_that_is_there(terminal: Terminal, signature: str):
    (port,) = free_ports(1)
    made = await created(terminal.service, f"http://localhost:{port}/hooks", signature=signature, payload="thin")
    secret = {"MYMACRO_WEBHOOK_SECRET": made["secret"]} if made["secret"] else {}
    running = asyncio.create_task(terminal.run(f"listen --endpoint {made['endpoint_id']} --most 1", **secret))
    async with listening(port):
        await tell(terminal.service)
        result = await running
    assert (result.exit_code, "1 deliveries of 1 messages" in result.output) == (0, True), result.output
    assert '"link": "/v1/insights"' in result.output
    assert "11,143" not in result.output
    assert len(await terminal.endpoints()) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("listen", "Say --endpoint ID or --port N."),
        ("listen --endpoint e --port 9000", "Say --endpoint ID or --port N."),
        ("listen --endpoint nowhere", "answers 404"),
        ("listen --endpoint {elsewhere}", "is not on this machine"),
        ("listen --endpoint {here}", "This is no key"),
    ],
)
async def test_what_cannot_be_listened_for_is_said(terminal: Terminal, command: str, said: str):
    elsewhere = await created(terminal.service, "http://127.0.0.2:9/")
    here = await created(terminal.service, "http://127.0.0.1:9/", key="here")
    ids = {"elsewhere": elsewhere["endpoint_id"], "here": here["endpoint_id"]}
    result = await terminal.run(command.format(**ids), MYMACRO_WEBHOOK_SECRET="whsec_***")
    assert (result.exit_code, said in result.output) == (1, True), result.output


async def test_a_taken_port_leaves_no_endpoint_behind(terminal: Terminal):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        result = await terminal.run(f"listen --port {port}")
    assert (result.exit_code, f"Port {port} can't be listened at" in result.output) == (1, True), result.output
    assert await terminal.endpoints() == []


async def test_without_a_gateway_there_is_one_sentence(terminal: Terminal):
    (port,) = free_ports(1)
    result = await terminal.run("listen --port 9000", MYMACRO_API_URL=f"http://127.0.0.1:{port}")
    assert (result.exit_code, "does not answer" in result.output) == (1, True), result.output
