"""What operators mend on a running stack, by the commands they type."""

import hashlib
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from infra.local.phone import Phone
from services.gateway.receipts import RECEIPT_PREFIX, Ids
from shared import topics
from shared.clock import utc_now
from shared.events.gateway import BatchObject, BatchSubmitted
from shared.ids import new_event_id
from tests.client import signed_in
from tests.polling import eventually
from tests.running_stack import Stack, mymacro

MORNING = datetime(2026, 2, 1, 8, tzinfo=UTC)


def steps(day: int) -> dict[str, Any]:
    begin = MORNING + timedelta(days=day)
    sample = {
        "metric": "steps",
        "start": begin.isoformat(),
        "end": (begin + timedelta(minutes=30)).isoformat(),
        "value": 1000 + day,
    }
    return {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": [sample]}


def referred(stack: Stack, user_id: str) -> tuple[BatchSubmitted, Path, bytes]:
    """A batch that travels by reference: the message, its object's file, and what belongs there."""
    ids = Ids(bytes.fromhex((stack.instance.keys / "receipts.key").read_text().strip()))
    whole = BatchSubmitted(
        event_id=new_event_id(),
        occurred_at=utc_now(),
        user_id=user_id,
        receipt_id=ids.make(RECEIPT_PREFIX, user_id, "POST /v1/batches", "by hand", b""),
        device_id="watch-1",
        device_kind="watch",
        app="test/1",
        zone="UTC",
        received=0,
        series=(),
    )
    packed = msgspec.msgpack.encode(whole)
    digest = hashlib.sha256(packed).hexdigest()
    key = f"ingest/{user_id}/{digest}"
    message = msgspec.structs.replace(whole, object=BatchObject(key=key, sha256=digest))
    return message, stack.instance.data / "objects" / key, packed


async def test_a_failed_batch_is_stored_once_its_dead_letter_is_replayed(stack: Stack) -> None:
    async with signed_in(stack.url) as user:
        message, path, right = referred(stack, user.user_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"damaged")
        producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap_servers, acks="all")
        await producer.start()
        value = msgspec.msgpack.encode(message)
        await producer.send_and_wait(topics.BATCHES.name, value, key=user.user_id.encode())
        await producer.stop()
        receipt = f"/v1/receipts/{message.receipt_id}"
        failed = await user.phone.poll(receipt, lambda body: body["state"] != "queued")
        assert (failed.body["state"], failed.body["reason"]) == ("failed", "object-corrupt")

        words = ("--service", "ingest", "--id", message.receipt_id)
        assert "object-corrupt" in await mymacro(stack, "dlq", "list", *words)
        assert topics.BATCHES.dead_letters("ingest") in await mymacro(stack, "status")
        shown = await mymacro(stack, "dlq", "show", message.receipt_id)
        assert user.user_id in shown

        path.write_bytes(right)
        assert "1 replayed" in await mymacro(stack, "dlq", "replay", *words, "--note", "object restored")
        stored = await user.phone.poll(receipt, lambda body: body["state"] == "stored")
        assert stored.body["reason"] is None
        assert "No unresolved" in await mymacro(stack, "dlq", "list", *words)
        assert "object restored" in await mymacro(stack, "dlq", "list", "--resolved")


async def _ledgers(phone: Phone, days: range) -> list[dict[str, Any]]:
    dates = [(MORNING + timedelta(days=day)).date() for day in days]
    answers = [await phone.poll(f"/v1/ledger/{date}", lambda body: "lines" in body) for date in dates]
    return [
        {name: value for name, value in one.body.items() if name not in ("revision", "updated_at")} for one in answers
    ]


@pytest.mark.faults
async def test_insights_rebuilds_a_database_that_was_deleted(stack: Stack) -> None:
    days = range(3)
    async with signed_in(stack.url) as user:
        for day in days:
            await user.phone.send("POST", "/v1/batches", key=str(uuid4()), body=steps(day))
        before = await _ledgers(user.phone, days)

        refused = await mymacro(stack, "rewind", "insights", code=1)
        assert "stop it" in refused
        # Stopped for longer than its session, it is out of its groups, as a service that is scaled to none.
        stopped = stack.kill("insights", signal.SIGSTOP)
        await eventually(lambda: _rewound(stack), seconds=30, every=1)
        for path in (stack.instance.data / "db").glob("insights.sqlite*"):
            path.unlink()
        os.kill(stopped, signal.SIGKILL)
        await eventually(lambda: stack.ready("insights"), seconds=40)

        said = await mymacro(stack, "republish", "days", "--user", user.user_id, "--note", "its database was deleted")
        assert "done: 3 of 3" in said
        assert await _ledgers(user.phone, days) == before
        assert "3 of 3 days looked at would be told" in await mymacro(
            stack, "republish", "days", "--user", user.user_id, "--dry-run"
        )


async def _rewound(stack: Stack) -> bool:
    try:
        await mymacro(stack, "rewind", "insights")
    except AssertionError:
        return False
    return True
