"""Whatever is sent to POST /v1/batches: a problem that says what to do, or every record accounted for exactly once."""

import gzip
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from shared import topics
from shared.events.gateway import BatchSubmitted
from tests.service.gateway_edges import Gateway, gateway

BATCHES = topics.BATCHES.name
LIMIT = 4 * 1024 * 1024

TIME = st.sampled_from(
    [
        "2026-03-01T08:00:00Z",
        "2026-03-01T08:00:00-00:00",
        "2026-03-01T08:00:00.123456789+05:45",
        "2026-03-29T02:30:00+01:00",
        "2024-02-29T23:59:59-12:00",
        "2016-03-01T08:00:00+14:00",
        "2036-03-01T08:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2026-02-30T08:00:00Z",
        "yesterday",
        "",
    ]
)
ODD = st.sampled_from([None, True, 0, -1, 2**63, 1e308, -1e308, "", "x", "\x00", "x" * 10**6, [], {}, [[[]]]])
NUMBER = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | ODD
ID = st.sampled_from(["a", "b", "ä"]) | ODD
SAMPLE = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["steps", "heart_rate", "HKQuantityTypeIdentifierStepCount", "mood"]),
        "start": TIME,
        "value": NUMBER,
    },
    optional={"end": TIME, "unit": st.sampled_from(["kg", "furlong", "1/min", ""]) | ODD, "id": ID, "version": NUMBER},
)
STAGE = st.fixed_dictionaries({"stage": st.sampled_from(["deep", "dancing", 4]) | ODD, "start": TIME, "end": TIME})
STREAM = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["heart_rate", "power"]) | ODD,
        "start": TIME,
        "offsets_s": st.lists(NUMBER, max_size=3),
        "values": st.lists(NUMBER, max_size=3),
    }
)
SESSION = st.fixed_dictionaries(
    {"type": st.sampled_from(["sleep", "workout"]) | ODD, "start": TIME, "end": TIME},
    optional={
        "id": ID,
        "sport": ODD,
        "totals": st.dictionaries(st.sampled_from(["distance_m", ""]), NUMBER) | ODD,
        "stages": st.lists(STAGE, max_size=3) | ODD,
        "streams": st.lists(STREAM, max_size=3) | ODD,
    },
)
DELETION = st.fixed_dictionaries({}, optional={"id": ID, "metric": ID, "start": TIME, "end": TIME, "version": NUMBER})
DEVICE = {"id": "watch-1", "kind": "watch"}
BATCH = st.fixed_dictionaries(
    {
        "device": st.sampled_from([DEVICE] * 12 + [{"id": "", "kind": "watch"}, {"id": "w", "kind": "toaster"}, None]),
        "app": st.just("test/1"),
        "samples": st.lists(SAMPLE | ODD, max_size=60),
    },
    optional={
        "sessions": st.lists(SESSION | ODD, max_size=4),
        "deletions": st.lists(DELETION | ODD, max_size=4),
        "zone": st.sampled_from(["Europe/Berlin", "Pacific/Apia", None, "Mars/Base"]),
    },
)
# What JSON's writers get wrong, and what no parser may fall over.
LITERALS = [b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b'"\\ud800"', b'"\xff"', b"[" * 3000, b"9" * 400]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A batch as JSON, whole or with a piece of it replaced."""
    body = json.dumps(draw(BATCH)).encode()
    if draw(st.integers(0, 2)):
        return body
    at = draw(st.integers(0, len(body)))
    until = draw(st.integers(at, min(at + 20, len(body))))
    return body[:at] + draw(st.sampled_from(LITERALS) | st.binary(max_size=8)) + body[until:]


@st.composite
def sent(draw: st.DrawFn) -> tuple[str, bytes]:
    """A body and what its Content-Encoding says, truly or not."""
    body = draw(damaged() if draw(st.integers(0, 9)) else st.binary(max_size=100))
    packed = draw(st.sampled_from([bytes, gzip.compress, zstd.compress]))(body)
    if draw(st.integers(0, 9)) == 0:
        packed = packed[: draw(st.integers(0, len(packed)))] + draw(st.binary(max_size=4))
    honest = "gzip" if packed[:2] == b"\x1f\x8b" else "zstd" if packed[:4] == b"\x28\xb5\x2f\xfd" else "identity"
    return draw(st.sampled_from([honest] * 9 + ["gzip", "zstd", "br"])), packed


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


def places(batch: BatchSubmitted) -> list[int]:
    """Where every record of the batch went, by its place in it."""
    found = [one.index for one in (*batch.refused, *batch.sessions, *batch.deletions)]
    for series in batch.series:
        index: list[int] = np.frombuffer(series.index, "<u4").tolist()
        lengths = {len(series.start_us), len(series.end_us), len(series.value), len(series.version)}
        assert lengths == {8 * len(index)}
        assert (len(series.identity), len(series.offset_minutes)) == (16 * len(index), 2 * len(index))
        found += index
    return sorted(found)


def told(door: Gateway, value: bytes) -> BatchSubmitted:
    """The batch of a message, from the object store if it lies there."""
    batch = msgspec.msgpack.decode(value, type=BatchSubmitted)
    if batch.object is None:
        return batch
    return msgspec.msgpack.decode((door.folder / "objects" / batch.object.key).read_bytes(), type=BatchSubmitted)


LARGE = json.dumps(
    {
        "device": DEVICE,
        "app": "test/1",
        "samples": [{"metric": "steps", "start": "2026-03-01T08:00:00Z", "value": 1}] * 9_999 + [{}],
    }
).encode()


@example(("gzip", gzip.compress(LARGE)))
@example(("identity", LARGE.replace(b"{}]", b"{},{}]")))
@example(("gzip", gzip.compress(b" " * (LIMIT + 1))))
@example(("zstd", zstd.compress(b" " * (64 * LIMIT))))
@example(("gzip", gzip.compress(gzip.compress(LARGE))))
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(sent())
@example(("identity", b'{"device": {"id": "\x80", "kind": "watch"}, "app": "test/1", "samples": []}'))
async def test_any_body_is_a_problem_or_wholly_accounted_for(door: Gateway, body: tuple[str, bytes]) -> None:
    coding, content = body
    published = door.running.published[BATCHES]
    published.clear()
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    got = await door.ask("POST", "/v1/batches", content=content, headers=headers, key="b1")
    document: dict[str, Any] = got.json()
    event(str(got.status_code))
    if got.status_code == 202:
        (value,) = published
        batch = told(door, value)
        assert places(batch) == list(range(batch.received))
        assert (document["received"], document["invalid_records"]) == (batch.received, len(batch.refused))
        assert document["received"] >= 1
        assert document["receipt_id"] == batch.receipt_id
    else:
        assert got.status_code in (400, 413, 415, 422)
        assert got.headers["content-type"] == "application/problem+json"
        assert len(document["detail"]) in range(20, 500)
        assert published == []
