"""How much of the machine the path leaves to its purpose: samples a second ÷ the smaller of two bare limits.

At batches of 1,000: the whole path against a bare producer that sends the same messages to the same broker, four at a
time with `acks=all`, and against a bare writer that stores the same buckets in the same engine, four at a time. Rounds
of the three alternate.
"""

import asyncio
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from benchmarks import measure
from benchmarks.ingest_load import CONNECTIONS, USERS, Stored, User, batch, heart_rates, introduce, pour, warm_up
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance
from services.gateway.batches import read_batch
from services.ingest.buckets import ROW, pack
from services.ingest.records import BUCKETS, Bucket
from shared.documents import Documents, open_documents

SIZE = 1_000
POSTS = 1_200
ROUNDS = 3
WARM_UP_SECONDS = 45.0
TARGET = 0.5
TOPIC = "benchmarks.batches.v1"


async def through_the_path(port: int, stored: Stored, users: list[User]) -> float:
    """Samples stored a second, all services at work."""
    requests = [batch(users[turn % len(users)], SIZE) for turn in range(POSTS)]
    already, begun = stored.samples, time.monotonic()
    await pour(port, requests)
    return POSTS * SIZE / (await stored.until(already + POSTS * SIZE) - begun)


def message() -> bytes:
    """A batch as the gateway publishes it."""
    body = heart_rates(User("bench", ""), SIZE)
    submitted = read_batch(body, user_id="bench", receipt_id="rcp", event_id="event", occurred_at=datetime.now(UTC))
    return msgspec.msgpack.encode(submitted)


async def raw_produce(producer: AIOKafkaProducer, value: bytes) -> float:
    """Samples a second that a bare producer gets acknowledged."""
    left = iter(range(POSTS))

    async def send() -> None:
        for _ in left:
            await producer.send_and_wait(TOPIC, value)

    begun = time.monotonic()
    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    return POSTS * SIZE / (time.monotonic() - begun)


async def raw_upsert(documents: Documents, run: int) -> float:
    """Samples a second that a bare writer stores: each batch makes its user's newest hour longer, as in the path."""
    rows = np.zeros(3_600, ROW)
    rows["start"] = np.arange(3_600) * 1_000_000
    rows["value"] = np.arange(3_600) % 40 + 60
    rows["id_hi"] = np.arange(3_600) * 7_919
    # 1,000, 2,000, 3,000 and then all 3,600 rows of an hour, which is what a batch a turn makes of a bucket.
    grown = [pack(rows[:count]) for count in (1_000, 2_000, 3_000, 3_600)]
    left = iter(range(POSTS))

    async def write() -> None:
        for turn in left:
            user, stage, hour = turn % USERS, turn // USERS % 4, turn // USERS // 4
            id = f"{run}/{user}/heart_rate/{hour}/watch"
            held = await documents.get(BUCKETS, id)
            bucket = held or Bucket(
                id=id,
                user_id=f"{run}/{user}",
                metric="heart_rate",
                device_id="watch",
                device_kind="watch",
                hour=hour,
                columns=grown[0],
            )
            await documents.put(BUCKETS, replace(bucket, columns=grown[stage]))

    begun = time.monotonic()
    await asyncio.gather(*(write() for _ in range(CONNECTIONS)))
    return POSTS * SIZE / (time.monotonic() - begun)


async def measure_efficiency(instance: Instance, folder: Path) -> dict[str, Any]:
    """Rounds of the three, alternating."""
    stored, producer = (
        Stored(instance.bootstrap_servers),
        AIOKafkaProducer(bootstrap_servers=instance.bootstrap_servers, acks="all"),
    )
    documents = open_documents(f"sqlite:///{folder}", "bench")
    await stored.start()
    await producer.start()
    await documents.open([BUCKETS])
    users, value, runs = await introduce(instance, USERS), message(), iter(range(ROUNDS + 1))
    port = instance.settings.gateway_port
    await warm_up(port, stored, users, WARM_UP_SECONDS)
    found: dict[str, Any] = await measure.interleaved(
        ROUNDS,
        {
            "path": lambda: through_the_path(port, stored, users),
            "raw_produce": lambda: raw_produce(producer, value),
            "raw_upsert": lambda: raw_upsert(documents, next(runs)),
        },
    )
    await documents.close()
    await producer.stop()
    await stored.stop()
    limit = min(found["raw_produce"]["median"], found["raw_upsert"]["median"])
    return {f"{name}_per_second": spread for name, spread in found.items()} | {
        "ratio": round(found["path"]["median"] / limit, 2),
        "target_ratio": TARGET,
    }


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack(topics=[TOPIC]) as instance:
        folder = Path(tempfile.mkdtemp(dir=instance.data))
        try:
            figures = asyncio.run(measure_efficiency(instance, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    measure.report("ingest_efficiency", figures, machine)


if __name__ == "__main__":
    main()
