"""What users read back from ingest: sessions, devices, completeness, and what samples were before."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.ingest.records import (
    DEVICES,
    PLACES,
    REPLACED,
    SESSIONS,
    Device,
    Place,
    Replaced,
    Session,
)
from services.ingest.removals import place_id
from shared.documents import Put
from shared.events.gateway import StageColumns, StreamColumns
from tests.service.reading import DAY_HOUR, HOUR, MIDNIGHT, MINUTE, NOW, Reading, every, reading_from


@pytest.fixture
async def reading(tmp_path: Path) -> AsyncGenerator[Reading]:
    async with reading_from(tmp_path) as one:
        yield one


def session(kind: str, start: datetime, end: datetime, **changed: Any) -> Session:
    identity = bytes(16).hex()
    values: dict[str, Any] = {
        "id": f"user-1/{kind}-{start.timestamp():.0f}/watch 1",
        "user_id": "user-1",
        "type": kind,
        "device_id": "watch 1",
        "device_kind": "watch",
        "identity": identity,
        "hour": int(end.timestamp()) // 3600,
        "start_us": round(start.timestamp() * 1_000_000),
        "end_us": round(end.timestamp() * 1_000_000),
        "offset_minutes": 60,
        "source_version": 0,
        "arrived_at": end,
    }
    return Session(**(values | changed))


def packed(*times: datetime) -> bytes:
    return np.array([round(one.timestamp() * 1_000_000) for one in times], "<i8").tobytes()


def night() -> Session:
    start, end = MIDNIGHT - HOUR, MIDNIGHT + 6 * HOUR
    stages = StageColumns(start_us=packed(start, MIDNIGHT), end_us=packed(MIDNIGHT, end), stage=("light", "deep"))
    return session("sleep", start, end, stages=stages)


def run() -> Session:
    start = MIDNIGHT + 10 * HOUR
    stream = StreamColumns(
        name="heart_rate", at_us=packed(start, start + MINUTE / 4), value=np.array([120, 131.5], "<f8").tobytes()
    )
    return session("workout", start, start + HOUR, sport="run", totals={"steps": 9000.0}, streams=(stream,))


async def test_sessions_are_listed_and_shown_with_their_streams(reading: Reading) -> None:
    for one in (night(), run(), session("workout", MIDNIGHT, MIDNIGHT + HOUR, deleted=True)):
        await reading.documents.insert(SESSIONS, one)
    day = {"since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    found = (await reading.get("/v1/sessions", **day)).json()
    assert [one["type"] for one in found["sessions"]] == ["sleep", "workout"]
    assert found["sessions"][0]["stages"][1] == {
        "stage": "deep",
        "start": "2026-03-01T01:00:00+01:00",
        "end": "2026-03-01T07:00:00+01:00",
    }
    (only,) = (await reading.get("/v1/sessions", type="workout", **day)).json()["sessions"]
    assert (only["sport"], only["totals"], only["streams"]) == ("run", {"steps": 9000.0}, ["heart_rate"])
    shown = (await reading.get(f"/v1/sessions/{only['session_id']}")).json()
    assert shown["streams"] == [
        {
            "name": "heart_rate",
            "unit": "/min",
            "start": "2026-03-01T11:00:00+01:00",
            "offsets_s": [0.0, 15.0],
            "values": [120.0, 131.5],
        }
    ]
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await reading.get("/v1/sessions", limit=1, **day, **cursor)).json()
        pages += page["sessions"]
        if page["cursor"] is None:
            break
        cursor = {"cursor": page["cursor"]}
    assert pages == found["sessions"]


async def test_sessions_are_their_users_alone(reading: Reading) -> None:
    for one in (night(), run()):
        await reading.documents.insert(SESSIONS, one)
    day = {"since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    assert (await reading.get("/v1/sessions", user_id="user-2", **day)).json()["sessions"] == []
    mine = (await reading.get("/v1/sessions", **day)).json()["sessions"][0]["session_id"]
    for user_id, id in (("user-2", mine), ("user-1", "made-up"), ("user-1", "%FF")):
        assert (await reading.get(f"/v1/sessions/{id}", user_id=user_id)).status_code == 404
    assert (await reading.get("/v1/sessions", cursor="x", **day)).status_code == 422
    assert (await reading.get("/v1/sessions", since=day["to"], to=day["since"])).status_code == 422


async def test_sleep_is_read_as_stages_from_sessions_and_samples(reading: Reading) -> None:
    await reading.documents.insert(SESSIONS, night())
    await reading.hold("sleep", [(MIDNIGHT + 7 * HOUR, MIDNIGHT + 8 * HOUR, 4)], device="ring-1", kind="ring")
    found = await reading.points("sleep", MIDNIGHT - HOUR / 2, MIDNIGHT + 24 * HOUR)
    assert [(one["stage"], one["device"], one["start"]) for one in found] == [
        ("light", "watch 1", "2026-03-01T00:00:00+01:00"),
        ("deep", "watch 1", "2026-03-01T01:00:00+01:00"),
        ("rem", "ring-1", "2026-03-01T07:00:00+00:00"),
    ]
    assert await reading.points("sleep", MIDNIGHT, MIDNIGHT + 24 * HOUR, limit=1) == found[1:2]
    first = (
        await reading.get(
            "/v1/timeseries", metric="sleep", since="2026-02-28T23:30:00Z", to="2026-03-02T00:00:00Z", limit=2
        )
    ).json()
    rest = await reading.points("sleep", MIDNIGHT - HOUR / 2, MIDNIGHT + 24 * HOUR, cursor=first["cursor"])
    assert first["points"] + rest == found


async def test_devices_are_listed(reading: Reading) -> None:
    for user_id, device_id in (("user-1", "watch-1"), ("user-1", "phone-1"), ("user-2", "watch-1")):
        one = Device(
            id=f"{user_id}/{device_id}",
            user_id=user_id,
            device_id=device_id,
            kind=device_id[:5],
            app="demo/1",
            first_seen_at=MIDNIGHT,
            seen_at=NOW,
        )
        await reading.documents.insert(DEVICES, one)
    found = (await reading.ask("/v1/devices")).json()["devices"]
    assert [one["device_id"] for one in found] == ["phone-1", "watch-1"]
    assert found[1] == {
        "device_id": "watch-1",
        "kind": "watch",
        "app": "demo/1",
        "first_seen_at": "2026-03-01T00:00:00Z",
        "seen_at": "2026-03-03T12:00:00Z",
    }
    assert (await reading.ask("/v1/devices", user_id="user-3")).json()["devices"] == []


async def test_completeness_tells_what_is_usual_late_and_missing(reading: Reading) -> None:
    for back in range(4):
        await reading.hold("heart_rate", every(MINUTE, 1440, MIDNIGHT - (back + 1) * 24 * HOUR, 60))
    await reading.hold("heart_rate", every(MINUTE, 12 * 60, MIDNIGHT, 60), arrived=MIDNIGHT + 24 * HOUR)
    await reading.hold("steps", every(MINUTE, 10, MIDNIGHT, 5, length=MINUTE))
    answer = await reading.get("/v1/completeness", since="2026-02-28", to="2026-03-01")
    assert answer.status_code == 200, answer.text
    (device,) = answer.json()["devices"]
    before, day = device["days"]
    assert (device["device_id"], device["kind"], device["last_error"]) == ("watch-1", "watch", None)
    assert before["metrics"]["heart_rate"] == {"expected": 1440, "received": 1440, "late": 0, "gaps": []}
    assert day["date"] == "2026-03-01"
    assert day["metrics"]["heart_rate"] == {
        "expected": 1440,
        "received": 720,
        "late": 720,
        "gaps": [{"start": "2026-03-01T11:59:00Z", "end": "2026-03-01T22:00:00Z", "minutes": 601}],
    }
    assert day["metrics"]["steps"] == {"expected": None, "received": 10, "late": 0, "gaps": None}
    other = await reading.get("/v1/completeness", user_id="user-2", since="2026-02-28", to="2026-03-01")
    assert other.json()["devices"] == []


@pytest.mark.parametrize(("since", "to"), [("2026-03-02", "2026-03-01"), ("2026-01-01", "2026-02-01"), ("now", "then")])
async def test_completeness_of_a_wrong_range_is_refused(reading: Reading, since: str, to: str) -> None:
    assert (await reading.get("/v1/completeness", since=since, to=to)).status_code == 422


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
async def test_the_first_and_the_last_day_there_are_can_be_asked_for(reading: Reading, day: str) -> None:
    for zone in ("Pacific/Pago_Pago", "Pacific/Kiritimati"):
        headers = reading.running.headers(user_id="user-1")
        await reading.running.http.put(
            "/v1/me/zone", json={"zone": zone, "from": "1970-01-01T00:00:00Z"}, headers=headers
        )
        assert (await reading.get("/v1/completeness", since=day, to=day)).json()["devices"] == []


@pytest.mark.parametrize("to", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
@pytest.mark.parametrize("path", ["timeseries", "timeseries/history", "sessions"])
async def test_a_time_that_utc_does_not_have_is_refused(reading: Reading, path: str, to: str) -> None:
    query = {} if path == "sessions" else {"metric": "heart_rate"}
    assert (await reading.get(f"/v1/{path}", since=MIDNIGHT.isoformat(), to=to, **query)).status_code == 422


def replaced(number: int, start: datetime, value: float, identity: str, **changed: Any) -> Replaced:
    values: dict[str, Any] = {
        "id": f"replaced-{number}",
        "user_id": "user-1",
        "metric": "heart_rate",
        "device_id": "watch-1",
        "identity": identity,
        "start_us": round(start.timestamp() * 1_000_000),
        "end_us": round(start.timestamp() * 1_000_000),
        "value": value,
        "source_version": number,
        "replaced_at": NOW + number * MINUTE,
        "receipt_id": f"r{number}",
        "reason": "correction",
        "bucket": "",
    }
    return Replaced(**(values | changed))


async def test_the_history_of_a_sample_says_what_it_was_and_is(reading: Reading) -> None:
    digest = hashlib.blake2b(b"s-1", digest_size=16).digest()
    at = MIDNIGHT + 8 * HOUR
    await reading.hold("heart_rate", [(at, at, 63)], identity=digest)
    for one in (
        replaced(2, at, 62, digest.hex()),
        replaced(1, at, 61, digest.hex()),
        replaced(3, at + HOUR, 99, "0" * 32, device_id="phone-1"),
        replaced(4, at, 70, digest.hex(), user_id="user-2"),
    ):
        await reading.documents.insert(REPLACED, one)
    day = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    first, second = (await reading.get("/v1/timeseries/history", **day)).json()["samples"]
    assert [(one["value"], one["reason"], one["receipt_id"]) for one in first["was"]] == [
        (61.0, "correction", "r1"),
        (62.0, "correction", "r2"),
    ]
    assert first["now"] == {
        "deleted": False,
        "start": "2026-03-01T08:00:00Z",
        "end": "2026-03-01T08:00:00Z",
        "value": 63.0,
        "source_version": 0,
    }
    assert (second["device"], second["now"]) == ("phone-1", None)
    assert (await reading.get("/v1/timeseries/history", id="s-1", **day)).json()["samples"] == [first]
    assert (await reading.get("/v1/timeseries/history", device="phone-1", **day)).json()["samples"] == [second]
    page = (await reading.get("/v1/timeseries/history", limit=1, **day)).json()
    rest = (await reading.get("/v1/timeseries/history", cursor=page["cursor"], **day)).json()
    assert (page["samples"], rest["samples"]) == ([first], [second])
    assert (await reading.get("/v1/timeseries/history", cursor="x", **day)).status_code == 422
    (others,) = (await reading.get("/v1/timeseries/history", user_id="user-2", **day)).json()["samples"]
    assert (others["now"], len(others["was"])) == (None, 1)


async def test_a_sample_corrected_without_end_comes_on_several_pages(reading: Reading) -> None:
    at = MIDNIGHT + 8 * HOUR
    await reading.documents.put_many([Put(REPLACED, replaced(number, at, 60, "0" * 32)) for number in range(1_200)])
    day = {"metric": "heart_rate", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    page = (await reading.get("/v1/timeseries/history", limit=10, **day)).json()
    rest = (await reading.get("/v1/timeseries/history", limit=1_000, cursor=page["cursor"], **day)).json()
    assert [len(one["samples"][0]["was"]) for one in (page, rest)] == [1_010, 190]
    assert rest["cursor"] is None


async def test_the_history_of_a_deleted_sample_says_so(reading: Reading) -> None:
    at = MIDNIGHT + 8 * HOUR
    digest = hashlib.blake2b(b"s-1", digest_size=16).digest()
    await reading.hold("body_mass", [(at + 24 * HOUR, at + 24 * HOUR, 70)], identity=digest, deleted=True)
    place = Place(id=place_id("user-1", "watch-1", digest), user_id="user-1", hours={"body_mass": DAY_HOUR + 24})
    await reading.documents.insert(PLACES, place)
    await reading.documents.insert(REPLACED, replaced(1, at, 70, digest.hex(), metric="body_mass", reason="moved"))
    day = {"metric": "body_mass", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    (found,) = (await reading.get("/v1/timeseries/history", **day)).json()["samples"]
    assert (found["now"]["deleted"], found["now"]["value"], found["was"][0]["value"]) == (True, None, 70)


async def test_the_history_of_a_session_is_kept_too(reading: Reading) -> None:
    stored = night()
    await reading.documents.insert(SESSIONS, stored)
    was = replaced(1, MIDNIGHT, 3600, stored.identity, metric="sleep", device_id="watch 1", bucket=stored.id)
    await reading.documents.insert(REPLACED, was)
    day = {"metric": "sleep", "since": MIDNIGHT.isoformat(), "to": (MIDNIGHT + 24 * HOUR).isoformat()}
    (found,) = (await reading.get("/v1/timeseries/history", **day)).json()["samples"]
    assert (found["was"][0]["value"], found["now"]["value"]) == (3600, 7 * 3600)
