"""Live streams over real connections: curl, clients of WebSockets, hostile ones, and ones that read nothing."""

import asyncio
import functools
import json
import logging
import os
import re
import shutil
import socket
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from services.gateway import feeds
from shared.events.auth import SessionRevoked
from shared.websocket import WithoutAddresses
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, gateway
from tests.service.live_messages import Webhooks, publish
from tests.service.live_server import served

SLOW_READERS = 1000
KIB = 1024


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path, gateway_rate_stream="999999/1") as one:
        yield one


@pytest.fixture
def webhooks(door: Gateway) -> Webhooks:
    one = Webhooks()
    door.services.handlers["webhooks"] = one
    return one


@pytest.fixture
async def port(door: Gateway, webhooks: Webhooks) -> AsyncGenerator[int]:
    async with served(door) as one:
        yield one


async def open_socket(door: Gateway, port: int, query: str = "after=0", user_id: str = USER) -> ClientConnection:
    headers = {"Authorization": f"Bearer {door.token(user_id)}"}
    return await connect(f"ws://127.0.0.1:{port}/v1/live/ws?{query}", additional_headers=headers, ping_interval=None)


class Curl:
    """`curl -N`, which writes into a file."""

    def __init__(self, path: Path, process: asyncio.subprocess.Process) -> None:
        self._path = path
        self._process = process

    @classmethod
    async def run(cls, path: Path, port: int, token: str, last: int) -> "Curl":
        arguments = [
            "-N",
            "-s",
            "-o",
            str(path),
            "-H",
            f"Authorization: Bearer {token}",
            "-H",
            f"Last-Event-ID: {last}",
        ]
        return cls(path, await asyncio.create_subprocess_exec("curl", *arguments, f"http://127.0.0.1:{port}/v1/live"))

    def ids(self) -> list[int]:
        text = self._path.read_text() if self._path.exists() else ""
        # A block that was cut off by the kill was not received.
        return [int(found) for found in re.findall(r"^id: (\d+)\nevent: .*\ndata: .*\n\n", text, re.MULTILINE)]

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_killed_and_resumed_misses_nothing_and_repeats_nothing(
    door: Gateway, webhooks: Webhooks, port: int, tmp_path: Path
) -> None:
    end, seen, runs = 400, [0], 0

    async def flow() -> None:
        for number in range(1, end + 1):
            webhooks.stored.append(number)
            await publish(door, number)
            await asyncio.sleep(0.002)  # the pace of the flow: curl is killed in the midst of it

    flowing = asyncio.create_task(flow())
    while seen[-1] < end:
        runs += 1
        curl = await Curl.run(tmp_path / f"{runs}.txt", port, door.token(), seen[-1])
        least = 1 if runs < 8 else end - seen[-1]
        await eventually(lambda one=curl, least=least: len(one.ids()) >= least)
        await curl.kill()
        seen += curl.ids()
    await flowing
    assert seen == list(range(end + 1))
    assert runs >= 2
    await eventually(lambda: door.running.app.state.live._windows == {})


async def test_a_client_of_websockets_resumes_and_is_told_the_end(door: Gateway, webhooks: Webhooks, port: int) -> None:
    webhooks.stored = [1, 2]
    one = await open_socket(door, port, "after=0")
    assert [json.loads(await one.recv())["id"] for _ in range(2)] == [1, 2]
    await one.close()
    webhooks.stored.append(3)
    one = await open_socket(door, port, "after=2")
    await publish(door, 3, 4)
    assert [json.loads(await one.recv())["id"] for _ in range(2)] == [3, 4]
    door.clock.ahead = timedelta(minutes=16)
    door.running.app.state.live.fed_from_here()
    assert json.loads(await one.recv())["data"]["reason"] == "token-expired"
    with pytest.raises(websockets.ConnectionClosed):
        await one.recv()
    assert (one.close_code, one.close_reason) == (4001, "token-expired")


async def test_a_refused_websocket_is_told_why(door: Gateway, port: int) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{port}/v1/live/ws")
    answer = refused.value.response
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")
    assert json.loads(answer.body)["type"].endswith("/token-required")
    with pytest.raises(websockets.InvalidStatus) as elsewhere:
        await connect(f"ws://127.0.0.1:{port}/v1/whoami")
    assert elsewhere.value.response.status_code == 403


async def closed(one: ClientConnection) -> int | None:
    with suppress(websockets.ConnectionClosed):
        while True:
            await asyncio.wait_for(one.recv(), 5)
    return one.close_code


def frame(opcode: int, payload: bytes, *, masked: bool = True, final: bool = True) -> bytes:
    """A client's frame (RFC 6455 §5.2) with the mask 0."""
    first, mask = opcode | (0x80 if final else 0), 0x80 if masked else 0
    size = (
        struct.pack("!B", mask | len(payload)) if len(payload) < 126 else struct.pack("!BH", mask | 126, len(payload))
    )
    return bytes((first,)) + size + (b"\0" * 4 if masked else b"") + payload


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(1, b"x" * 5000), 1009),
        (frame(1, b"x" * 3000, final=False) + frame(0, b"x" * 3000), 1009),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"x", masked=False), 1002),
        (frame(3, b"x"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"x", final=False), 1002),
        (frame(0, b"x"), 1002),
        (struct.pack("!BBQ", 0x82, 0xFF, 2**63 - 1) + b"\0" * 4, 1009),
        (frame(1, b"x") * 101, 1008),
        (frame(9, b"ping") * 2000, 1008),
        (frame(10, b"pong") * 2000, 1008),
        (b"\xff" * 20_000, 1008),
    ],
)
async def test_hostile_frames_end_the_connection_that_sent_them(
    door: Gateway, webhooks: Webhooks, port: int, sent: bytes, code: int
) -> None:
    bystander, one = await open_socket(door, port), await open_socket(door, port)
    one.transport.write(sent)
    assert await closed(one) == code
    await publish(door, 1)
    assert json.loads(await asyncio.wait_for(bystander.recv(), 5))["id"] == 1
    await bystander.close()
    await eventually(lambda: door.running.app.state.live._windows == {})


