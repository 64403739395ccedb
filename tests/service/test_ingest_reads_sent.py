"""What was sent in batches is read back: corrected, deleted, and as sessions."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from services.ingest.moments import micros
from shared import topics
from shared.events.gateway import DeletionSubmitted, SessionSubmitted, StreamColumns
from tests.batches import batch, encoded, series
from tests.service.reading import CET, HOUR, MIDNIGHT, Reading, reading_from


@pytest.fixture
async def reading(tmp_path: Path) -> AsyncGenerator[Reading]:
    async with reading_from(tmp_path) as one:
        yield one


async def test_what_batches_correct_and_delete_is_read_as_it_was_and_is(reading: Reading) -> None:
    at = datetime(2026, 3, 1, 8, tzinfo=CET)
    for receipt_id, value in (("r1", 61.0), ("r2", 65.0)):
        sent = batch(receipt_id, series("heart_rate", [(at, at, value, "s-1")]))
        await reading.running.send_bytes(topics.BATCHES, encoded(sent))
    day = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    (corrected,) = (await reading.get("/v1/timeseries/history", id="s-1", **day)).json()["samples"]
    assert (corrected["now"]["value"], corrected["now"]["start"]) == (65.0, "2026-03-01T08:00:00+01:00")
    assert [(one["value"], one["receipt_id"]) for one in corrected["was"]] == [(61.0, "r2")]
    us = micros(at)
    gone = DeletionSubmitted(
        index=0,
        identity=hashlib.blake2b(b"s-1", digest_size=16).digest(),
        metric="heart_rate",
        start_us=us,
        end_us=us,
    )
    await reading.running.send_bytes(topics.BATCHES, encoded(batch("r3", received=1, deletions=(gone,))))
    assert (await reading.get("/v1/receipts/r3", wait="5s")).json()["deleted"] == 1
    (deleted,) = (await reading.get("/v1/timeseries/history", **day)).json()["samples"]
    assert deleted["now"]["deleted"]
    assert [(one["value"], one["reason"]) for one in deleted["was"]] == [(61.0, "correction"), (65.0, "deleted")]
    assert await reading.points("heart_rate", MIDNIGHT, MIDNIGHT + 24 * HOUR) == []


async def test_a_session_sent_is_read_back_with_its_device(reading: Reading) -> None:
    at = micros(datetime(2026, 3, 1, 8, tzinfo=CET))
    sent = SessionSubmitted(
        index=0,
        type="workout",
        start_us=at,
        end_us=at + 3_600_000_000,
        offset_minutes=60,
        identity=hashlib.blake2b(b"w-1", digest_size=16).digest(),
        sport="run",
        totals={"distance_m": 8_000.0},
        streams=(
            StreamColumns(
                name="speed",
                at_us=np.array([at, at + 1_000_000], "<i8").tobytes(),
                value=np.array([2.5, 3.0], "<f8").tobytes(),
            ),
        ),
    )
    await reading.running.send_bytes(topics.BATCHES, encoded(batch("r1", received=1, sessions=(sent,))))
    day = {"since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    (found,) = (await reading.get("/v1/sessions", **day)).json()["sessions"]
    assert (found["sport"], found["start"], found["device"]) == ("run", "2026-03-01T08:00:00+01:00", "watch-1")
    shown = (await reading.get(f"/v1/sessions/{found['session_id']}")).json()
    assert (shown["streams"][0]["offsets_s"], shown["streams"][0]["values"]) == ([0.0, 1.0], [2.5, 3.0])
    (device,) = (await reading.ask("/v1/devices")).json()["devices"]
    assert (device["device_id"], device["kind"], device["app"]) == ("watch-1", "watch", "test/1")
