"""A process that is told to end while others work on beside it: nobody who asks loses a request."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from infra.local.instance import free_ports
from tests.polling import eventually
from tests.service.gateway_edges import gateway
from tests.service.live_messages import Webhooks, publish
from tests.service.live_server import served

ROOT = Path(__file__).parents[2]
CLIENTS = 12


class Child:
    """The app of `test_service_runner` as a process."""

    def __init__(self, drain_s: float) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "INGEST_PORT": str(port), "DRAIN_S": str(drain_s), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.service.test_service_runner"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    async def answers(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorError:
            assert self.process.poll() is None
            return False

    async def ended(self) -> int:
        await asyncio.to_thread(self.process.communicate, timeout=15)
        return self.process.returncode


@pytest.fixture
async def children() -> AsyncGenerator[Callable[[float], Child]]:
    async with AsyncExitStack() as stack:

        def start(drain_s: float) -> Child:
            child = Child(drain_s)
            stack.callback(child.process.communicate)
            stack.callback(child.process.kill)
            return child

        yield start


@pytest.fixture
async def http() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


class Load:
    """Clients without a pause, each on the process it was at, and at the next one when that refuses to connect."""

    def __init__(self, urls: list[str], *, keep: bool) -> None:
        self.urls = urls
        self.keep = keep
        self.answered: dict[str, int] = dict.fromkeys(urls, 0)
        self.failed: list[str] = []
        self.over = False

    async def client(self, at: int) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not self.keep)
        async with aiohttp.ClientSession(connector=connector) as http:
            while not self.over:
                url = self.urls[at % len(self.urls)]
                try:
                    # Nothing that a client would repeat by itself.
                    async with http.post(f"{url}/echo", data=b"x" * 100) as answer:
                        assert await answer.read() == b"x" * 100
                except aiohttp.ClientConnectorError:
                    at += 1
                except aiohttp.ClientError as error:
                    self.failed.append(type(error).__name__)
                else:
                    self.answered[url] += 1


@pytest.mark.parametrize(("keep", "drain_s"), [(True, 0.6), (False, 0.6), (False, 0.0)])
async def test_no_request_fails_when_one_of_two_processes_ends(
    children: Callable[[float], Child], http: aiohttp.ClientSession, keep: bool, drain_s: float
) -> None:
    going, staying = children(drain_s), children(drain_s)
    for child in (going, staying):
        await eventually(lambda one=child: one.answers(http), seconds=20)
    load = Load([going.url, staying.url], keep=keep)
    asking = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    await eventually(lambda: min(load.answered.values()) > 100)

    going.process.send_signal(signal.SIGTERM)
    assert await going.ended() == 0
    at_the_end = load.answered[staying.url]
    await eventually(lambda: load.answered[staying.url] > at_the_end + 200)
    load.over = True
    await asyncio.gather(*asking)
    assert load.failed == []


async def test_a_process_about_to_end_says_so_and_answers_on(
    children: Callable[[float], Child], http: aiohttp.ClientSession
) -> None:
    child = children(1.0)
    await eventually(lambda: child.answers(http), seconds=20)
    async with http.get(f"{child.url}/taken") as answer:
        assert "connection" not in answer.headers
    slow = asyncio.create_task(http.get(f"{child.url}/slow"))
    stream = await http.get(f"{child.url}/stream")
    assert await stream.content.readline() == b"data: first\n"
    child.process.send_signal(signal.SIGTERM)

    async def leaving() -> bool:
        async with http.get(f"{child.url}/readyz") as answer:
            return answer.status == 503 and (await answer.json())["parts"]["process"] == "ending"

    await eventually(leaving)
    async with http.get(f"{child.url}/taken") as answer:
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert (await slow).headers["connection"] == "close"
    assert not stream.content.at_eof()
    # Whoever reads a stream hears of the end once nobody can come back to this process.
    assert b"data: last" in await stream.content.read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.get(f"{child.url}/taken")
    assert await child.ended() == 0


async def test_a_second_sigint_ends_the_waiting(
    children: Callable[[float], Child], http: aiohttp.ClientSession
) -> None:
    child = children(300.0)
    await eventually(lambda: child.answers(http), seconds=20)
    child.process.send_signal(signal.SIGINT)
    await eventually(lambda: _leaves(child, http))
    child.process.send_signal(signal.SIGINT)
    assert await child.ended() == 0


async def _leaves(child: Child, http: aiohttp.ClientSession) -> bool:
    return not await child.answers(http)


async def test_a_websocket_is_opened_as_long_as_a_process_about_to_end_answers(tmp_path: Path) -> None:
    async with gateway(tmp_path) as door:
        door.services.handlers["webhooks"] = Webhooks()
        async with served(door, leaving=True) as port:
            url = f"http://127.0.0.1:{port}/v1/live/ws?after=0"
            headers = {"Authorization": f"Bearer {door.token()}"}
            async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers) as one:
                await publish(door, 1)
                assert (await one.receive_json(timeout=5))["id"] == 1
