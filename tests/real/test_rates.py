"""Limits in a real Redis: gateways share them, and go on without it."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infra.local.instance import free_ports
from services.gateway.rates import Charge, MemoryBuckets, Policy, Taken
from services.gateway.redis_buckets import CONNECTIONS, NEVER, PREFIX, RedisBuckets
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, gateway

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server: apt-get install redis-server"
)


class Server:
    """A Redis with a folder of its own, to be killed and started again; it keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def start(self) -> None:
        binary = shutil.which("redis-server") or ""
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
        await eventually(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    async def _answers(self) -> bool:
        async with Redis.from_url(self.url) as redis:
            try:
                return bool(await redis.ping())
            except RedisError:
                return False


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    one = Server(tmp_path)
    await one.start()
    yield one
    one.kill()


@asynccontextmanager
async def two_gateways(folder: Path, **settings: Any) -> AsyncGenerator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        doors: list[Gateway] = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            doors.append(await stack.enter_async_context(gateway(folder / name, **settings)))
        yield doors


async def status(door: Gateway) -> int:
    return (await door.ask("GET", "/v1/whoami")).status_code


async def test_two_gateways_share_one_limit(server: Server, tmp_path: Path) -> None:
    async with two_gateways(tmp_path, gateway_rates_url=server.url, gateway_rate_read="6/60") as (one, two):
        found = [await status(door) for door in (one, two, one, two, one, two, one, two)]
        assert found == [200] * 6 + [429, 429]
        refused = await two.ask("GET", "/v1/whoami")
        assert refused.json()["limit"] == "user-read"
        assert refused.headers["ratelimit"] == f'"user-read";r=0;t={refused.headers["retry-after"]}'
        assert (await two.ask("GET", "/v1/whoami", token=two.token("usr_2"))).status_code == 200


async def test_gateways_go_on_without_redis_and_with_it_again(server: Server, tmp_path: Path) -> None:
    async with two_gateways(tmp_path, gateway_rates_url=server.url, gateway_rate_read="4/600") as (one, two):
        assert [await status(one) for _ in range(5)] == [200] * 4 + [429]
        server.kill()
        assert [await status(door) for door in (one, two) for _ in range(5)] == ([200] * 4 + [429]) * 2
        await server.start()

        async def counted_there() -> bool:
            await status(one)
            async with Redis.from_url(server.url) as redis:
                return bool(await redis.exists(f"{PREFIX}user-read:{USER}"))

        await eventually(counted_there)


async def opened(buckets: RedisBuckets) -> bool:
    """Whether as many calls as it has connections are all answered by Redis, so that all are open."""
    charges = [Charge(Policy("warm", 999, 60), "a")]
    await asyncio.gather(*(buckets.take(charges) for _ in range(CONNECTIONS)))
    return buckets._silent_until == NEVER


async def test_a_burst_through_both_lets_exactly_the_quota_through(server: Server) -> None:
    of = Policy("user-read", 50, 600)
    both = [RedisBuckets(server.url, MemoryBuckets()) for _ in range(2)]
    for buckets in both:
        await eventually(partial(opened, buckets))
    found: list[Taken] = []
    for _ in range(10):
        found += await asyncio.gather(*(buckets.take([Charge(of, "a")]) for buckets in both for _ in range(10)))
    assert sum(taken.allowed for taken in found) == 50
    for buckets in both:
        await buckets.close()


async def test_it_counts_as_memory_does(server: Server) -> None:
    redis, memory = RedisBuckets(server.url, MemoryBuckets()), MemoryBuckets()
    key, partner = Policy("key", 3, 60), Policy("partner", 2, 60)
    for charges in ([Charge(key, "k")], [Charge(key, "k"), Charge(partner, "p")], [Charge(partner, "p")]) * 2:
        there, here = await redis.take(charges), memory.take_now(charges)
        assert there.allowed == here.allowed
        assert there.full_in_s == pytest.approx(here.full_in_s, abs=1)
    await redis.close()


async def test_what_is_full_again_is_gone(server: Server) -> None:
    buckets = RedisBuckets(server.url, MemoryBuckets())
    assert (await buckets.take([Charge(Policy("user-read", 4, 1), "a")])).allowed
    async with Redis.from_url(server.url) as redis:

        async def empty() -> bool:
            return int(await redis.dbsize()) == 0

        began = time.monotonic()
        await eventually(empty)
        assert time.monotonic() - began < 2
    await buckets.close()


async def test_a_wrong_password_is_said_in_one_sentence_and_limits_hold(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as redis:
        await redis.config_set("requirepass", "the-right-one")
    url = server.url.replace("redis://", "redis://:another-one@")
    async with gateway(tmp_path, gateway_rates_url=url, gateway_rate_read="2/600") as door:
        answer = await door.http.get("/readyz")
        assert answer.json()["parts"]["redis"] == "AuthenticationError"
        assert [await status(door) for _ in range(3)] == [200, 200, 429]
    said = [entry.getMessage() for entry in caplog.records if "Redis" in entry.getMessage()]
    assert said == [
        "Redis refuses the user or the password in GATEWAY_RATES_URL: each gateway holds its own rate limits"
    ]
    assert "another-one" not in caplog.text
