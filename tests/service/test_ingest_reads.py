"""What users read back from ingest: samples, windows and receipts."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from services.ingest.buckets import pack
from services.ingest.records import BUCKETS, RECEIPTS, TAILS, Receipt, Tail
from shared import topics
from tests.batches import batch, encoded, series
from tests.service.reading import CET, DAY_HOUR, HOUR, MIDNIGHT, MINUTE, Reading, every, reading_from, rows_of

# Well before the ten seconds that requests wait at most.
SOON_S = 5


@pytest.fixture
async def reading(tmp_path: Path) -> AsyncGenerator[Reading]:
    async with reading_from(tmp_path) as one:
        yield one


async def test_raw_samples_come_as_they_were_sent_with_their_own_offset(reading: Reading) -> None:
    start = datetime(2026, 3, 1, 8, tzinfo=CET)
    await reading.hold("heart_rate", [(start, start, 61), (start + MINUTE, start + MINUTE, 62.5)])
    await reading.hold("heart_rate", [(start, start, 70)], device="phone-1", kind="phone", unknown_offset=True)
    assert await reading.points("heart_rate", MIDNIGHT, MIDNIGHT + 24 * HOUR) == [
        {"start": "2026-03-01T07:00:00Z", "value": 70.0, "device": "phone-1"},
        {"start": "2026-03-01T08:00:00+01:00", "value": 61.0, "device": "watch-1"},
        {"start": "2026-03-01T08:01:00+01:00", "value": 62.5, "device": "watch-1"},
    ]


async def test_the_range_is_exact_and_half_open(reading: Reading) -> None:
    await reading.hold("heart_rate", every(MINUTE, 180, MIDNIGHT, 60))
    found = await reading.points("heart_rate", MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR)
    assert [found[0]["start"], found[-1]["start"], len(found)] == [
        "2026-03-01T01:00:00+00:00",
        "2026-03-01T01:59:00+00:00",
        60,
    ]
    assert len(await reading.points("heart_rate", MIDNIGHT, MIDNIGHT + MINUTE / 2, resolution="1m")) == 1
    # A day that ends at midnight ends there: nothing of the next day.
    assert await reading.points("heart_rate", MIDNIGHT - 24 * HOUR, MIDNIGHT) == []


async def test_pages_follow_one_another_without_gap_or_repeat(reading: Reading) -> None:
    for device in ("watch-1", "phone-1"):
        await reading.hold("heart_rate", every(MINUTE, 150, MIDNIGHT, 60), device=device)
    query = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 3 * HOUR).isoformat()}
    for resolution, merged, total in (("raw", False, 300), ("1m", True, 150), ("15m", False, 20), ("1d", True, 1)):
        found: list[Any] = []
        cursor = None
        while True:
            more = {"cursor": cursor} if cursor else {}
            answer = await reading.get("/v1/timeseries", limit=7, resolution=resolution, merged=merged, **query, **more)
            page = answer.json()
            found += page["points"]
            if (cursor := page["cursor"]) is None:
                break
            assert len(page["points"]) == 7
        whole = await reading.points(
            "heart_rate", MIDNIGHT, MIDNIGHT + 3 * HOUR, limit=10_000, resolution=resolution, merged=merged
        )
        assert found == whole
        assert len(whole) == total


async def test_a_stream_gives_all_of_it_line_by_line(reading: Reading) -> None:
    await reading.hold("heart_rate", every(MINUTE, 3 * 1440, MIDNIGHT, 60))
    answer = await reading.running.http.get(
        "/v1/timeseries",
        params={"metric": "heart_rate", "from": "2026-03-01T00:00:00Z", "to": "2026-03-04T00:00:00Z", "limit": 10},
        headers=reading.running.headers(user_id="user-1") | {"Accept": "application/x-ndjson"},
    )
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert len(found) == 3 * 1440
    assert len({one["start"] for one in found}) == 3 * 1440


async def test_watch_and_phone_are_merged_as_in_days(reading: Reading) -> None:
    watch, phone = MIDNIGHT + 8 * HOUR, MIDNIGHT + 6 * HOUR
    await reading.hold("steps", [(watch, watch + 4 * HOUR, 4000)])
    await reading.hold("steps", [(phone, phone + 14 * HOUR, 10_000)], device="phone-1", kind="phone")
    day = (MIDNIGHT, MIDNIGHT + 24 * HOUR)
    for resolution in ("raw", "1m", "15m", "1h", "1d"):
        merged = await reading.points("steps", *day, resolution=resolution, merged=True, limit=10_000)
        name = "value" if resolution == "raw" else "sum"
        assert sum(one[name] for one in merged) == pytest.approx(11_142.857142857)
        alone = await reading.points("steps", *day, resolution=resolution, merged=False, limit=10_000)
        assert sum(one[name] for one in alone) == pytest.approx(14_000)
    pieces = await reading.points("steps", *day, merged=True)
    assert [(one["device"], one["start"][11:16], one["end"][11:16]) for one in pieces] == [
        ("phone-1", "06:00", "08:00"),
        ("watch-1", "08:00", "12:00"),
        ("phone-1", "12:00", "20:00"),
    ]
    only = await reading.points("steps", *day, resolution="1d", device="phone-1")
    assert only[0]["sum"] == pytest.approx(10_000)


async def test_the_users_own_order_of_devices_decides(reading: Reading) -> None:
    await reading.hold("steps", [(MIDNIGHT, MIDNIGHT + HOUR, 100)])
    await reading.hold("steps", [(MIDNIGHT, MIDNIGHT + HOUR, 300)], device="phone-1", kind="phone")
    put = await reading.running.http.put(
        "/v1/device-priorities/steps",
        json={"order": ["device:phone-1"]},
        headers=reading.running.headers(user_id="user-1"),
    )
    assert put.status_code == 200, put.text
    (found,) = await reading.points("steps", MIDNIGHT, MIDNIGHT + HOUR, resolution="1h")
    assert found["sum"] == 300


async def test_days_of_samples_without_an_offset_are_those_of_the_users_zone(reading: Reading) -> None:
    put = await reading.running.http.put(
        "/v1/me/zone",
        json={"zone": "America/New_York", "from": "2026-01-01T00:00:00Z"},
        headers=reading.running.headers(user_id="user-1"),
    )
    assert put.status_code == 200, put.text
    await reading.hold("heart_rate", [(MIDNIGHT + HOUR, MIDNIGHT + HOUR, 60)], unknown_offset=True)
    (found,) = await reading.points("heart_rate", MIDNIGHT, MIDNIGHT + 24 * HOUR, resolution="1d")
    assert (found["date"], found["start"]) == ("2026-02-28", "2026-02-28T00:00:00-05:00")


async def test_what_began_before_the_range_is_found_and_cut(reading: Reading) -> None:
    start = MIDNIGHT - 4 * HOUR
    await reading.hold("steps", [(start, start + 8 * HOUR, 800)])
    found = await reading.points("steps", MIDNIGHT, MIDNIGHT + 24 * HOUR, resolution="1h")
    assert [one["sum"] for one in found] == [100] * 4
    (raw,) = await reading.points("steps", MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR)
    assert raw["value"] == 800


async def test_local_days_are_those_of_the_samples(reading: Reading) -> None:
    late = datetime(2026, 3, 1, 23, 30, tzinfo=CET)
    await reading.hold("steps", [(late, late + HOUR, 100)])
    found = await reading.points("steps", MIDNIGHT, MIDNIGHT + 48 * HOUR, resolution="1d")
    assert [(one["date"], one["start"], one["sum"]) for one in found] == [
        ("2026-03-01", "2026-03-01T00:00:00+01:00", 50),
        ("2026-03-02", "2026-03-02T00:00:00+01:00", 50),
    ]


async def test_a_sparse_day_is_found_from_its_middle(reading: Reading) -> None:
    await reading.hold("body_mass", [(MIDNIGHT + 20 * HOUR, MIDNIGHT + 20 * HOUR, 71.5)])
    (found,) = await reading.points("body_mass", MIDNIGHT + 18 * HOUR, MIDNIGHT + 21 * HOUR)
    assert found["value"] == 71.5


async def test_tails_are_read_and_tombstones_are_not(reading: Reading) -> None:
    await reading.hold("heart_rate", every(MINUTE, 40, MIDNIGHT, 60))
    tail = rows_of([(MIDNIGHT + 50 * MINUTE, MIDNIGHT + 50 * MINUTE, 99)])
    (stored,) = (await reading.documents.find(BUCKETS, "user_metric_hour", ("user-1", "heart_rate"))).documents
    known = {
        "user_id": "user-1",
        "metric": "heart_rate",
        "device_id": "watch-1",
        "device_kind": "watch",
        "hour": DAY_HOUR,
    }
    await reading.documents.insert(TAILS, Tail(id=stored.id, columns=pack(tail), **known))
    found = await reading.points("heart_rate", MIDNIGHT, MIDNIGHT + HOUR)
    assert [len(found), found[-1]["value"]] == [41, 99]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"metric": "mood"}, "unknown-metric"),
        ({"metric": "workout"}, "not-a-series"),
        ({"metric": "HKQuantityTypeIdentifierNothing"}, "unknown-metric"),
        ({"metric": "sleep", "resolution": "1d"}, "not-a-number"),
        ({"metric": "sleep", "to": "2027-03-04T00:00:00Z"}, "range-too-long"),
        ({"since": "2026-03-02T00:00:00Z"}, "empty-range"),
        ({"since": "1969-03-02T00:00:00Z"}, "before-1970"),
        ({"since": "1772323200"}, "invalid-request"),
        ({"since": "2026-03-01"}, "invalid-request"),
        ({"since": "2026-02-30T00:00:00Z"}, "invalid-request"),
        ({"resolution": "1hour"}, "invalid-request"),
        ({"limit": 0}, "invalid-request"),
        ({"cursor": "none of ours"}, "invalid-cursor"),
        ({"cursor": "kg"}, "invalid-cursor"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(reading: Reading, query: dict[str, Any], code: str) -> None:
    right = {"metric": "steps", "since": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
    answer = await reading.get("/v1/timeseries", **(right | query))
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(f"/{code}")


async def test_a_cursor_is_of_no_use_to_another_question(reading: Reading) -> None:
    await reading.hold("heart_rate", every(MINUTE, 10, MIDNIGHT, 60))
    query = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + HOUR).isoformat(), "limit": 5}
    cursor = (await reading.get("/v1/timeseries", **query)).json()["cursor"]
    answer = await reading.get("/v1/timeseries", cursor=cursor, **(query | {"resolution": "1m"}))
    assert answer.status_code == 422


async def test_samples_are_their_users_alone(reading: Reading) -> None:
    await reading.hold("heart_rate", every(MINUTE, 10, MIDNIGHT, 60))
    query = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + HOUR).isoformat()}
    answer = await reading.get("/v1/timeseries", user_id="user-2", **query)
    assert (answer.status_code, answer.json()["points"]) == (200, [])
    partner = reading.running.headers(partner_id="partner-1")
    assert (await reading.running.http.get("/v1/timeseries", headers=partner)).status_code == 403


def receipt(number: int, user_id: str = "user-1", **changed: Any) -> Receipt:
    values: dict[str, Any] = {
        "id": f"rcp-{user_id}-{number}",
        "user_id": user_id,
        "group": f"group-{number}",
        "state": "stored",
        "received": 1,
        "stored": 1,
        "duplicates": 0,
        "corrections": 0,
        "refused": (),
        "completed_at": MIDNIGHT + number * MINUTE,
    }
    return Receipt(**(values | changed))


async def test_completed_receipts_are_listed_oldest_first(reading: Reading) -> None:
    many = tuple((place, "out-of-range") for place in range(150))
    for one in (receipt(2, refused=many, received=151), receipt(1), receipt(3), receipt(1, "user-2")):
        await reading.documents.insert(RECEIPTS, one)
    whole = (await reading.get("/v1/receipts")).json()
    assert [one["receipt_id"] for one in whole["receipts"]] == ["rcp-user-1-1", "rcp-user-1-2", "rcp-user-1-3"]
    assert (len(whole["receipts"][1]["refused"]), whole["receipts"][1]["refused_count"]) == (100, 150)
    assert len((await reading.get("/v1/receipts/rcp-user-1-2")).json()["refused"]) == 150
    first = (await reading.ask("/v1/receipts", limit=2)).json()
    rest = (await reading.ask("/v1/receipts", cursor=first["cursor"])).json()
    assert first["receipts"] + rest["receipts"] == whole["receipts"]
    assert rest["cursor"] is None
    newest = (await reading.ask("/v1/receipts", since=whole["next_since"])).json()["receipts"]
    assert [one["receipt_id"] for one in newest] == ["rcp-user-1-3"]
    for wrong in ({"since": "yesterday"}, {"cursor": "x"}, {"limit": 1_001}):
        assert (await reading.ask("/v1/receipts", **wrong)).status_code == 422


async def test_a_page_of_receipts_ends_early_where_they_name_very_many_refused_records(reading: Reading) -> None:
    many = tuple((place, "out-of-range") for place in range(10_000))
    for number in range(45):
        await reading.documents.insert(RECEIPTS, receipt(number, refused=many if number < 25 else ()))
    found: list[Any] = []
    more: dict[str, str] = {}
    sizes: list[int] = []
    while True:
        page = (await reading.ask("/v1/receipts", limit=1_000, **more)).json()
        found += [one["receipt_id"] for one in page["receipts"]]
        sizes.append(len(page["receipts"]))
        if page["cursor"] is None:
            break
        more = {"cursor": page["cursor"]}
    assert sizes == [20, 20, 5]
    assert found == [f"rcp-user-1-{number}" for number in range(45)]


async def test_a_receipt_is_waited_for_and_told_when_it_is_stored(reading: Reading) -> None:
    assert (await reading.get("/v1/receipts/r1", wait="50ms")).status_code == 404
    waiting = asyncio.create_task(reading.get("/v1/receipts/r1", wait="10s"))
    # When this is answered, the request before it has looked too.
    assert (await reading.get("/v1/receipts/r1")).status_code == 404
    await reading.running.send_bytes(topics.BATCHES, encoded(batch("r1", series("steps", []), zone="")))
    answer = await asyncio.wait_for(waiting, SOON_S)
    assert (answer.status_code, answer.json()["state"]) == (200, "stored")


async def test_a_receipt_that_another_process_stored_is_seen_too(reading: Reading) -> None:
    waiting = asyncio.create_task(reading.get("/v1/receipts/rcp-user-1-1", wait="10"))
    assert (await reading.get("/v1/receipts/rcp-user-1-1")).status_code == 404
    await reading.documents.insert(RECEIPTS, receipt(1))
    assert (await asyncio.wait_for(waiting, SOON_S)).status_code == 200


async def test_nobody_waits_for_anothers_receipt(reading: Reading) -> None:
    await reading.documents.insert(RECEIPTS, receipt(1))
    assert (await reading.get("/v1/receipts/rcp-user-1-1", user_id="user-2", wait="20ms")).status_code == 404


@pytest.mark.parametrize("wait", ["11", "-1", "2m", "soon", "1e3", "10.5s"])
async def test_a_wrong_wait_is_refused(reading: Reading, wait: str) -> None:
    assert (await reading.get("/v1/receipts/r1", wait=wait)).status_code == 422
