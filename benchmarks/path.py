"""How long a batch takes, idle: POST answered → receipt `stored`, and → `day.updated` at the partner's receiver.

The limit is a bare produce → consume on the same broker, taken between the posts. Each post goes to a day of its own,
so no recomputation waits for an earlier one.
"""

import asyncio
import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import measure
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance
from infra.local.phone import Phone
from infra.local.receiver import Receiver

POSTS = 60
WARM_UP = 10
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
        "POST", "/v1/webhook-endpoints", key=str(uuid4()), token=partner_key, body={"url": receiver.url}
    )
    receiver.secret = endpoint.body["secret"]
    grant = {"partner_id": "demo-partner", "scopes": ["samples:read", "days:read"]}
    await phone.send("POST", "/v1/grants", key=str(uuid4()), body=grant)
    return user.body["user_id"]


async def one_post(phone: Phone, receiver: Receiver, user_id: str, date: datetime) -> tuple[float, float, float]:
    """Seconds of the POST itself, from its answer to `stored`, and from its answer to the webhook."""
    asked = time.monotonic()
    answer = await phone.send("POST", "/v1/batches", key=str(uuid4()), body=small_batch(date))
    answered = time.monotonic()
    path = f"/v1/receipts/{answer.body['receipt_id']}"
    await phone.poll(path, lambda body: body["state"] == "stored", every=0.0005)
    stored = time.monotonic()
    delivered = await receiver.wait_for("day.updated", user_id, deadline=answered + 30, date=date.date().isoformat())
    return answered - asked, stored - answered, delivered.at - answered


async def measure_path(instance: Instance) -> dict[str, Any]:
    """The medians, and their ratios to the raw path of the same run."""
    raw = RawPath(instance.bootstrap_servers)
    await raw.start()
    figures: dict[str, list[float]] = {"post": [], "stored": [], "webhook": [], "raw": []}
    receiver = Receiver(0)
    await receiver.start()
    partner_key = (instance.keys / "demo-partner.key").read_text().strip()
    async with aiohttp.ClientSession() as session:
        phone = Phone(instance.url, session, time.monotonic() + PATIENCE_SECONDS)
        user_id = await introduce(phone, receiver, partner_key)
        # The broker's JVM compiles its hot paths first; the services' own first batches are thrown away below.
        await raw.warm_up(WARM_UP_SECONDS)
        newest = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
        for turn in range(WARM_UP + POSTS):
            await asyncio.sleep(random.uniform(*GAP_SECONDS))
            date = newest - timedelta(days=turn + 1)
            post, stored, webhook = await one_post(phone, receiver, user_id, date)
            await asyncio.sleep(random.uniform(0.05, 0.1))
            seconds = await raw.seconds()
            if turn >= WARM_UP:
                for name, value in zip(figures, (post, stored, webhook, seconds), strict=True):
                    figures[name].append(value * 1000)
    await receiver.stop()
    await raw.stop()
    summary: dict[str, Any] = {f"{name}_ms": measure.spread(values) for name, values in figures.items()}
    limit = summary["raw_ms"]["median"]
    summary["stored_ratio"] = round(summary["stored_ms"]["median"] / limit, 2)
    summary["webhook_ratio"] = round(summary["webhook_ms"]["median"] / limit, 2)
    summary["targets"] = {"stored_ratio": STORED_TARGET, "webhook_ratio": WEBHOOK_TARGET}
    return summary


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack(topics=[PROBE_TOPIC]) as instance:
        figures = asyncio.run(measure_path(instance))
    measure.report("path", figures, machine)


if __name__ == "__main__":
    main()
