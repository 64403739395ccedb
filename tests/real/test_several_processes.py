"""Two gateways and two of three services behind them, on real parts: it is all the same whom one asks, and who ends."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest

from infra.local import processes
from infra.local.instance import free_ports
from infra.local.parts import all_parts, http_ok
from tests.client import Client, signed_in
from tests.polling import eventually
from tests.real.test_rates import Server, pytestmark
from tests.running_stack import Stack

__all__ = ["pytestmark"]

SECOND = ("auth", "ingest", "webhooks")
WITHIN_S = 5.0
CLIENTS = 4
MANY = "100000/60"


@dataclass
class Several:
    """Processes beside the stack's own: `gateway-1`, `gateway-2`, and the second of some services."""

    stack: Stack
    folder: Path
    env: dict[str, str]
    started: dict[str, Popen[bytes]] = field(default_factory=dict[str, Popen[bytes]])
    ports: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.ports[name]}" for name in ("gateway-1", "gateway-2")]

    def start(self, name: str, **env: str) -> None:
        service = name.partition("-")[0]
        (part,) = [one for one in all_parts(self.stack.instance) if one.name == service]
        port = self.ports.setdefault(name, free_ports(1)[0])
        own = {"INSTANCE": name, "DRAIN_S": "1", f"{service.upper()}_PORT": str(port)}
        log = self.folder / f"{name}.log"
        self.started[name] = processes.spawn(part.command, cwd=part.cwd, env=part.env | self.env | own | env, log=log)

    async def ready(self, *names: str) -> None:
        for name in names:
            await eventually(lambda name=name: http_ok(self.ports[name]), seconds=120)

    async def end(self, name: str) -> int:
        """Tell it to end; how it did."""
        self.started[name].send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.started[name].wait, 20)


