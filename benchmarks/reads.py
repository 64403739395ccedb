"""What reading costs: 90 days of days, 2,880 points and a day's explanation, against a bare read of the same buckets.

One user has 129,600 heart rates (one a minute for 90 days) and 9,700 step samples. The limit reads the same buckets
from the same database file in this process and unpacks them. Then the same with a hundred times the users, whose data
lies between: the time must not grow with them.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from benchmarks import measure
from benchmarks.ingest_load import Stored, User, introduce, pour, request
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance
from services.ingest.buckets import unpack
from services.ingest.records import BUCKETS, COLLECTIONS, DIRTY_DAYS
from shared.documents import Documents, open_documents
from shared.jobs import DUE_INDEX

DAYS, USERS = 90, 100
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
LAST_DAY = FIRST_DAY + timedelta(days=DAYS - 1)
HEART_RATES, STEPS = 129_600, 9_700
BATCH = 5_000
ROUNDS = 60
TARGETS = {"ninety_days_ratio": 3.0, "points_ratio": 3.0, "explain_ms": 20.0, "ninety_days_ms": 15.0}
SETTLES_SECONDS = 900


def history(user: User) -> list[bytes]:
    """The user's 90 days as requests: a heart rate each minute, and steps of five minutes' length, 108 a day or so."""
    rates = [
        f'{{"metric":"heart_rate","start":"{FIRST_DAY + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%S}+00:00",'
        f'"value":{60 + minute % 40}}}'
        for minute in range(HEART_RATES)
    ]
    steps: list[str] = []
    for place in range(STEPS):
        day, of_day = divmod(place * DAYS, STEPS)
        start = FIRST_DAY + timedelta(days=day, hours=6, minutes=5 * (of_day // DAYS))
        end = start + timedelta(minutes=5)
        times = f'"start":"{start:%Y-%m-%dT%H:%M:%S}+00:00","end":"{end:%Y-%m-%dT%H:%M:%S}+00:00"'
        steps.append(f'{{"metric":"steps",{times},"value":{place % 300}}}')
    head = '{"device":{"id":"watch","kind":"watch"},"app":"bench/1","samples":['
    samples = rates + steps
    return [
        request(user, f"{head}{','.join(samples[first : first + BATCH])}]}}".encode())
        for first in range(0, len(samples), BATCH)
    ]


@dataclass(frozen=True)
class Reader:
    """One user's reads, through the gateway and bare."""

    url: str
    session: aiohttp.ClientSession
    documents: Documents
    user: User

    async def ours(self, path: str, **query: str) -> float:
        """Milliseconds until the whole answer is here."""
        headers = {"Authorization": f"Bearer {self.user.token}"}
        begun = time.perf_counter()
        async with self.session.get(self.url + path, params=query, headers=headers) as answer:
            await answer.read()
            answer.raise_for_status()
        return (time.perf_counter() - begun) * 1000

    async def bare(self, metrics: tuple[str, ...], first: datetime, last: datetime) -> float:
        """Milliseconds to read and unpack the buckets of these times."""
        hours = [int(at.timestamp()) // 3600 for at in (first, last)]
        begun = time.perf_counter()
        for metric in metrics:
            cursor: str | None = None
            while True:
                page = await self.documents.find(
                    BUCKETS,
                    "user_metric_hour",
                    (self.user.id, metric),
                    at_least=hours[0],
                    below=hours[1],
                    limit=500,
                    cursor=cursor,
                )
                for bucket in page.documents:
                    unpack(bucket.columns)
                if (cursor := page.cursor) is None:
                    break
        return (time.perf_counter() - begun) * 1000


async def seed(instance: Instance, stored: Stored, documents: Documents, count: int) -> list[User]:
    """So many users with 90 days each; returns when all their days are computed."""
    users = await introduce(instance, count)
    already = stored.samples
    for user in users:
        await pour(instance.settings.gateway_port, history(user))
    await stored.until(already + count * (HEART_RATES + STEPS), patience=SETTLES_SECONDS)
    async with asyncio.timeout(SETTLES_SECONDS):
        while await documents.count(DIRTY_DAYS, DUE_INDEX.name):  # noqa: ASYNC110 - another process computes them
            await asyncio.sleep(1)
    return users


async def rounds(reader: Reader) -> dict[str, Any]:
    """Each read and its limit, alternating."""
    end = LAST_DAY + timedelta(days=1)
    two_days = {"metric": "heart_rate", "from": (end - timedelta(days=2)).isoformat(), "to": end.isoformat()}
    whole = {"from": FIRST_DAY.date().isoformat(), "to": LAST_DAY.date().isoformat()}
    found = await measure.interleaved(
        ROUNDS,
        {
            "ninety_days_ms": lambda: reader.ours("/v1/days", **whole),
            "ninety_days_bare_ms": lambda: reader.bare(("heart_rate", "steps"), FIRST_DAY, end),
            "points_ms": lambda: reader.ours("/v1/timeseries", **two_days, resolution="raw", limit="2880"),
            "points_bare_ms": lambda: reader.bare(("heart_rate",), end - timedelta(days=2), end),
            "explain_ms": lambda: reader.ours(f"/v1/days/{LAST_DAY.date()}/explain"),
        },
    )
    ratios = {
        f"{name}_ratio": round(found[f"{name}_ms"]["median"] / found[f"{name}_bare_ms"]["median"], 2)
        for name in ("ninety_days", "points")
    }
    return found | ratios


async def measure_reads(instance: Instance) -> dict[str, Any]:
    """One user alone, then among a hundred."""
    stored = Stored(instance.bootstrap_servers)
    documents = open_documents(f"sqlite:///{instance.data / 'db'}", "ingest")
    await stored.start()
    await documents.open(COLLECTIONS)
    try:
        async with aiohttp.ClientSession() as session:
            (alone,) = await seed(instance, stored, documents, 1)
            found: dict[str, Any] = {"alone": await rounds(Reader(instance.url, session, documents, alone))}
            users = await seed(instance, stored, documents, USERS - 1)
            # A fresh token, and a user whose buckets lie between those of others.
            found["among_100"] = await rounds(Reader(instance.url, session, documents, users[len(users) // 2]))
    finally:
        await documents.close()
        await stored.stop()
    return found | {"targets": TARGETS}


def main() -> None:
    """Measure on a stack of its own."""
    machine = measure.fingerprint()
    with fresh_stack() as instance:
        figures = asyncio.run(measure_reads(instance))
    measure.report("reads", figures, machine)


if __name__ == "__main__":
    main()
