"""What ingest gives out of samples: of every metric, device and age each one once, in the state that is in force."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.ingest.exporting import CONTENTS
from services.ingest.metrics import METRICS, Metric
from shared.clock import utc_now
from shared.exported import members_of, write
from shared.objects import Objects
from shared.zipped import directory
from tests.batches import batch, series
from tests.service.ingesting import EIGHT, MINUTE, Ingest, gone, heart, ingesting, steps

USER = "user-1"
NUMBERS = [metric for metric in METRICS.values() if metric.kind != "session"]


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncGenerator[Ingest]:
    async with ingesting(tmp_path) as one:
        yield one


async def _exported(ingest: Ingest, tmp_path: Path, user_id: str = USER) -> dict[str, list[Any]]:
    objects = Objects(f"file:///{tmp_path}/objects")
    key = f"ingest/{user_id}/exports/x"
    written = await write(objects, key, ingest.documents, CONTENTS, user_id, utc_now())
    members = await members_of(objects, key, written.data_bytes, written.object.size_bytes)
    data = b"".join([part async for part in objects.read(key, 0, written.data_bytes)])
    with zipfile.ZipFile(io.BytesIO(data + directory(members, len(data)))) as archive:
        found = {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in archive.namelist()}
    assert {name: len(lines) for name, lines in found.items()} == {one.name: one.rows for one in written.files}
    return found


def _one_of(metric: Metric) -> Any:
    end = EIGHT + (timedelta(0) if metric.kind == "instant" else MINUTE)
    return series(metric.name, [(EIGHT, end, metric.lowest + (metric.highest - metric.lowest) / 4)])


async def test_a_sample_of_every_metric_is_in_it(ingest: Ingest, tmp_path: Path) -> None:
    await ingest.send(batch("r1", *map(_one_of, NUMBERS)))
    found = await _exported(ingest, tmp_path)
    for metric in NUMBERS:
        (row,) = found[f"samples/{metric.name}.jsonl"]
        assert row["value"] == metric.lowest + (metric.highest - metric.lowest) / 4
        assert datetime.fromisoformat(row["start"]) == EIGHT
        assert row["device"] == "watch-1"


async def test_months_of_two_devices_and_late_single_samples_are_in_it_once(ingest: Ingest, tmp_path: Path) -> None:
    sent: Counter[tuple[datetime, float, str]] = Counter()
    for device in ("watch-1", "band-2"):
        for day in range(0, 90, 3):
            start = EIGHT - timedelta(days=day)
            await ingest.send(batch(f"{device} {day}", heart(100, 61.5, start), device_id=device))
            sent.update((start + at * MINUTE, 61.5, device) for at in range(100))
    for late in range(5):  # into the tails of full buckets
        at = EIGHT + 10 * MINUTE + timedelta(seconds=late + 1)
        await ingest.send(batch(f"late {late}", heart(1, 70.25, at)))
        sent[at, 70.25, "watch-1"] += 1
    await ingest.send(batch("again", heart(100, 61.5)))
    await ingest.send(batch("other", heart(7), user_id="user-2"))
    rows = (await _exported(ingest, tmp_path))["samples/heart_rate.jsonl"]
    assert Counter((datetime.fromisoformat(one["start"]), one["value"], one["device"]) for one in rows) == sent
    assert len((await _exported(ingest, tmp_path, "user-2"))["samples/heart_rate.jsonl"]) == 7


async def test_what_was_deleted_is_absent_but_from_its_history(ingest: Ingest, tmp_path: Path) -> None:
    await ingest.send(batch("r1", steps(10, 20, 30)))
    deletion = gone(metric="steps", start=EIGHT + MINUTE, end=EIGHT + 2 * MINUTE)
    await ingest.send(batch("r2", received=1, deletions=(deletion,)))
    found = await _exported(ingest, tmp_path)
    assert [one["value"] for one in found["samples/steps.jsonl"]] == [10, 30]
    (was,) = found["history.jsonl"]
    assert (was["metric"], was["value"], was["reason"], was["receipt_id"]) == ("steps", 20, "deleted", "r2")


async def test_who_sent_nothing_has_a_zone_and_nothing_else(ingest: Ingest, tmp_path: Path) -> None:
    assert await _exported(ingest, tmp_path, "nobody") == {"zones.jsonl": [{"from": None, "zone": "UTC"}]}
