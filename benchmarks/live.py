"""What a live reader costs: memory of the gateway for each, and how long a message takes to all that wait for it.

One gateway alone in its process, fed over a local socket in place of the topic; 16 readers for each user, as many as
one may have. Each round gives every user one message: at once, so that all readers wait for the same moment, or evenly
over a second. A latency is the time from the feed to the last byte at the reader, and includes the readers' own work:
they all live in one other process.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop
from fastapi import FastAPI

from benchmarks import measure
from services.gateway.app import Edges, create_app
from services.gateway.feeds import MAX_READERS_PER_USER
from services.gateway.proxy import Answer
from services.gateway.settings import Settings
from shared.access_tokens import sign_access_token
from shared.callers import SCOPES
from shared.clock import utc_now
from shared.events.webhooks import MessagePublished
from shared.kafka import make_broker
from shared.keys import generate_key_files, load_private_jwk, public_jwks
from shared.service import ServiceServer, server_config, stop_event
from shared.websocket import BoundedWebSocket

STREAMS, SOCKETS = 2000, 500
ROUNDS = 20
ROUND_S = 1.0
# What opening a stream takes for a moment is given back by then.
SETTLES_S = 1.0
# What a day's message holds, beside the time it was sent at.
DATA = {"metrics": {f"metric_{number}": {"sum": "1234.5", "unit": "{steps}"} for number in range(8)}}
SENT = re.compile(rb'"sent":(\d+)[,}]')
JSON = {"content-type": "application/json"}
NOTHING = json.dumps({"events": [], "has_more": False, "last_sequence": 0}).encode()


class Upstreams:
    """auth and webhooks, which have nothing to say but keys and that nothing is stored."""

    def __init__(self, folder: Path) -> None:
        self._jwks = json.dumps(public_jwks([load_private_jwk(folder / "auth.jwk")])).encode()

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """As in the protocol."""
        return Answer(200, JSON, self._jwks if service == "auth" else NOTHING)


class Fed(asyncio.DatagramProtocol):
    """Messages for the gateway's feed, as `user sequence`."""

    def __init__(self, app: FastAPI) -> None:
        self._take = app.state.live.take
        self._working: set[asyncio.Task[None]] = set()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """One message."""
        user_id, sequence = data.decode().split()
        now = utc_now()
        message = MessagePublished(
            event_id="e",
            occurred_at=now,
            user_id=user_id,
            message_id=f"m{sequence}",
            sequence=int(sequence),
            message_type="day.updated",
            message_time=now,
            trace_id=32 * "0",
            data={**DATA, "sent": time.time_ns()},
        )
        task = asyncio.get_running_loop().create_task(self._take(message))
        self._working.add(task)
        task.add_done_callback(self._working.discard)


def serve_gateway(folder: Path, port: int) -> None:
    """The gateway's process; fed at the same port over UDP."""
    settings = Settings(
        gateway_internal_key_path=folder / "internal.jwk",
        gateway_receipt_key_path=folder / "receipts.key",
        gateway_rate_stream="999999/1",
        objects_url=f"file:///{folder}",
        log_level="ERROR",
    )
    app = create_app(settings, Edges(make_broker(settings, "gateway"), Upstreams(folder), follows=False))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: Fed(app), local_addr=("127.0.0.1", port))
        await ServiceServer(server_config(app, "127.0.0.1", port, BoundedWebSocket), stop_event(app)).serve()

    uvloop.run(run())


class Reader(asyncio.Protocol):
    """One stream's client: notes how late each message is."""

    def __init__(self, request: bytes, late_ms: list[float]) -> None:
        self._request = request
        self._late_ms = late_ms
        self._tail = b""
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """A part of the stream."""
        now = time.time_ns()
        self._tail += data
        if not self.open.done() and b"\r\n\r\n" in self._tail:
            self.open.set_result(self._tail.split(None, 2)[1])
        place = 0
        for found in SENT.finditer(self._tail):
            self._late_ms.append((now - int(found[1])) / 1e6)
            place = found.end()
        self._tail = self._tail[place:]


