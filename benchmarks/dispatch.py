"""What delivering costs: signed, persisted deliveries against a bare aiohttp POST loop, and how soon a first try comes.

The receiver is a process of its own. `ratio`: CPU seconds of a bare POST by those of a delivery that was claimed,
checked, signed, sent and stored, both on uvloop and with the garbage collection of services. Then 500 messages a second
to 100 endpoints, from the message to the receiver, without and with ten endpoints that never answer; receiver and
sender share the machine.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks import measure
from services.webhooks.destinations import rules
from services.webhooks.egress import Egress
from services.webhooks.health import Health
from services.webhooks.keys import EndpointKeys
from services.webhooks.public import PublicData, PublicMessage
from services.webhooks.records import COLLECTIONS, DELIVERIES, ENDPOINTS, GRANTS, Delivery, Endpoint, Grant
from services.webhooks.sending import Sender
from services.webhooks.store import Store
from services.webhooks.workers import Dispatcher
from shared.clock import utc_now
from shared.documents import Documents, open_documents
from shared.keys import generate_key_files
from shared.secrets import Secrets, open_secrets
from shared.service import settle
from shared.settings import ServiceSettings

AT_ONCE = 4000
CONCURRENCY = 64
ROUNDS = 5
ENDPOINTS_COUNT, DEAD = 100, 10
PER_SECOND, SECONDS = 500, 10
# Often enough for the end to be seen soon, seldom enough to cost less than 1 % of what is measured.
LOOK_EVERY_S, SETTLES_S = 0.25, 120
BODY = b'{"type":"day.updated","timestamp":"2026-03-01T08:00:00.000Z","data":{"user_id":"u"}}'
TARGETS = {"ratio": 0.35, "first_try_p50_ms": 250, "first_try_p99_ms": 2000, "p99_moved_by_dead": 0.10}


@dataclass
class World:
    """A database, what sends from it, and the receiver."""

    documents: Documents
    store: Store
    egress: Egress
    dispatcher: Dispatcher
    keys: EndpointKeys
    url: str

    async def endpoint(self, name: str, path: str = "/hook") -> Endpoint:
        """An endpoint of a partner of its own, and the grant of a user of its own."""
        now = utc_now()
        key = self.keys.new("hmac", name, name, now)
        endpoint = Endpoint(
            id=name,
            partner_id=name,
            url=self.url + path,
            event_types=(),
            keys=(key,),
            request_hash="",
            created_at=now,
        )
        scopes = ("days:read",)
        grant = Grant(id=name, user_id=name, partner_id=name, scopes=scopes, revision=1, since=now, live=True)
        await self.documents.put(GRANTS, grant)
        return await self.documents.put(ENDPOINTS, endpoint)

    async def ended(self, names: list[str], count: int) -> None:
        """Wait until so many deliveries of these endpoints have arrived."""
        async with asyncio.timeout(SETTLES_S):
            while True:
                found = [await self.documents.count(DELIVERIES, "state", (name, "delivered")) for name in names]
                if sum(found) >= count:
                    return
                await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def world(folder: Path, url: str) -> AsyncGenerator[World]:
    """A fresh database in `folder`."""
    generate_key_files(folder)
    secrets: Secrets = open_secrets(ServiceSettings(secrets_key_path=folder / "secrets.key"))
    documents = open_documents(f"sqlite:///{folder}", "webhooks")
    await documents.open(COLLECTIONS)
    store, keys = Store(documents, utc_now), EndpointKeys(secrets)
    egress = Egress(rules("127.0.0.0/8", http=True, ports="*", own_hosts=""), connections=256)
    await egress.open()
    sender = Sender(store, egress, keys, utc_now)
    health = Health(documents, store, utc_now)
    dispatcher = Dispatcher(store.queue, store.endpoint, sender, health, utc_now, concurrency=256)
    try:
        yield World(documents, store, egress, dispatcher, keys, url)
    finally:
        await egress.close()
        await documents.close()


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncGenerator[None]:
    """Send while this lasts."""
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ours(url: str) -> float:
    """CPU microseconds of one delivery."""
    with tempfile.TemporaryDirectory() as folder:
        async with world(Path(folder), url) as one:
            names = [f"e{number}" for number in range(20)]
            for name in names:
                await one.endpoint(name)
            now = utc_now()
            await asyncio.gather(*(one.store.queue.add([waiting(names[n % 20], n, now)]) for n in range(AT_ONCE)))
            before = measure.cpu_seconds(os.getpid())
            async with running(one.dispatcher):
                await one.ended(names, AT_ONCE)
            return (measure.cpu_seconds(os.getpid()) - before) / AT_ONCE * 1e6


def waiting(name: str, number: int, now: datetime) -> Delivery:
    """A delivery that is due."""
    return Delivery(
        id=f"d{number}",
        endpoint_id=name,
        partner_id=name,
        user_id=name,
        message_id=f"m{number}",
        message_type="day.updated",
        created_at=now,
        body=BODY,
        due_at=now,
        sequence=number,
    )


async def bare(url: str) -> float:
    """CPU microseconds of one POST of the same body and as many headers."""
    headers = {
        "content-type": "application/json",
        "webhook-id": "m",
        "webhook-timestamp": "1",
        "webhook-signature": "v",
    }
    left = iter(range(AT_ONCE))

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{url}/hook", data=BODY, headers=headers) as answer:
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:
        before = measure.cpu_seconds(os.getpid())
        await asyncio.gather(*(post(session) for _ in range(CONCURRENCY)))
        return (measure.cpu_seconds(os.getpid()) - before) / AT_ONCE * 1e6


async def first_tries(url: str, dead: int) -> list[float]:
    """Milliseconds from each message to the receiver, of the endpoints that are not dead, ascending."""
    with tempfile.TemporaryDirectory() as folder:
        async with world(Path(folder), url) as one, aiohttp.ClientSession() as session:
            for number in range(ENDPOINTS_COUNT):
                await one.endpoint(f"e{number}", "/hang" if number < dead else "/hook")
            (await session.get(f"{url}/times")).close()
            told: dict[str, float] = {}
            async with running(one.dispatcher):
                await produce(one, told)
                living = [f"e{number}" for number in range(dead, ENDPOINTS_COUNT)]
                await one.ended(living, PER_SECOND * SECONDS * len(living) // ENDPOINTS_COUNT)
                async with session.get(f"{url}/times") as answer:
                    came: dict[str, float] = await answer.json()
            return sorted((at - told[message_id]) * 1000 for message_id, at in came.items() if message_id in told)


async def produce(one: World, told: dict[str, float]) -> None:
    """Tell messages of all users in turn, at an even pace, as the service's handlers do."""
    begun = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()

    async def tell(number: int) -> None:
        user = f"e{number % ENDPOINTS_COUNT}"
        message_id = f"{user}-{number}"
        told[message_id] = time.monotonic()
        data = PublicData(user_id=user, link="/v1/days/2026-03-01")
        public = PublicMessage(message_id, "day.updated", utc_now(), user, data)
        await one.store.fan_out(await one.store.number([(public, None)]))

    for number in range(PER_SECOND * SECONDS):
        await asyncio.sleep(max(0.0, begun + number / PER_SECOND - time.monotonic()))
        tasks.add(task := asyncio.create_task(tell(number)))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