@pytest.fixture(scope="module")
def several(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    folder = tmp_path_factory.mktemp("several")
    redis = Server(folder)
    found = Several(stack, folder, {"GATEWAY_INSTANCES": "2", "GATEWAY_RATE_READ": MANY, "GATEWAY_RATE_WRITE": MANY})
    try:
        asyncio.run(redis.start())
        found.env["GATEWAY_RATES_URL"] = redis.url
        for service in SECOND:
            found.start(f"{service}-2")
            ports = stack.instance.port(service), found.ports[f"{service}-2"]
            found.env[f"GATEWAY_{service.upper()}_URL"] = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        for name in ("gateway-1", "gateway-2"):
            found.start(name)
        asyncio.run(found.ready(*found.started))
        yield found
    finally:
        for process in found.started.values():
            process.kill()
            process.wait(10)
        redis.kill()


@asynccontextmanager
async def two_phones(urls: list[str]) -> AsyncGenerator[tuple[Client, Client]]:
    """One user on two gateways."""
    async with signed_in(urls[0]) as one, aiohttp.ClientSession() as session:
        there = type(one.phone)(urls[1], session, one.phone.deadline, one.phone.token)
        yield one, Client(there, one.user_id, refresh_token=one.refresh_token)


def batch(minute: int, value: int = 60) -> dict[str, Any]:
    sample = {"metric": "heart_rate", "start": f"2026-03-01T{minute // 60:02}:{minute % 60:02}:00Z", "value": value}
    return {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "samples": [sample]}


async def statuses(urls: list[str], method: str, path: str, headers: dict[str, str]) -> list[int]:
    """What each answers; of a stream only the head."""
    found: list[int] = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for url in urls:
            async with session.request(method, url + path) as answer:
                found.append(answer.status)
    return found


async def test_it_is_all_the_same_which_gateway_is_asked(several: Several) -> None:
    urls = several.urls
    async with two_phones(urls) as (one, two), aiohttp.ClientSession() as http:
        bearer = {"Authorization": f"Bearer {one.phone.token}"}
        stream = await http.get(f"{urls[1]}/v1/live?after=0", headers=bearer)

        # The same batch at both is one batch; its receipt is known to both, and the stream at one tells of the other's.
        key = str(uuid4())
        receipts = [
            (await at.phone.send("POST", "/v1/batches", key=key, body=batch(1))).body["receipt_id"] for at in (one, two)
        ]
        assert receipts[0] == receipts[1]
        told = [
            (await at.phone.poll(f"/v1/receipts/{receipts[0]}", lambda body: body["state"] == "stored")).body
            for at in (two, one)
        ]
        assert told[0] == told[1]
        assert (told[0]["received"], told[0]["stored"]) == (1, 1)
        async with asyncio.timeout(20):
            while receipts[0].encode() not in await stream.content.readline():
                pass

        # A ticket of one is good once at the other.
        ticket = (await one.phone.send("POST", "/v1/live/tickets")).body["ticket"]
        again = f"/v1/live?after=0&ticket={ticket}"
        assert await statuses([urls[1], urls[0], urls[1]], "GET", again, {}) == [200, 401, 401]

        # Who signs out at one is refused by both, and the stream at the other ends.
        (session,) = (await one.phone.send("GET", "/v1/me/sessions")).body["sessions"]
        await one.phone.send("DELETE", f"/v1/me/sessions/{session['session_id']}")

        async def refused() -> bool:
            return await statuses(urls, "GET", "/v1/whoami", bearer) == [401, 401]

        await eventually(refused, seconds=WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            assert (await stream.content.read()).endswith(b": end\n\n")
        stream.close()


@dataclass
class Load:
    """A user's phones without a pause: each goes to the other gateway where one refuses to connect, else it failed."""

    urls: list[str]
    token: str
    minutes: Callable[[], int] = field(default_factory=lambda: count().__next__)
    receipts: list[str] = field(default_factory=list[str])
    reads: int = 0
    failed: list[str] = field(default_factory=list[str])
    over: bool = False

    async def phone(self, at: int) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            while not self.over:
                url = self.urls[at % 2]
                try:
                    await self._once(http, url)
                except aiohttp.ClientConnectorError:
                    at += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.failed.append(f"{type(error).__name__} at {url}")
                # A user's rate, not a test of it.
                await asyncio.sleep(0.02)

    async def _once(self, http: aiohttp.ClientSession, url: str) -> None:
        key = {"Idempotency-Key": str(uuid4())}
        async with http.post(f"{url}/v1/batches", json=batch(self.minutes() % 1440), headers=key) as answer:
            if answer.status == 202:
                self.receipts.append((await answer.json())["receipt_id"])
            else:
                self.failed.append(f"{answer.status} {await answer.text()}")
        for path in ("/v1/devices", "/v1/me/sessions", "/v1/events?after=0"):
            async with http.get(url + path) as answer:
                self.reads += 1
                if answer.status != 200:
                    self.failed.append(f"{answer.status} {path} {await answer.text()}")


async def last_words(url: str, token: str) -> list[bytes]:
    """What an event stream and a WebSocket hear at last."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        socket = await http.ws_connect(f"{url}/v1/live/ws")
        stream = await http.get(f"{url}/v1/live")

        async def frames() -> bytes:
            return b"".join([str(frame.data).encode() async for frame in socket][-1:])

        heard, said = await asyncio.gather(stream.content.read(), frames())
        return [heard[-500:], said]


async def test_processes_end_one_after_another_and_no_request_fails(several: Several) -> None:
    async with signed_in(several.urls[0]) as client:
        load = Load(several.urls, client.phone.token)
        phones = [asyncio.create_task(load.phone(number)) for number in range(CLIENTS)]
        await eventually(lambda: load.reads > 50, seconds=30)
        told = asyncio.create_task(last_words(several.urls[1], client.phone.token))
        for name in ("ingest-2", "auth-2", "gateway-2"):
            assert not told.done()
            assert await several.end(name) == 0, name
            several.start(name)
            await several.ready(name)
            seen = load.reads
            await eventually(lambda seen=seen: load.reads > seen + 20, seconds=30)
        load.over = True
        await asyncio.gather(*phones)
        # Whoever reads at a gateway that ends is told to go on at another one.
        assert [b"server-closing" in words for words in await told] == [True, True]
        assert load.failed == []

        # What was accepted is stored, by whichever process.
        await eventually(lambda: _all_stored(client, set(load.receipts)), seconds=30, every=0.5)


async def _all_stored(client: Client, receipts: set[str]) -> bool:
    found: set[str] = set()
    cursor: str | None = ""
    while cursor is not None:
        after = f"&cursor={quote(cursor, safe='')}" if cursor else ""
        page = (await client.phone.send("GET", f"/v1/receipts?limit=1000{after}")).body
        found |= {one["receipt_id"] for one in page["receipts"] if one["state"] == "stored"}
        cursor = page["cursor"]
    return receipts <= found