def request_of(path: str, token: str) -> bytes:
    """The request of a stream or, where the path says so, of a WebSocket."""
    lines = [f"GET {path} HTTP/1.1", "Host: bench", f"Authorization: Bearer {token}"]
    if path.startswith("/v1/live/ws"):
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    return "\r\n".join([*lines, "", ""]).encode()


def free_port() -> int:
    """A port that is free for both TCP and UDP."""
    with socket.socket() as one, socket.socket(type=socket.SOCK_DGRAM) as other:
        one.bind(("127.0.0.1", 0))
        other.bind(one.getsockname())
        return one.getsockname()[1]


async def started(port: int) -> None:
    """Wait until the gateway listens."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the maximum, in ms."""
    ordered = sorted(values)
    places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * at))], 2) for name, at in places.items()}


async def fan_out(port: int, pid: int, path: str, count: int, token_of: dict[str, str]) -> dict[str, Any]:
    """The figures of `count` readers at `path`."""
    loop, late_ms = asyncio.get_running_loop(), list[float]()
    users = [f"usr_{number}" for number in range(count // MAX_READERS_PER_USER)]
    feed, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port))
    before = measure.resident_mib(pid)
    readers: list[Reader] = []
    transports: list[asyncio.BaseTransport] = []
    for place in range(len(users) * MAX_READERS_PER_USER):
        request = request_of(path, token_of[users[place % len(users)]])
        transport, reader = await loop.create_connection(lambda one=request: Reader(one, late_ms), "127.0.0.1", port)
        if await reader.open not in (b"200", b"101"):
            raise RuntimeError(f"reader {place} was refused")
        readers.append(reader)
        transports.append(transport)
    await asyncio.sleep(SETTLES_S)
    each_kib = (measure.resident_mib(pid) - before) * 1024 / len(readers)
    figures: dict[str, Any] = {"readers": len(readers), "kib_each": round(each_kib, 1)}
    sequence = 0
    for name, pause_s in (("at_once", 0.0), ("evenly", ROUND_S / len(users))):
        late_ms.clear()
        cpu, begun = measure.cpu_seconds(pid), time.perf_counter()
        for _ in range(ROUNDS):
            sequence += 1
            for user in users:
                feed.sendto(f"{user} {sequence}".encode())
                if pause_s:
                    await asyncio.sleep(pause_s)
            await until(late_ms, len(readers) * (sequence - (ROUNDS if pause_s else 0)))
        figures[name] = {
            "ms": percentiles(late_ms),
            "cpu_us_each": round((measure.cpu_seconds(pid) - cpu) * 1e6 / len(late_ms), 1),
            "messages_per_s": round(len(late_ms) / (time.perf_counter() - begun)),
        }
    for transport in transports:
        transport.abort()
    feed.close()
    return figures


async def until(late_ms: list[float], count: int) -> None:
    """Wait until so many messages have come."""
    async with asyncio.timeout(60):
        while len(late_ms) < count:  # noqa: ASYNC110 - two thousand readers fill it
            await asyncio.sleep(0.005)


async def measured(folder: Path) -> dict[str, Any]:
    """All figures."""
    generate_key_files(folder)
    key, settings = load_private_jwk(folder / "auth.jwk"), Settings()
    token_of = {
        f"usr_{number}": sign_access_token(
            key, issuer=settings.token_issuer, audience=settings.token_audience, user_id=f"usr_{number}", scopes=SCOPES
        )
        for number in range(STREAMS // MAX_READERS_PER_USER)
    }
    figures: dict[str, Any] = {}
    for name, path, count in (
        ("streams", "/v1/live?after=0", STREAMS),
        ("sockets", "/v1/live/ws?after=0", SOCKETS),
    ):
        port = free_port()
        process = multiprocessing.get_context("spawn").Process(target=serve_gateway, args=(folder, port), daemon=True)
        process.start()
        try:
            await started(port)
            figures[name] = await fan_out(port, process.pid or 0, path, count, token_of)
        finally:
            process.kill()
            process.join()
    return figures


def main() -> None:
    """Measure and report."""
    machine = measure.fingerprint()
    with tempfile.TemporaryDirectory(prefix="mymacro-live-") as folder:
        os.environ.setdefault("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        figures = uvloop.run(measured(Path(folder)))
    measure.report("live", figures, machine)


if __name__ == "__main__":
    main()