def at(values: list[float], share: float) -> float:
    """The value that `share` of all stay below."""
    return round(values[min(len(values) - 1, int(len(values) * share))], 1)


async def measured(url: str) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = await measure.interleaved(
        ROUNDS, {"delivery_cpu_us": lambda: ours(url), "bare_post_cpu_us": lambda: bare(url)}
    )
    delivery, post = (found[name]["median"] for name in ("delivery_cpu_us", "bare_post_cpu_us"))
    alone, among_dead, middle = list[float](), list[float](), list[float]()
    for _ in range(3):
        quiet = await first_tries(url, 0)
        middle.append(at(quiet, 0.5))
        alone.append(at(quiet, 0.99))
        among_dead.append(at(await first_tries(url, DEAD), 0.99))
    moved = statistics.median(among_dead) / statistics.median(alone) - 1
    return found | {
        "ratio": round(post / delivery, 3),
        "deliveries_per_core_second": round(1e6 / delivery),
        "first_try_p50_ms": statistics.median(middle),
        "first_try_p99_ms": statistics.median(alone),
        "first_try_p99_ms_with_10_dead": statistics.median(among_dead),
        "p99_moved_by_dead": round(moved, 3),
        "targets": TARGETS,
    }


def main() -> None:
    """Measure with a receiver of its own."""
    machine = measure.fingerprint()
    settle()
    receiver = subprocess.Popen([sys.executable, "-m", "benchmarks.hook_receiver"], stdout=subprocess.PIPE, text=True)
    try:
        port = int((receiver.stdout or sys.stdin).readline())
        figures = uvloop.run(measured(f"http://127.0.0.1:{port}"))
    finally:
        receiver.kill()
    measure.report("dispatch", figures, machine)


if __name__ == "__main__":
    main()