async def test_pings_are_answered(door: Gateway, port: int) -> None:
    one = await open_socket(door, port)
    assert await asyncio.wait_for(await one.ping(), 5) >= 0
    await one.close()


async def test_a_client_that_answers_no_ping_is_closed(
    door: Gateway, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.service.PING_EVERY_S", 0.05)
    monkeypatch.setattr("shared.service.PONG_WITHIN_S", 0.05)
    async with served(door) as port:
        reader, writer = await raw(port, "/v1/live/ws?after=0", door.token(), UPGRADE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        rest = await asyncio.wait_for(reader.read(), 5)
        # A ping of 4 bytes, then the close frame with 1011.
        assert rest[:2] == b"\x89\x04"
        assert struct.pack("!H", 1011) in rest
        writer.close()
        await eventually(lambda: door.running.app.state.live._windows == {})


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def raw(
    port: int, target: str, token: str, headers: str = "", *, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request by hand, on a connection that takes in no more than it is asked for."""
    one = socket.socket()
    if receive_buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=one, limit=KIB)
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    writer.write(request.encode())
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("headers", ["", UPGRADE])
async def test_whoever_reads_nothing_is_cut_off_and_at_once_when_it_has_to_end(
    door: Gateway, webhooks: Webhooks, port: int, headers: str
) -> None:
    live = door.running.app.state.live
    target = "/v1/live/ws" if headers else "/v1/live"
    stalled = [
        await raw(port, f"{target}?after=0", door.token(session_id=sid), headers, receive_buffer=KIB)
        for sid in ("sid_a", "sid_b")
    ]
    webhooks.padding = "x" * 8 * KIB
    webhooks.stored = list(range(1, 3001))
    live.fed_from_here()

    def stuck() -> bool:
        waiters = live._windows[USER].readers
        return len(waiters) == 2 and all(one.sending_since for one in waiters)

    await eventually(stuck)
    live.cut_stalled(time.monotonic() + feeds.STALLED_AT_THE_END_S)
    assert stuck()
    ended = SessionRevoked(
        event_id="e",
        occurred_at=door.clock(),
        session_id="sid_a",
        user_id=USER,
        reason="signed-out",
        expires_at=door.clock() + timedelta(minutes=16),
    )
    await door.running.app.state.revocations.take("sid_a", ended)
    # As the watch beside it does every second; it is not waited for here.
    live.cut_stalled(time.monotonic() + feeds.STALLED_AT_THE_END_S)
    await eventually(lambda: len(live._windows[USER].readers) == 1)
    live.cut_stalled(time.monotonic() + feeds.STALLED_S)
    await eventually(lambda: live._windows == {})
    for _, writer in stalled:
        writer.close()


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
async def test_a_thousand_slow_readers_take_bounded_memory(door: Gateway, webhooks: Webhooks) -> None:
    # 5 MB for each of them, 5 GB in all, if anybody kept it for them.
    webhooks.padding, webhooks.stored = "x" * KIB, list(range(1, 5001))
    pages = functools.cache(lambda target: webhooks("GET", target, {}, b""))
    door.services.handlers["webhooks"] = lambda method, target, headers, body: pages(target)
    live = door.running.app.state.live
    tokens = [door.token(f"usr_{number}") for number in range(SLOW_READERS)]

    def stuck() -> int:
        return sum(1 for window in live._windows.values() for one in window.readers if one.sending_since)

    async with served(door, send_buffer=KIB) as port:
        before = resident_bytes()
        readers = [await raw(port, "/v1/live?after=0", token, receive_buffer=KIB) for token in tokens]
        await eventually(lambda: stuck() == SLOW_READERS, seconds=40)
        each = (resident_bytes() - before) / SLOW_READERS / KIB
        # 64 KiB that a connection buffers, a page of messages on its way, and both sides of the connection.
        assert each < 400, f"{each:.0f} KiB a reader"
        for _, writer in readers:
            writer.transport.abort()
        await eventually(lambda: live._windows == {}, seconds=30)


async def test_no_ticket_is_in_the_log(
    door: Gateway, port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("uvicorn.error")
    without = WithoutAddresses()
    logger.addFilter(without)
    try:
        ticket = (await door.ask("POST", "/v1/live/tickets")).json()["ticket"]
        base = f"ws://127.0.0.1:{port}/v1/live/ws"
        one = await connect(f"{base}?after=0&ticket={ticket}", ping_interval=None)
        for address in (f"{base}?ticket={ticket}", f"{base}/?ticket={ticket}", f"{base}?ticket={ticket}&ticket=1"):
            with pytest.raises(websockets.InvalidStatus):
                await connect(address, ping_interval=None)
        await one.close()
        written = [entry for entry in caplog.records if not entry.name.startswith("websockets.client")]
        assert ticket not in "".join(entry.getMessage() for entry in written)
        assert [entry for entry in written if entry.levelno >= logging.ERROR] == []
    finally:
        logger.removeFilter(without)
