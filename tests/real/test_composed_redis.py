"""A Redis as docker-compose.yml starts it: its account may do what gateways ask for, and nothing more."""

import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from infra.docker import make_secrets
from infra.local.instance import free_ports
from services.gateway.redis_buckets import PREFIX
from tests.polling import eventually
from tests.real.test_rates import Server, pytestmark, server
from tests.real.test_tickets import issued, opened, takes
from tests.service.gateway_edges import USER, gateway
from tests.service.live_messages import Webhooks
from tests.unit.composed import SECRETS, composed

__all__ = ["pytestmark", "server"]


@pytest.fixture
async def url(tmp_path: Path) -> AsyncGenerator[str]:
    """The server's address with the gateway's password, as in its settings."""
    secrets = make_secrets.make(tmp_path)
    (port,) = free_ports(1)
    program, *arguments = composed()["services"]["redis"]["command"]
    arguments = [word.replace(SECRETS, f"{tmp_path}/redis/") for word in arguments]
    command = [shutil.which(program) or program, *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
    given = secrets["gateway"]["gateway_rates_url"].replace("redis:6379", f"127.0.0.1:{port}")

    async def answers() -> bool:
        async with Redis.from_url(given) as redis:
            try:
                return await redis.execute_command("PING") is not None
            except RedisError:
                return False

    try:
        await eventually(answers)
        yield given
    finally:
        process.kill()
        process.wait(10)


async def test_gateways_count_and_take_tickets_there(url: str, tmp_path: Path) -> None:
    (tmp_path / "door").mkdir()
    async with gateway(tmp_path / "door", gateway_rates_url=url, gateway_rate_read="6/600") as door:
        door.services.handlers["webhooks"] = Webhooks()
        assert (await door.http.get("/readyz")).json()["parts"]["redis"] == "ok"
        assert (await door.ask("GET", "/v1/whoami")).status_code == 200
        async with Redis.from_url(url) as redis:
            assert await redis.exists(f"{PREFIX}user-read:{USER}")
        await eventually(lambda: takes(door))
        ticket = await issued(door)
        assert [await opened(door, ticket) for _ in range(2)] == [200, 401]


async def test_an_account_that_may_do_too_little_is_named_by_its_setting(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "gate", "on", ">pass99", "~*", "+@all", "-@dangerous")
    url = server.url.replace("redis://", "redis://gate:pass99@")
    async with gateway(tmp_path, gateway_rates_url=url) as door:
        assert await opened(door, await issued(door)) == 503
    said = "Redis does not allow the user in GATEWAY_RATES_URL all that gateways ask for: no ticket can be used"
    assert said in [entry.getMessage() for entry in caplog.records]
    assert "pass99" not in caplog.text


async def test_its_account_may_not_do_what_empties_or_changes_it(url: str) -> None:
    async with Redis.from_url(url) as redis:
        for command in ("FLUSHALL", "CONFIG GET maxmemory", "ACL LIST", "KEYS *", "SHUTDOWN"):
            with pytest.raises(NoPermissionError):
                await redis.execute_command(*command.split())
        with pytest.raises(NoPermissionError):
            await redis.set("another:key", b"")
