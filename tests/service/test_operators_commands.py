"""`./mymacro partners` and `./mymacro users` against auth as it listens on a port."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from infra.local.cli import app
from infra.local.instance import free_ports
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import REGISTRATION, Desk, desk_of

ACCOUNT = {"email": "ada@example.org", "password": "violet tractor hums at noon"}


class Terminal:
    """An operator's terminal beside the desk."""

    def __init__(self, desk: Desk, url: str) -> None:
        self.desk = desk
        self.environment = {
            "GATEWAY_AUTH_URL": url,
            "GATEWAY_INTERNAL_KEY_PATH": str(desk.folder / "internal.jwk"),
            "COLUMNS": "300",
        }

    async def run(self, command: str, **environment: str) -> Result:
        runner = CliRunner()
        return await asyncio.to_thread(runner.invoke, app, command.split(), env=self.environment | environment)


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncGenerator[Terminal]:
    async with desk_of(tmp_path, MovableClock()) as desk:
        (port,) = free_ports(1)
        server = uvicorn.Server(uvicorn.Config(desk.service.app, port=port, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started)
        yield Terminal(desk, f"http://127.0.0.1:{port}")
        server.should_exit = True
        await serving


async def test_partners_are_seen_approved_suspended_and_given_a_quota(terminal: Terminal) -> None:
    assert "no such partners" in (await terminal.run("partners list")).output
    partner_id = (await terminal.desk.register()).json()["partner_id"]
    listed = await terminal.run("partners list --state pending")
    assert listed.exit_code == 0
    assert all(text in listed.output for text in (partner_id, "Oat & Co", "pending", "default"))
    assert "oat.example" not in listed.output
    assert "Oat & Co is active." in (await terminal.run(f"partners approve {partner_id}")).output
    assert "may ask 600 times a minute." in (await terminal.run(f"partners quota {partner_id} 600")).output
    shown = (await terminal.run(f"partners show {partner_id}")).output
    assert all(text in shown for text in (REGISTRATION["contact"], "600", "days:read", "https://oat.example/callback"))
    assert (
        "may ask as often as the setting says." in (await terminal.run(f"partners quota {partner_id} --default")).output
    )
    assert "Oat & Co is suspended." in (await terminal.run(f"partners suspend {partner_id}")).output
    assert "no such partners" in (await terminal.run("partners list --state active")).output


async def test_partners_are_listed_page_by_page(terminal: Terminal) -> None:
    for number in range(3):
        await terminal.desk.register(f"r{number}", contact=f"dev{number}@oat.example", name=f"Partner {number}")
    most = (await terminal.run("partners list --most 2")).output
    assert ["Partner 0" in most, "Partner 1" in most, "Partner 2" in most] == [True, True, False]


async def test_users_are_seen_and_signed_out(terminal: Terminal) -> None:
    assert "no users" in (await terminal.run("users list")).output
    http, headers = terminal.desk.service.http, terminal.desk.service.headers
    user_id = (await http.post("/v1/users", json=ACCOUNT, headers=headers(key="k"))).json()["user_id"]
    await http.post("/v1/tokens", json=ACCOUNT, headers=headers())
    listed = await terminal.run("users list")
    assert user_id in listed.output
    assert "example.org" not in listed.output
    shown = (await terminal.run(f"users show {user_id}")).output
    assert all(text in shown for text in (user_id, ACCOUNT["email"], "nobody"))
    assert [(await terminal.run(f"users end-sessions {user_id}")).output.split()[-1] for _ in range(2)] == ["1", "0"]


@pytest.mark.parametrize(
    "command",
    [
        "partners show par_nobody",
        "partners approve par_nobody",
        "partners suspend ../users",
        "partners quota par_nobody 5",
        "partners quota par_nobody",
        "partners quota par_nobody 5 --default",
        "users show usr_nobody",
        "users end-sessions usr_nobody",
    ],
)
async def test_what_is_not_there_is_said_in_a_sentence(terminal: Terminal, command: str) -> None:
    answer = await terminal.run(command)
    assert answer.exit_code == 1
    assert "Traceback" not in answer.output
    assert any(text in answer.output for text in ("There is no such", "Say how many", "nothing here"))


async def test_a_silent_auth_and_a_missing_key_are_said_in_a_sentence(terminal: Terminal) -> None:
    silent = await terminal.run("partners list", GATEWAY_AUTH_URL=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert (silent.exit_code, "does not answer" in silent.output) == (1, True)
    keyless = await terminal.run("users list", GATEWAY_INTERNAL_KEY_PATH="/nowhere/internal.jwk")
    assert (keyless.exit_code, "can't be read" in keyless.output) == (1, True)
