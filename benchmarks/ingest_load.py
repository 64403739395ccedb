"""Load for ingest: users whose devices sent a heart rate a second, bodies made before the clock starts, cheap sending.

The client shares the two cores with the stack, so it speaks HTTP by hand and parses nothing but the status line.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.local import control, processes
from infra.local.instance import Instance
from infra.local.phone import Phone
from shared import topics
from shared.events.ingest import ReceiptsCompleted

CONNECTIONS = 4
USERS = 12
FIRST_SECOND = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_SECONDS = 180
BACK_OFF_SECONDS = 0.2


@dataclass
class User:
    """A signed-in user and the time its device has sent up to."""

    id: str
    token: str
    sent_until: datetime = FIRST_SECOND


async def introduce(instance: Instance, count: int) -> list[User]:
    """So many new users, signed in."""
    users: list[User] = []
    async with aiohttp.ClientSession() as session:
        phone = Phone(instance.url, session, time.monotonic() + PATIENCE_SECONDS)
        for _ in range(count):
            account = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(24)}
            user = await phone.send("POST", "/v1/users", key=str(uuid4()), body=account)
            tokens = await phone.send("POST", "/v1/tokens", body=account)
            users.append(User(user.body["user_id"], tokens.body["access_token"]))
    return users


def batch(user: User, size: int) -> bytes:
    """The user's next `size` heart rates as a whole POST request."""
    return request(user, heart_rates(user, size))


def heart_rates(user: User, size: int, *, step: timedelta = timedelta(seconds=1)) -> bytes:
    """The user's next `size` heart rates as a batch; each sample has an id, as phones send them."""
    start = user.sent_until
    user.sent_until += step * size
    run = secrets.token_hex(10)
    samples = ",".join(
        f'{{"metric":"heart_rate","start":"{start + step * place:%Y-%m-%dT%H:%M:%S}+00:00","value":{60 + place % 40},'
        f'"id":"{run[:8]}-{run[8:12]}-{run[12:16]}-{run[16:20]}-{place:012x}"}}'
        for place in range(size)
    )
    return f'{{"device":{{"id":"watch","kind":"watch"}},"app":"bench/1","samples":[{samples}]}}'.encode()


def headers(user: User) -> dict[str, str]:
    """What a POST /v1/batches needs; the key is a fresh one."""
    return {
        "Authorization": f"Bearer {user.token}",
        "Idempotency-Key": str(uuid4()),
        "Content-Type": "application/json",
    }


def request(user: User, body: bytes) -> bytes:
    """POST /v1/batches as it goes over the wire."""
    lines = [f"{name}: {value}" for name, value in headers(user).items()]
    head = ["POST /v1/batches HTTP/1.1", "Host: bench", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


@dataclass
class Poured:
    """What the gateway answered: seconds of each POST, and how often it said 503."""

    seconds: list[float] = field(default_factory=list[float])
    refused: int = 0


async def pour(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int = CONNECTIONS,
    every: float = 0.0,
    poured: Poured | None = None,
    others: Sequence[int] = (),
) -> Poured:
    """Send the requests over so many connections, one after the other each, or one each `every` seconds in all.

    `poured` fills while it runs, for those who watch; `others`: ports of further gateways, taken in turn.
    """
    poured, begun, ports = poured or Poured(), time.monotonic(), (port, *others)
    queue = iter(enumerate(requests))
    await asyncio.gather(
        *(_connection(ports[place % len(ports)], queue, poured, begun, every) for place in range(connections))
    )
    return poured


async def _connection(
    port: int, queue: Iterator[tuple[int, bytes]], poured: Poured, begun: float, every: float
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for place, sent in queue:
            if (early := begun + place * every - time.monotonic()) > 0:
                await asyncio.sleep(early)
            while True:
                started = time.monotonic()
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                answer = await reader.readexactly(int(length.split(b":")[1]))
                if head.startswith(b"HTTP/1.1 202"):
                    poured.seconds.append(time.monotonic() - started)
                    break
                if not head.startswith(b"HTTP/1.1 503"):
                    raise RuntimeError(answer.decode(errors="replace")[:300])
                poured.refused += 1
                await asyncio.sleep(BACK_OFF_SECONDS)
    finally:
        writer.close()


class Stored:
    """Counts what ingest says it stored, from the events behind its durable writes."""

    def __init__(self, bootstrap: str) -> None:
        self.samples = 0
        self.completed: dict[str, float] = {}
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read `ingest.receipts.v1` from its end on."""
        await self._consumer.start()
        partitions = [TopicPartition(topics.RECEIPTS.name, number) for number in range(topics.RECEIPTS.partitions)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
        await self._consumer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            at = time.monotonic()
            for receipt in ReceiptsCompleted.model_validate_json(record.value or b"").receipts:
                if receipt.receipt_id not in self.completed:
                    self.completed[receipt.receipt_id] = at
                    self.samples += receipt.stored
            self._news.set()

    async def until(self, samples: int, *, patience: float = PATIENCE_SECONDS) -> float:
        """When so many were stored. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while self.samples < samples:
                self._news.clear()
                await self._news.wait()
        return time.monotonic()

    async def told(self, receipt_id: str, *, patience: float = 60) -> float:
        """When the receipt's event came. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while receipt_id not in self.completed:
                self._news.clear()
                await self._news.wait()
        return self.completed[receipt_id]


async def warm_up(port: int, stored: Stored, users: Sequence[User], seconds: float) -> None:
    """Small batches until the broker's JVM has compiled what it runs; with all services beside it that takes 45 s."""
    already, sent, until = stored.samples, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        requests = [batch(user, 100) for user in users for _ in range(20)]
        await pour(port, requests)
        sent += 100 * len(requests)
    await stored.until(already + sent)


def pids(instance: Instance) -> dict[str, list[int]]:
    """The processes of the stack by part, children included; the client is not among them."""
    state = control.state(instance)
    if state is None:
        raise RuntimeError("the stack does not run")
    groups = {name: processes.group(state.pid(name)) for name in state.processes}
    return groups | {"supervisor": [state.supervisor]}


def bytes_written(pid: int) -> int:
    """Bytes the process caused to be written to disk so far."""
    with open(f"/proc/{pid}/io", encoding="ascii") as lines:
        fields: dict[str, Any] = dict(line.split(": ") for line in lines)
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def receipt_of(answer: bytes) -> str:
    """The receipt's id in the answer to a POST."""
    return str(json.loads(answer)["receipt_id"])


def counted(lines: str) -> int:
    """The samples behind the windows of an NDJSON answer of /v1/timeseries."""
    return sum(json.loads(line)["count"] for line in lines.splitlines() if line)
