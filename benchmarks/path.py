"""How long a batch takes, idle: POST answered → receipt `stored`, and → `day.updated` at the partner's receiver.

`stored` is taken from the event that ingest publishes after the durable write, so no poll competes for the two cores;
every second post is instead polled through the gateway every 2 ms, as a client without live messages would (`polled`).

The limit is a bare produce → consume on the same broker, taken between the posts. Each post goes to a day of its own,
so no recomputation waits for an earlier one.
"""

import asyncio
import random
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import measure
from benchmarks.ingest_load import Stored
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance
from infra.local.phone import Phone
from infra.local.receiver import Receiver

POSTS = 120
WARM_UP = 20
WARM_UP_SECONDS = 20.0
GAP_SECONDS = (0.5, 1.0)
PATIENCE_SECONDS = 300
STORED_TARGET, WEBHOOK_TARGET = 5.0, 15.0
PROBE_TOPIC = "benchmarks.probes.v1"


class RawPath:
    """A bare producer and consumer on a topic with one partition."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)

    async def start(self) -> None:
        """Connect, and know the position before anything is sent."""
        await self._producer.start()
        await self._consumer.start()
        partition = TopicPartition(PROBE_TOPIC, 0)
        self._consumer.assign([partition])
        await self._consumer.seek_to_end(partition)
        await self._consumer.position(partition)

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()
        await self._consumer.stop()

    async def warm_up(self, seconds: float) -> None:
        """Send and receive without a pause."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self.seconds()

    async def seconds(self) -> float:
        """From just before the send until the consumer has the record."""
        received = asyncio.create_task(self._consumer.getone())
        await asyncio.sleep(0)
        started = time.perf_counter()
        await self._producer.send_and_wait(PROBE_TOPIC, b"x" * 300, partition=0)
        await received
        return time.perf_counter() - started


def small_batch(start: datetime) -> dict[str, Any]:
    """Ten minutes of heart rate and steps."""
    samples: list[dict[str, Any]] = []
    for minute in range(10):
        begin = start + timedelta(minutes=minute)
        end = begin + timedelta(minutes=1)
        samples.append({"metric": "heart_rate", "start": begin.isoformat(), "value": 60 + minute})
        samples.append({"metric": "steps", "start": begin.isoformat(), "end": end.isoformat(), "value": 40})
    return {"device": {"id": "watch", "kind": "watch"}, "app": "bench/1", "zone": "UTC", "samples": samples}


async def introduce(phone: Phone, receiver: Receiver, partner_key: str) -> str:
    """A user, signed in, who granted the partner its scopes; returns the user's id."""
    account = {"email": f"bench-{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(24)}
    user = await phone.send("POST", "/v1/users", key=str(uuid4()), body=account)
    phone.token = (await phone.send("POST", "/v1/tokens", body=account)).body["access_token"]
    endpoint = await phone.send(
        "POST",
        "/v1/webhook-endpoints",
        key=str(uuid4()),
        token=partner_key,
        body={"url": receiver.url, "payload": "full"},
    )
    receiver.secret = endpoint.body["secret"]
    grant = {"partner_id": "demo-partner", "scopes": ["days:read"]}
    await phone.send("POST", "/v1/grants", key=str(uuid4()), body=grant)
    return user.body["user_id"]


@dataclass(frozen=True)
class Bench:
    """What each post needs."""

    phone: Phone
    receiver: Receiver
    receipts: Stored
    user_id: str

    async def post(self, date: datetime, *, polled: bool) -> dict[str, float]:
        """Milliseconds of the POST itself, from its answer to `stored`, and from its answer to the webhook."""
        asked = time.monotonic()
        answer = await self.phone.send("POST", "/v1/batches", key=str(uuid4()), body=small_batch(date))
        answered = time.monotonic()
        receipt_id = answer.body["receipt_id"]
        if polled:
            await self.phone.poll(f"/v1/receipts/{receipt_id}", lambda body: body["state"] == "stored", every=0.002)
            stored = time.monotonic()
        else:
            stored = await self.receipts.told(receipt_id)
        delivered = await self.receiver.wait_for(
            "day.updated", self.user_id, deadline=answered + 30, date=date.date().isoformat()
        )
        found = {"post": answered - asked, "polled" if polled else "stored": stored - answered}
        if not polled:
            found["webhook"] = delivered.at - answered
        return {name: seconds * 1000 for name, seconds in found.items()}


async def measure_path(instance: Instance) -> dict[str, Any]:
    """The medians, and their ratios to the raw path of the same run."""
    raw, receipts, receiver = RawPath(instance.bootstrap_servers), Stored(instance.bootstrap_servers), Receiver(0)
    await raw.start()
    await receipts.start()
    await receiver.start()
    partner_key = (instance.keys / "demo-partner.key").read_text().strip()
    figures: dict[str, list[float]] = {name: [] for name in ("raw", "post", "stored", "polled", "webhook")}
    async with aiohttp.ClientSession() as session:
        phone = Phone(instance.url, session, time.monotonic() + PATIENCE_SECONDS)
        bench = Bench(phone, receiver, receipts, await introduce(phone, receiver, partner_key))
        # The broker's JVM compiles its hot paths first; the services' own first batches are thrown away below.
        await raw.warm_up(WARM_UP_SECONDS)
        newest = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
        for turn in range(WARM_UP + POSTS):
            await asyncio.sleep(random.uniform(*GAP_SECONDS))
            found = await bench.post(newest - timedelta(days=turn + 1), polled=turn % 2 == 1)
            await asyncio.sleep(random.uniform(*GAP_SECONDS) / 2)
            found["raw"] = await raw.seconds() * 1000
            if turn >= WARM_UP:
                for name, value in found.items():
                    figures[name].append(value)
    await receiver.stop()
    await receipts.stop()
    await raw.stop()
    return summary(figures)


def summary(figures: dict[str, list[float]]) -> dict[str, Any]:
    """Spreads in ms, and the ratios of the medians to the raw one."""
    found: dict[str, Any] = {f"{name}_ms": measure.spread(values) for name, values in figures.items()}
    limit = found["raw_ms"]["median"]
    for name in ("stored", "polled", "webhook"):
        found[f"{name}_ratio"] = round(found[f"{name}_ms"]["median"] / limit, 2)
    return found | {"targets": {"stored_ratio": STORED_TARGET, "webhook_ratio": WEBHOOK_TARGET}}


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack(topics=[PROBE_TOPIC]) as instance:
        figures = asyncio.run(measure_path(instance))
    measure.report("path", figures, machine)


if __name__ == "__main__":
    main()
