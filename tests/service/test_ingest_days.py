"""Days as users see them: merged, explained, told again when something changes, and theirs alone."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from services.ingest.app import create_app
from services.ingest.marks import Touch, marked
from services.ingest.metrics import Stage
from services.ingest.records import DAYS, DEVICES, DIRTY_DAYS, RECOMPUTATIONS, SESSIONS, Device, Session
from services.ingest.settings import Settings
from shared import topics
from shared.documents import Documents, open_documents
from shared.events.auth import Profile, UserUpdated
from shared.events.gateway import UNKNOWN_OFFSET, SeriesColumns, SessionSubmitted, StageColumns
from shared.events.ingest import DayRecomputed, DayUpdated
from shared.kafka import make_broker
from tests.batches import batch, encoded, series
from tests.polling import eventually
from tests.service.ingesting import FakeClock, days_told
from tests.service.running import SCAN_S, Running, common_settings, running

CET = timezone(timedelta(hours=1))
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=CET)
SUNDAY = "2026-03-01"
PHONE = {"device_id": "phone-1", "device_kind": "phone"}


@dataclass
class Days:
    running: Running
    clock: FakeClock
    documents: Documents

    async def send(self, receipt_id: str, *columns: SeriesColumns, **changed: Any) -> None:
        """A batch sent, after all that was sent before has been computed."""
        await self.settled()
        self.clock.ahead += timedelta(seconds=11)
        values = {"occurred_at": self.clock()} | changed
        await self.running.send_bytes(topics.BATCHES, encoded(batch(receipt_id, *columns, **values)))

    async def settled(self) -> None:
        """Return when nothing is left to compute."""

        async def clean() -> bool:
            return not any([await self.documents.count(one, "due") for one in (DIRTY_DAYS, RECOMPUTATIONS)])

        await eventually(clean)

    async def get(self, path: str, user_id: str = "user-1", **query: str) -> Any:
        return await self.running.http.get(path, params=query, headers=self.running.headers(user_id=user_id))

    async def put(self, path: str, body: Any, user_id: str = "user-1", **caller: Any) -> Any:
        await self.settled()
        headers = self.running.headers(user_id=user_id, **caller)
        return await self.running.http.put(path, json=body, headers=headers)

    async def explained(self, day: str = SUNDAY) -> Any:
        answer = await self.get(f"/v1/days/{day}/explain")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def told(self) -> list[DayUpdated | DayRecomputed]:
        return days_told(self.running)

    async def revision(self, number: int, day: str = SUNDAY) -> DayUpdated | DayRecomputed:
        """That revision of a day, once it is told and nothing is left to compute."""

        await self.settled()
        return (await eventually(lambda: self._told(day, number)))[0]

    def _told(self, day: str, number: int) -> list[DayUpdated | DayRecomputed]:
        return [one for one in self.told() if str(one.date) == day and one.revision == number]


@pytest.fixture
async def days(tmp_path: Path) -> AsyncGenerator[Days]:
    settings = Settings(**common_settings(tmp_path))
    broker = make_broker(settings, "ingest")
    clock = FakeClock(datetime(2026, 3, 1, 20, tzinfo=UTC))
    documents = open_documents(settings.database_url, "ingest")
    app = create_app(settings, broker=broker, documents=documents, clock=clock, scan_seconds=SCAN_S)
    async with running(app, broker, "ingest", tmp_path, listen=(topics.DAYS.name,)) as one:
        yield Days(one, clock, documents)


def steps(from_hour: float, to_hour: float, value: float, *more: Any) -> SeriesColumns:
    return series("steps", [(MIDNIGHT + from_hour * HOUR, MIDNIGHT + to_hour * HOUR, value, *more)])


def heart(*moments: datetime, value: float = 60) -> SeriesColumns:
    return series("heart_rate", [(one, one, value) for one in moments])


def without_offset(columns: SeriesColumns) -> SeriesColumns:
    count = len(columns.start_us) // 8
    return replace(columns, offset_minutes=np.full(count, UNKNOWN_OFFSET, "<i2").tobytes())


async def test_phone_then_watch_give_10000_and_then_11143(days: Days) -> None:
    await days.send("r1", steps(6, 20, 10_000), **PHONE)
    assert (await days.revision(1)).metrics["steps"].sum == 10_000
    await days.send("r2", steps(8, 12, 4_000))
    second = await days.revision(2)
    assert (second.type, second.metrics["steps"].sum, second.metrics["steps"].count) == ("day.updated", 11_143, 2)
    shown = (await days.get(f"/v1/days/{SUNDAY}")).json()
    assert (shown["revision"], shown["metrics"]["steps"]["sum"]) == (2, 11_143)


async def test_watch_then_phone_give_the_same(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000))
    assert (await days.revision(1)).metrics["steps"].sum == 4_000
    await days.send("r2", steps(6, 20, 10_000), **PHONE)
    assert (await days.revision(2)).metrics["steps"].sum == 11_143


async def test_explain_shows_segments_devices_and_what_was_dropped(days: Days) -> None:
    watch = Device(
        id="user-1/watch-1",
        user_id="user-1",
        device_id="watch-1",
        kind="watch",
        app="test/1",
        first_seen_at=days.clock(),
        seen_at=days.clock(),
    )
    if await days.documents.get(DEVICES, watch.id) is None:
        await days.documents.put(DEVICES, watch)
    await days.send("r1", steps(6, 20, 10_000), zone="Europe/Berlin", **PHONE)
    await days.send("r2", steps(8, 12, 4_000), zone="Europe/Berlin")
    await days.revision(2)
    told = await days.explained()
    assert (told["date"], told["zone"], told["revision"], told["pending"]) == (SUNDAY, "Europe/Berlin", 2, False)
    assert told["devices"]["watch-1"] == {"kind": "watch", "app": "test/1"}
    metric = told["metrics"]["steps"]
    assert (metric["kind"], metric["unit"], metric["sum"], metric["count"]) == ("interval", "{steps}", 11_143, 2)
    assert [(one["device"], one["start"], one["end"], one["value"]) for one in metric["segments"]] == [
        ("phone-1", "2026-03-01T06:00:00+01:00", "2026-03-01T08:00:00+01:00", 1_429),
        ("watch-1", "2026-03-01T08:00:00+01:00", "2026-03-01T12:00:00+01:00", 4_000),
        ("phone-1", "2026-03-01T12:00:00+01:00", "2026-03-01T20:00:00+01:00", 5_714),
    ]
    assert [one["dropped"] for one in metric["segments"]] == [
        [],
        [{"device": "phone-1", "value": 2_857, "why": "covered-by watch-1"}],
        [],
    ]
    assert sum(one["value"] for one in metric["segments"]) == metric["sum"]
    assert [(one["device"], one["sent"], one["taken"], one["dropped"]) for one in metric["devices"]] == [
        ("watch-1", 4_000, 4_000, 0),
        ("phone-1", 10_000, 7_143, 2_857),
    ]


async def test_a_correction_a_day_later_recomputes_with_old_and_new(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000, "walk", 1))
    await days.revision(1)
    days.clock.ahead += timedelta(days=1)
    await days.send("r2", steps(8, 12, 4_500, "walk", 2))
    late = await days.revision(2)
    assert isinstance(late, DayRecomputed)
    assert (late.previous["steps"].sum, late.metrics["steps"].sum, late.reason) == (4_000, 4_500, "correction")
    assert (await days.explained())["metrics"]["steps"]["segments"][0]["value"] == 4_500


async def test_only_what_changed_is_computed_and_the_rest_stands(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000), heart(MIDNIGHT + 9 * HOUR))
    first = await days.revision(1)
    # What nothing touched is not read again: this number has no sample behind it.
    stored = await days.documents.get(DAYS, f"user-1/{SUNDAY}")
    assert stored is not None
    planted = replace(stored.metrics["heart_rate"], mean=77.0)
    await days.documents.put(DAYS, replace(stored, metrics={**stored.metrics, "heart_rate": planted}))
    mark = await days.documents.get(DIRTY_DAYS, f"user-1/{SUNDAY}")
    assert mark is not None
    touch = Touch("user-1", first.date, mark.from_hour, mark.to_hour, ["steps"], "late-data")
    await days.send("r2", steps(13, 14, 500))
    changed = marked(await days.documents.get(DIRTY_DAYS, mark.id), touch, days.clock())
    assert set(changed.changed) >= {"steps"}
    second = await days.revision(2)
    assert (second.metrics["steps"].sum, second.metrics["heart_rate"].mean) == (4_500, 77)


async def test_energies_add_up_whichever_is_sent(days: Days) -> None:
    day = (MIDNIGHT, MIDNIGHT + 24 * HOUR)
    await days.send("r1", series("energy_active", [(*day, 500.5)]), series("energy_total", [(*day, 2_100.25)], 1))
    first = (await days.revision(1)).metrics
    assert (first["energy_basal"].sum, first["energy_basal"].derived, first["energy_basal"].count) == (
        1_599.75,
        True,
        0,
    )
    await days.send("r2", series("energy_basal", [(*day, 1_600)]))
    second = (await days.revision(2)).metrics
    assert (second["energy_total"].sum, second["energy_total"].derived) == (2_100.5, True)
    assert (second["energy_basal"].sum, second["energy_basal"].derived) == (1_600, False)
    told = (await days.explained())["metrics"]["energy_total"]
    assert (told["devices"][0]["dropped"], told["segments"]) == (2_100.25, [])
    assert "gives way" in told["note"]


async def test_an_order_of_devices_recomputes_the_days_that_know_the_metric(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000), heart(MIDNIGHT - 9 * HOUR))
    await days.send("r2", steps(6, 20, 10_000), **PHONE)
    assert (await days.revision(2)).metrics["steps"].sum == 11_143
    days.clock.ahead += timedelta(days=1)
    answer = await days.put("/v1/device-priorities/steps", {"order": ["device:phone-1"]})
    assert (answer.status_code, answer.json()["order"]) == (200, {"steps": ["device:phone-1"]})
    third = await days.revision(3)
    assert isinstance(third, DayRecomputed)
    assert (third.metrics["steps"].sum, third.reason) == (10_000, "priorities-changed")
    assert third.previous["steps"].sum == 11_143
    (segment,) = (await days.explained())["metrics"]["steps"]["segments"]
    assert segment["dropped"] == [{"device": "watch-1", "value": 4_000, "why": "covered-by phone-1"}]
    # The day before knows no steps and is left alone.
    yesterday = await days.documents.get(DIRTY_DAYS, "user-1/2026-02-28")
    assert yesterday is not None
    assert yesterday.due_at is None
    # Set again, nothing changes; set back, the default holds.
    await days.put("/v1/device-priorities/steps", {"order": ["device:phone-1"]})
    days.clock.ahead += timedelta(seconds=11)
    answer = await days.put("/v1/device-priorities/steps", {"order": []})
    assert answer.json()["order"] == {}
    assert answer.json()["default"][:2] == ["kind:workout", "kind:watch"]
    assert (await days.revision(4)).metrics["steps"].sum == 11_143


async def test_an_order_for_every_metric_gives_way_to_one_of_its_own(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000))
    await days.send("r2", steps(6, 20, 10_000), **PHONE)
    await days.revision(2)
    await days.put("/v1/device-priorities/*", {"order": ["kind:phone"]})
    assert (await days.revision(3)).metrics["steps"].sum == 10_000
    days.clock.ahead += timedelta(seconds=11)
    await days.put("/v1/device-priorities/steps", {"order": ["kind:watch"]})
    assert (await days.revision(4)).metrics["steps"].sum == 11_143
    shown = (await days.get("/v1/device-priorities")).json()
    assert shown["order"] == {"*": ["kind:phone"], "steps": ["kind:watch"]}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/device-priorities/mood", {"order": []}, 404),
        ("/v1/device-priorities/steps", {"order": ["watch"]}, 422),
        ("/v1/device-priorities/steps", {"order": ["kind:watch", "kind:watch"]}, 422),
        ("/v1/device-priorities/steps", {"order": [f"device:{place}" for place in range(101)]}, 422),
        ("/v1/device-priorities/steps", {}, 422),
        ("/v1/me/zone", {"zone": "Mars/Olympus"}, 422),
        ("/v1/me/zone", {"zone": "Europe/Berlin", "from": "2027-03-01T00:00:00Z"}, 422),
        ("/v1/me/zone", {"zone": "Europe/Berlin", "from": "1969-03-01T00:00:00Z"}, 422),
        ("/v1/me/zone", {"zone": "Europe/Berlin", "from": "yesterday"}, 422),
    ],
)
async def test_settings_that_make_no_sense_are_refused(days: Days, path: str, body: Any, status: int) -> None:
    answer = await days.put(path, body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_settings_are_the_users_own(days: Days) -> None:
    await days.put("/v1/device-priorities/steps", {"order": ["kind:phone"]})
    await days.put("/v1/me/zone", {"zone": "Asia/Tokyo"})
    assert (await days.get("/v1/device-priorities", user_id="user-2")).json()["order"] == {}
    assert (await days.get("/v1/me/zone", user_id="user-2")).json()["changes"] == []
    assert (await days.put("/v1/me/zone", {"zone": "Asia/Tokyo"}, scopes=("profile:read",))).status_code == 403
    refused = await days.put("/v1/device-priorities/steps", {"order": []}, scopes=("profile:read",))
    assert refused.status_code == 403
    for path in ("/v1/me/zone", "/v1/device-priorities"):
        answer = await days.running.get(path, user_id="user-1", scopes=("days:read",))
        assert answer.status_code == 403, path


async def test_a_zone_set_for_the_past_moves_samples_without_an_offset(days: Days) -> None:
    late = datetime(2026, 3, 1, 18, tzinfo=UTC)
    await days.send("r1", without_offset(heart(late)), heart(MIDNIGHT + 12 * HOUR, value=70))
    assert (await days.revision(1)).metrics["heart_rate"].count == 2
    assert (await days.explained())["metrics"]["heart_rate"]["without_offset"] == 1
    days.clock.ahead += timedelta(days=2)
    answer = await days.put("/v1/me/zone", {"zone": "Asia/Tokyo", "from": "2026-02-27T12:00:00+09:00"})
    assert answer.status_code == 200
    assert answer.json()["changes"] == [{"start": "2026-02-27T03:00:00Z", "zone": "Asia/Tokyo"}]
    assert answer.json()["zone"] == "Asia/Tokyo"
    left, came = await days.revision(2), await days.revision(1, "2026-03-02")
    assert isinstance(left, DayRecomputed)
    assert (left.reason, left.metrics["heart_rate"].mean) == ("zone-changed", 70)
    assert came.metrics["heart_rate"].mean == 60
    assert came.zone == "Asia/Tokyo"


async def test_a_day_that_all_samples_left_is_told_empty(days: Days) -> None:
    await days.send("r1", without_offset(heart(datetime(2026, 3, 1, 18, tzinfo=UTC))))
    await days.revision(1)
    await days.put("/v1/me/zone", {"zone": "Pacific/Kiritimati", "from": "2026-02-27T00:00:00Z"})
    assert (await days.revision(2)).metrics == {}
    assert (await days.revision(1, "2026-03-02")).metrics["heart_rate"].count == 1
    days.clock.ahead += timedelta(seconds=11)
    await days.put("/v1/me/zone", {"zone": "Pacific/Honolulu", "from": "2026-02-27T00:00:00Z"})
    assert (await days.revision(3)).metrics["heart_rate"].count == 1
    assert (await days.revision(2, "2026-03-02")).metrics == {}
    assert (await days.get("/v1/days/2026-03-02")).json()["metrics"] == {}


async def test_a_home_zone_told_after_the_first_samples_moves_them(days: Days) -> None:
    await days.send("r1", without_offset(heart(datetime(2026, 3, 1, 18, tzinfo=UTC))))
    await days.revision(1)
    for revision, zone in ((2, "Asia/Tokyo"), (2, "Asia/Tokyo"), (1, "Europe/Berlin")):
        await days.running.send(
            topics.USERS,
            UserUpdated(
                event_id=f"u{revision}",
                occurred_at=days.clock(),
                user_id="user-1",
                revision=revision,
                profile=Profile(home_zone=zone),
            ),
        )
    assert (await days.revision(2)).metrics == {}
    assert (await days.revision(1, "2026-03-02")).zone == "Asia/Tokyo"
    assert (await days.get("/v1/me/zone")).json() == {"zone": "Asia/Tokyo", "home_zone": "Asia/Tokyo", "changes": []}


async def test_a_change_of_settings_survives_the_end_of_its_process(days: Days) -> None:
    """What a crash leaves is the job: claimed, its lease over."""
    await days.send("r1", steps(8, 12, 4_000))
    await days.send("r2", steps(6, 20, 10_000), **PHONE)
    await days.revision(2)
    await days.put("/v1/device-priorities/steps", {"order": ["kind:phone"]})
    await days.revision(3)
    job = await days.documents.get(RECOMPUTATIONS, "user-1/priorities-changed/steps")
    assert job is not None
    assert job.due_at is None
    days.clock.ahead += timedelta(seconds=30)
    await days.documents.put(RECOMPUTATIONS, replace(job, due_at=days.clock(), attempts=1))

    async def worked() -> bool:
        again = await days.documents.get(RECOMPUTATIONS, job.id)
        mark = await days.documents.get(DIRTY_DAYS, f"user-1/{SUNDAY}")
        assert again is not None
        assert mark is not None
        return again.due_at is None and mark.due_at is None

    await eventually(worked)
    # Marked again for nothing, nothing is told.
    assert max(one.revision for one in days.told()) == 3


async def hold(days: Days, *sessions: Session) -> None:
    """Sessions as the joint write stores them."""
    for one in sessions:
        await days.documents.put(SESSIONS, one)
    begin = 20_513 * 24
    touch = Touch("user-1", date(2026, 3, 1), begin, begin + 24, {one.type for one in sessions}, "late-data")
    held = await days.documents.get(DIRTY_DAYS, f"user-1/{SUNDAY}")
    days.clock.ahead += timedelta(seconds=11)
    await days.documents.put(DIRTY_DAYS, marked(held, touch, days.clock()))


def session(type: str, device: str, start: datetime, end: datetime, **more: Any) -> Session:
    return Session(
        id=f"user-1/{type}/{device}/{start.isoformat()}",
        user_id="user-1",
        type=type,
        device_id=device,
        device_kind=device,
        identity=f"{device}{start}",
        hour=int(end.timestamp()) // 3600,
        start_us=round(start.timestamp() * 1e6),
        end_us=round(end.timestamp() * 1e6),
        offset_minutes=(start.utcoffset() or timedelta()) // timedelta(minutes=1),
        source_version=0,
        arrived_at=end.astimezone(UTC),
        **more,
    )


async def test_sleeps_and_workouts_are_told_with_their_parts(days: Days) -> None:
    night = [MIDNIGHT + hour * HOUR for hour in (-1, 2, 4, 6)]
    stages = StageColumns(
        start_us=b"".join(round(one.timestamp() * 1e6).to_bytes(8, "little") for one in night[:-1]),
        end_us=b"".join(round(one.timestamp() * 1e6).to_bytes(8, "little") for one in night[1:]),
        stage=("light", "awake", "rem"),
    )
    await hold(
        days,
        session("sleep", "watch", night[0], night[-1], stages=stages),
        session("sleep", "phone", night[0] - HOUR, night[-1]),
        session("workout", "watch", MIDNIGHT + 17 * HOUR, MIDNIGHT + 18 * HOUR, sport="run"),
        session("workout", "phone", MIDNIGHT + 17.2 * HOUR, MIDNIGHT + 18 * HOUR, sport="walk"),
    )
    told = (await days.revision(1)).metrics
    assert (told["sleep"].unit, told["sleep"].count, told["sleep"].sum) == ("s", 1, 6 * 3600)
    assert told["sleep"].parts == {"rem": 2 * 3600, "light": 3 * 3600, "asleep": 3600}
    assert (told["workout"].count, told["workout"].sum, told["workout"].parts) == (1, 3600, {"run": 3600})
    explained = (await days.explained())["metrics"]
    assert [(one["device"], one["part"], one["value"]) for one in explained["sleep"]["segments"]] == [
        ("phone", "asleep", 3600),
        ("watch", "light", 3 * 3600),
        ("watch", "awake", 0),
        ("watch", "rem", 2 * 3600),
    ]
    assert explained["sleep"]["not_counted"] == {"awake": 2 * 3600}
    assert explained["sleep"]["sleeps"][0]["start"] == "2026-02-28T21:00:00Z"
    assert explained["workout"]["segments"][0]["dropped"] == [
        {"device": "phone", "value": 2880, "why": "same-as watch"}
    ]


def slept(start: datetime, end: datetime) -> SessionSubmitted:
    return SessionSubmitted(
        index=0,
        type="sleep",
        start_us=round(start.timestamp() * 1e6),
        end_us=round(end.timestamp() * 1e6),
        offset_minutes=60,
        identity=bytes(16),
    )


async def test_a_later_part_ties_the_evening_to_the_night(days: Days) -> None:
    evening = slept(MIDNIGHT - 2 * HOUR, MIDNIGHT - HOUR / 6)
    await days.send("r1", sessions=(evening,), received=1)
    assert (await days.revision(1, "2026-02-28")).metrics["sleep"].sum == 110 * 60
    await days.send("r2", sessions=(slept(MIDNIGHT + HOUR / 2, MIDNIGHT + 6 * HOUR),), received=1)
    assert (await days.revision(2, "2026-02-28")).metrics == {}
    night = (await days.revision(1)).metrics["sleep"]
    assert (night.count, night.sum) == (1, 110 * 60 + 5.5 * 3600)


async def test_stages_sent_as_samples_are_a_night(days: Days) -> None:
    def stage(from_hour: float, to_hour: float, code: int) -> SeriesColumns:
        return series("sleep", [(MIDNIGHT + from_hour * HOUR, MIDNIGHT + to_hour * HOUR, code)])

    await days.send("r1", stage(-2, -0.2, Stage.LIGHT))
    assert (await days.revision(1, "2026-02-28")).metrics["sleep"].parts == {"light": 1.8 * 3600}
    await days.send("r2", stage(0.3, 4, Stage.DEEP))
    assert (await days.revision(2, "2026-02-28")).metrics == {}
    assert (await days.revision(1)).metrics["sleep"].parts == {"deep": 3.7 * 3600, "light": 1.8 * 3600}


async def test_a_deleted_session_leaves_its_day(days: Days) -> None:
    run = session("workout", "watch", MIDNIGHT + 17 * HOUR, MIDNIGHT + 18 * HOUR, sport="run")
    await hold(days, run)
    await days.revision(1)
    await hold(days, replace(run, version=1, deleted=True))
    assert (await days.revision(2)).metrics == {}


async def test_days_come_in_order_and_those_without_data_are_left_out(days: Days) -> None:
    await days.send("r1", heart(MIDNIGHT, MIDNIGHT - timedelta(days=3), MIDNIGHT - timedelta(days=40)))
    for day in (SUNDAY, "2026-02-26", "2026-01-20"):
        await days.revision(1, day)
    answer = await days.get("/v1/days", **{"from": "2026-02-01", "to": SUNDAY})
    assert [one["date"] for one in answer.json()["days"]] == ["2026-02-26", SUNDAY]
    (single,) = [one for one in answer.json()["days"] if one["date"] == SUNDAY]
    assert single == (await days.get(f"/v1/days/{SUNDAY}")).json()
    year = await days.get("/v1/days", **{"from": "2025-03-02", "to": "2026-03-02"})
    assert [one["date"] for one in year.json()["days"]] == ["2026-01-20", "2026-02-26", SUNDAY]
    assert (await days.get("/v1/days", **{"from": "9999-12-01", "to": "9999-12-31"})).json() == {"days": []}


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"from": "2025-03-01", "to": "2026-03-02"},
        {"from": "2026-03-01"},
        {"to": "2026-03-01"},
        {"from": "20260301", "to": "2026-03-01"},
    ],
)
async def test_a_range_of_days_must_make_sense(days: Days, query: dict[str, str]) -> None:
    assert (await days.get("/v1/days", **query)).status_code == 422


async def test_days_are_their_owners_alone(days: Days) -> None:
    await days.send("r1", steps(8, 12, 4_000))
    await days.revision(1)
    paths = (f"/v1/days/{SUNDAY}", f"/v1/days/{SUNDAY}/explain")
    for path in paths:
        foreign = await days.get(path, user_id="user-2")
        unknown = await days.get(path.replace(SUNDAY, "2026-02-01"))
        assert (foreign.status_code, unknown.status_code) == (404, 404)
        assert foreign.json()["type"] == unknown.json()["type"]
        refused = await days.running.get(path, user_id="user-1", scopes=("samples:read",))
        assert refused.status_code == 403
    theirs = await days.get("/v1/days", user_id="user-2", **{"from": SUNDAY, "to": SUNDAY})
    assert theirs.json() == {"days": []}
    assert (await days.get("/v1/days/yesterday/explain")).status_code == 422


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2028-02-29", "Europe/Berlin", 24),
        ("2026-03-29", "Pacific/Apia", 24),
    ],
)
async def test_days_are_as_long_as_the_users_clock_says(days: Days, day: str, zone: str, hours: int) -> None:
    days.clock.ahead = datetime.fromisoformat(f"{day}T00:00:00+00:00") + timedelta(days=3) - days.clock()
    begin = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(hours=26)
    times = [begin + place * HOUR for place in range(80)]
    sent = series("steps", [(one, one + HOUR, 100) for one in times])
    await days.send("r1", without_offset(sent), zone=zone)
    told = await days.revision(1, day)
    assert (told.metrics["steps"].sum, told.zone) == (100 * hours, zone)


async def test_a_day_across_the_date_line_counts_each_sample_once(days: Days) -> None:
    """Kiritimati to Honolulu: the same date is lived twice, and every sample belongs to the day it says."""
    ahead, behind = timezone(timedelta(hours=14)), timezone(-timedelta(hours=10))
    before = series("steps", [(datetime(2026, 3, 1, 10, tzinfo=ahead), datetime(2026, 3, 1, 11, tzinfo=ahead), 100)])
    after = series("steps", [(datetime(2026, 3, 1, 10, tzinfo=behind), datetime(2026, 3, 1, 11, tzinfo=behind), 50)], 1)
    await days.send("r1", before, after)
    told = await days.revision(1)
    assert told.metrics["steps"].sum == 150
    assert [one["value"] for one in (await days.explained())["metrics"]["steps"]["segments"]] == [100, 50]


async def test_a_day_holds_what_begins_in_it_wherever_that_is(days: Days) -> None:
    """The latest a day can begin, and the longest a workout takes."""
    behind = timezone(-timedelta(hours=14))
    late = datetime(2026, 2, 26, 23, 30, tzinfo=behind)
    await days.send("r1", heart(late))
    assert (await days.revision(1, "2026-02-26")).metrics["heart_rate"].count == 1
    await days.send("r2", sessions=(workout(late, 48),), received=1)
    assert (await days.revision(2, "2026-02-26")).metrics["workout"].sum == 48 * 3600


def workout(start: datetime, hours: float) -> SessionSubmitted:
    return SessionSubmitted(
        index=0,
        type="workout",
        start_us=round(start.timestamp() * 1e6),
        end_us=round((start + hours * HOUR).timestamp() * 1e6),
        offset_minutes=(start.utcoffset() or timedelta()) // timedelta(minutes=1),
        identity=b"workout".ljust(16),
    )


async def test_a_zone_a_day_and_an_hour_away_moves_samples_by_two_days(days: Days) -> None:
    await days.put("/v1/me/zone", {"zone": "Pacific/Pago_Pago", "from": "2026-02-20T00:00:00Z"})
    await days.send("r1", without_offset(heart(datetime(2026, 2, 26, 10, 30, tzinfo=UTC))))
    await days.revision(1, "2026-02-25")
    await days.put("/v1/me/zone", {"zone": "Pacific/Kiritimati", "from": "2026-02-20T00:00:00Z"})
    assert (await days.revision(2, "2026-02-25")).metrics == {}
    assert (await days.revision(1, "2026-02-27")).metrics["heart_rate"].count == 1


async def test_a_device_is_named_however_many_there_are(days: Days) -> None:
    for name in (f"old-{number:03}" for number in range(100)):
        known = Device(
            id=f"user-1/{name}",
            user_id="user-1",
            device_id=name,
            kind="phone",
            app="test/1",
            first_seen_at=days.clock(),
            seen_at=days.clock(),
        )
        await days.documents.insert(DEVICES, known)
    await days.send("r1", sessions=(workout(MIDNIGHT, 1),), received=1)
    await days.send("r2", sessions=(workout(MIDNIGHT, 1),), received=1, **PHONE)
    told = await days.explained()
    assert told["devices"]["phone-1"] == {"kind": "phone", "app": "test/1"}
    assert told["devices"]["watch-1"] == {"kind": "watch", "app": "test/1"}


async def test_a_zone_set_before_a_day_was_computed_moves_what_it_was_marked_for(days: Days) -> None:
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    await days.send("r1", without_offset(heart(at)))
    await days.revision(1)
    # The day rests, so the zone comes between its mark and its computation.
    columns = without_offset(series("steps", [(at, at + HOUR, 10)]))
    await days.running.send_bytes(topics.BATCHES, encoded(batch("r2", columns, occurred_at=days.clock())))
    body = {"zone": "America/New_York", "from": "2026-02-20T00:00:00Z"}
    await days.running.http.put("/v1/me/zone", json=body, headers=days.running.headers(user_id="user-1"))
    found: Any = {}

    async def moved() -> bool:
        nonlocal found
        days.clock.ahead += timedelta(seconds=1)
        found = (await days.get("/v1/days/2026-02-28")).json().get("metrics", {})
        return set(found) == {"heart_rate", "steps"}

    await eventually(moved)
    await days.settled()
    assert found["steps"]["sum"] == 10
    assert (await days.get(f"/v1/days/{SUNDAY}")).json()["metrics"] == {}
