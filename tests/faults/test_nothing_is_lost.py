"""kill -9 in mid-load: what was answered 202, and written down here, is stored once, without a human."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.local.phone import Phone
from tests.client import signed_in
from tests.polling import eventually
from tests.running_stack import Stack, running_stack

BATCHES = 200
SAMPLES = 30
STEPS_A_DAY = 20 * SAMPLES * 10
MORNING = datetime(2026, 3, 1, 6, tzinfo=UTC)


@dataclass
class Accepted:
    """What the API answered 202 to, written down outside the system: receipt id by batch number."""

    file: Path
    receipts: dict[int, str] = field(default_factory=dict[int, str])

    def note(self, number: int, receipt_id: str) -> None:
        with self.file.open("a") as ledger:
            ledger.write(f"{number} {receipt_id}\n")
        self.receipts[number] = receipt_id


def batch(number: int) -> dict[str, Any]:
    """Thirty minutes of steps, ten in each; no two batches share a minute."""
    start = MORNING + timedelta(days=-(number // 20), minutes=number % 20 * SAMPLES)
    samples: list[dict[str, Any]] = []
    for minute in range(SAMPLES):
        begin = start + timedelta(minutes=minute)
        end = begin + timedelta(minutes=1)
        samples.append({"metric": "steps", "start": begin.isoformat(), "end": end.isoformat(), "value": 10})
    return {"device": {"id": "watch", "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": samples}


async def send_all(phone: Phone, accepted: Accepted) -> None:
    waiting = iter(range(BATCHES))

    async def sender() -> None:
        for number in waiting:
            answer = await phone.send("POST", "/v1/batches", key=f"batch-{number}", body=batch(number))
            accepted.note(number, answer.body["receipt_id"])

    await asyncio.gather(*(sender() for _ in range(8)))


async def everything_is_stored_once(phone: Phone, accepted: Accepted) -> None:
    assert len(accepted.receipts) == BATCHES
    for receipt_id in accepted.receipts.values():
        answer = await phone.poll(f"/v1/receipts/{receipt_id}", lambda body: body["state"] != "queued")
        assert answer.body["state"] == "stored"
        assert answer.body["stored"] + answer.body["duplicates"] == SAMPLES
    for day in range(BATCHES // 20):
        date = (MORNING - timedelta(days=day)).date().isoformat()
        found = await phone.poll(f"/v1/days/{date}", lambda body: body["metrics"]["steps"]["sum"] >= STEPS_A_DAY)
        assert found.body["metrics"]["steps"]["sum"] == STEPS_A_DAY
        assert found.body["metrics"]["steps"]["count"] == 20 * SAMPLES


async def kill_in_mid_load(stack: Stack, victim: str, ledger: Path) -> None:
    async with signed_in(stack.url, patience=150) as client:
        accepted = Accepted(ledger)
        sending = asyncio.create_task(send_all(client.phone, accepted))
        await eventually(lambda: len(accepted.receipts) >= BATCHES // 4 or sending.done(), seconds=60, every=0.001)
        killed = stack.kill(victim)
        began = time.monotonic()
        await sending
        await everything_is_stored_once(client.phone, accepted)
        assert time.monotonic() - began < 120
        assert stack.state.pid(victim) != killed


async def test_killing_ingest_while_200_batches_drain_loses_nothing(tmp_path: Path):
    with running_stack() as stack:
        await kill_in_mid_load(stack, "ingest", tmp_path / "accepted")


async def test_killing_the_broker_during_a_load_loses_nothing_and_needs_nobody(tmp_path: Path):
    with running_stack() as stack:
        await kill_in_mid_load(stack, "kafka", tmp_path / "accepted")
