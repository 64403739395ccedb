"""Sleep, workouts, energies and daily values of a local day, of one device and of several."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.buckets import ROW
from services.ingest.days import DayInput, MetricDay, compute, number_of, zone_on
from services.ingest.energy_split import ACTIVE, BASAL, TOTAL, Reconciled, reconcile
from services.ingest.explain import MetricExplained, explain
from services.ingest.merging import Series
from services.ingest.metrics import Stage
from services.ingest.priorities import Ranking, wrong_item
from services.ingest.sleep import Sleep, of_samples, of_session, sleep_day
from services.ingest.workouts import Workout
from services.ingest.zones import ZoneChange, ZoneHistory

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MINUTE = timedelta(minutes=1)
SUNDAY = date(2026, 3, 1)


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def offset(text: str) -> int:
    return (datetime.fromisoformat(text).utcoffset() or timedelta()) // MINUTE


def session(device: str, start: str, end: str, *stages: tuple[str, str, str], kind: str = "") -> Sleep:
    told = [(us(begin), us(stop), stage) for begin, stop, stage in stages]
    return Sleep(device, kind or device, of_session(us(start), us(end), offset(start), told))


def slept(day: date, *sleeps: Sleep, order: Sequence[str] = ()) -> MetricDay | None:
    ranking = Ranking({"sleep": tuple(order)})
    return compute(day, DayInput(sleeps=sleeps, ranking=ranking)).get("sleep")


def series(metric: str, kind: str, *samples: tuple[str, str, float], versions: Sequence[int] = ()) -> Series:
    made = np.zeros(len(samples), ROW)
    for place, (start, end, value) in enumerate(samples):
        version = versions[place] if versions else 0
        made[place] = (us(start), us(end), value, offset(start), place, 0, version, 0, 0)
    return Series(metric, kind, kind, made)


def test_a_night_belongs_to_the_day_it_ends_in() -> None:
    night = session("watch", "2026-02-28T23:00:00+01:00", "2026-03-01T07:00:00+01:00")
    assert slept(SUNDAY, night) == MetricDay("s", 1, sum=8 * 3600, parts={"asleep": 8 * 3600})
    assert slept(SUNDAY - timedelta(days=1), night) is None


def test_naps_and_the_day_after_a_night_shift_count_where_they_end() -> None:
    shift = session("watch", "2026-03-01T09:00:00+01:00", "2026-03-01T15:30:00+01:00")
    nap = session("watch", "2026-03-01T19:00:00+01:00", "2026-03-01T19:20:00+01:00")
    late = session("watch", "2026-03-01T23:40:00+01:00", "2026-03-02T00:20:00+01:00")
    day = slept(SUNDAY, shift, nap, late)
    assert day is not None
    assert (day.count, day.sum) == (2, 6.5 * 3600 + 20 * 60)
    assert slept(SUNDAY + timedelta(days=1), shift, nap, late) == MetricDay("s", 1, sum=2400, parts={"asleep": 2400})


def test_a_sleep_that_ends_at_midnight_is_the_evenings() -> None:
    nap = session("watch", "2026-03-01T23:00:00+01:00", "2026-03-02T00:00:00+01:00")
    assert slept(SUNDAY, nap) is not None
    assert slept(SUNDAY + timedelta(days=1), nap) is None


def test_stages_with_short_gaps_are_one_sleep() -> None:
    before = session("watch", "2026-02-28T22:00:00+01:00", "2026-02-28T23:50:00+01:00")
    after = session("watch", "2026-03-01T00:40:00+01:00", "2026-03-01T06:40:00+01:00")
    both = slept(SUNDAY, before, after)
    assert both is not None
    assert (both.count, both.sum) == (1, 110 * 60 + 6 * 3600)
    assert slept(SUNDAY - timedelta(days=1), before, after) is None
    # Alone the first one is a sleep of the evening.
    assert slept(SUNDAY - timedelta(days=1), before) is not None


def test_in_bed_and_awake_are_no_sleep_and_cover_none() -> None:
    rows = series(
        "sleep",
        "watch",
        ("2026-03-01T22:00:00+00:00", "2026-03-02T07:00:00+00:00", Stage.IN_BED),
        ("2026-03-01T23:00:00+00:00", "2026-03-02T06:00:00+00:00", Stage.ASLEEP),
        ("2026-03-01T23:00:00+00:00", "2026-03-02T00:00:00+00:00", Stage.DEEP),
        ("2026-03-02T02:00:00+00:00", "2026-03-02T02:30:00+00:00", Stage.AWAKE),
        ("2026-03-02T05:00:00+00:00", "2026-03-02T06:00:00+00:00", Stage.REM),
    ).rows
    monday = SUNDAY + timedelta(days=1)
    day = slept(monday, Sleep("watch", "watch", of_samples(rows)))
    assert day is not None
    assert day.parts == {"deep": 3600, "rem": 3600, "asleep": 4.5 * 3600}
    assert day.sum == sum(day.parts.values())
    made = sleep_day(number_of(monday), [Sleep("watch", "watch", of_samples(rows))])
    assert made.not_counted == {"awake": 1800, "in_bed": 9 * 3600}


def test_time_in_bed_alone_is_no_sleep() -> None:
    bed = Sleep("phone", "phone", of_samples(series("sleep", "phone", (*bedtime(), Stage.IN_BED)).rows))
    assert slept(SUNDAY, bed) is None
    assert sleep_day(number_of(SUNDAY), [bed]).not_counted == {"in_bed": 8 * 3600}


def test_time_in_bed_between_two_sleeps_counts_once() -> None:
    bed = ("2026-02-28T22:00:00+00:00", "2026-03-01T10:00:00+00:00", Stage.IN_BED)
    first = ("2026-02-28T22:30:00+00:00", "2026-03-01T02:00:00+00:00", Stage.LIGHT)
    second = ("2026-03-01T04:30:00+00:00", "2026-03-01T09:30:00+00:00", Stage.LIGHT)
    phone = Sleep("phone", "phone", of_samples(series("sleep", "phone", bed, first, second).rows))
    made = sleep_day(number_of(SUNDAY), [phone])
    assert [one.stages for one in made.sleeps] == [{"light": 3.5 * 3600}, {"light": 5 * 3600}]
    assert made.not_counted == {"in_bed": 12 * 3600}


def bedtime() -> tuple[str, str]:
    return "2026-02-28T23:00:00+00:00", "2026-03-01T07:00:00+00:00"


def test_a_better_device_tells_the_night_and_the_rest_is_dropped() -> None:
    start, end = bedtime()
    watch = session("watch", "2026-02-28T23:30:00+00:00", "2026-03-01T06:00:00+00:00")
    phone = session("phone", start, end)
    day = slept(SUNDAY, phone, watch)
    assert day is not None
    assert (day.count, day.sum) == (1, 8 * 3600)
    told = explained(sleeps=[phone, watch])["sleep"]
    assert [(one.device, one.value) for one in told.segments] == [("phone", 1800), ("watch", 23400), ("phone", 3600)]
    assert [(one.device, one.value, one.why) for one in told.segments[1].dropped] == [
        ("phone", 23400, "covered-by watch")
    ]
    turned = explained(sleeps=[phone, watch], order=("device:phone",))["sleep"]
    assert {one.device for one in turned.segments} == {"phone"}


def explained(order: Sequence[str] = (), **held: object) -> dict[str, MetricExplained]:
    given = DayInput(ranking=Ranking({"*": tuple(order)}), **held)
    return explain(SUNDAY, "Europe/Berlin", given, {})


@calm
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 600), st.integers(1, 200), st.sampled_from(list(Stage))),
        max_size=15,
    )
)
def test_nights_add_up_and_never_exceed_the_time_there_is(spans: list[tuple[int, int, int, Stage]]) -> None:
    begin = us("2026-02-28T21:00:00+00:00")
    devices: dict[int, list[tuple[int, int, str]]] = {}
    for device, first, minutes, stage in spans:
        start = begin + first * 60_000_000
        devices.setdefault(device, []).append((start, start + minutes * 60_000_000, stage.label))
    sleeps = [Sleep(f"d{one}", "watch", of_session(0, 0, 0, stages)) for one, stages in sorted(devices.items())]
    total = 0.0
    for day in (SUNDAY - timedelta(days=1), SUNDAY):
        made = sleep_day(number_of(day), sleeps)
        assert sum(one.value for _, one in made.segments) == made.sum == sum(made.parts.values())
        for one in made.sleeps:
            assert sum(one.stages.values()) * 1_000_000 <= one.end_us - one.start_us + 1_000_000 * len(spans)
        total += made.sum
    asleep = {
        minute
        for _, first, minutes, stage in spans
        if stage in (Stage.LIGHT, Stage.DEEP, Stage.REM, Stage.ASLEEP)
        for minute in range(first, first + minutes)
    }
    assert total <= 60 * len(asleep)


def workout(device: str, start: str, minutes: int, sport: str = "run") -> Workout:
    begin = us(start)
    return Workout(device, device, sport, begin, begin + minutes * 60_000_000, offset(start))


def trained(*workouts: Workout) -> MetricDay | None:
    return compute(SUNDAY, DayInput(workouts=workouts)).get("workout")


def test_a_workout_of_two_devices_is_one() -> None:
    watch = workout("watch", "2026-03-01T18:00:00+01:00", 60)
    phone = workout("phone", "2026-03-01T18:10:00+01:00", 70, "walk")
    assert trained(phone, watch) == MetricDay("s", 1, sum=3600, parts={"run": 3600})
    told = explained(workouts=[phone, watch])["workout"]
    assert [(one.device, one.part, one.value) for one in told.segments] == [("watch", "run", 3600)]
    assert [(one.device, one.value, one.why) for one in told.segments[0].dropped] == [("phone", 4200, "same-as watch")]


def test_workouts_one_after_another_are_two_and_belong_to_the_day_they_begin() -> None:
    run = workout("watch", "2026-03-01T18:00:00+01:00", 60)
    ride = workout("phone", "2026-03-01T18:40:00+01:00", 60, "ride")
    night = workout("watch", "2026-03-01T23:30:00+01:00", 60, "")
    day = trained(run, ride, night)
    assert day == MetricDay("s", 3, sum=3 * 3600, parts={"other": 3600, "ride": 3600, "run": 3600})
    assert compute(SUNDAY + timedelta(days=1), DayInput(workouts=[night])) == {}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({ACTIVE: 500, BASAL: 1500, TOTAL: 2100}, Reconciled({ACTIVE: 500, BASAL: 1500, TOTAL: 2000}, (TOTAL,))),
        ({ACTIVE: 500, BASAL: 1500, TOTAL: 2000}, Reconciled({ACTIVE: 500, BASAL: 1500, TOTAL: 2000})),
        ({ACTIVE: 500, BASAL: 1500}, Reconciled({ACTIVE: 500, BASAL: 1500, TOTAL: 2000}, (TOTAL,))),
        ({ACTIVE: 500, TOTAL: 2000}, Reconciled({ACTIVE: 500, BASAL: 1500, TOTAL: 2000}, (BASAL,))),
        ({BASAL: 1500, TOTAL: 2000}, Reconciled({ACTIVE: 500, BASAL: 1500, TOTAL: 2000}, (ACTIVE,))),
        ({BASAL: 1500, TOTAL: 900}, Reconciled({ACTIVE: 0, BASAL: 1500, TOTAL: 1500}, (ACTIVE, TOTAL))),
        ({ACTIVE: 500}, Reconciled({ACTIVE: 500})),
        ({TOTAL: 500}, Reconciled({TOTAL: 500})),
        ({}, Reconciled({})),
    ],
)
def test_energies_are_told_so_that_they_add_up(reported: dict[str, int], expected: Reconciled) -> None:
    assert reconcile(reported) == expected


def test_a_day_marks_the_energy_that_follows_from_the_others() -> None:
    hour = ("2026-03-01T08:00:00+01:00", "2026-03-01T09:00:00+01:00")
    held = [series(ACTIVE, "watch", (*hour, 100.25)), series(BASAL, "watch", (*hour, 70.5))]
    day = compute(SUNDAY, DayInput(held))
    assert day[TOTAL] == MetricDay("kcal", 0, sum=170.75, derived=True)
    assert not day[ACTIVE].derived
    told = explained(series=[*held, series(TOTAL, "phone", (*hour, 200))])
    assert (told[TOTAL].sum, told[TOTAL].derived) == (170.75, True)
    assert [(one.device, one.sent, one.taken, one.dropped) for one in told[TOTAL].devices] == [("phone", 200, 0, 200)]
    assert told[TOTAL].note is not None
    assert told[TOTAL].segments == ()
    assert [one.value for one in told[ACTIVE].segments] == [100.25]


def test_an_energy_reported_of_other_days_alone_explains_nothing_of_this_one() -> None:
    hour = ("2026-03-01T08:00:00+01:00", "2026-03-01T09:00:00+01:00")
    before = ("2026-02-28T22:00:00+01:00", "2026-02-28T23:00:00+01:00")
    held = [series(ACTIVE, "watch", (*hour, 100)), series(TOTAL, "watch", (*hour, 300))]
    told = explained(series=[*held, series(BASAL, "watch", (*before, 70))])
    assert (told[BASAL].sum, told[BASAL].derived, told[BASAL].devices) == (200, True, ())
    assert (told[TOTAL].sum, told[TOTAL].derived, told[TOTAL].note) == (300, False, None)
    assert [one.value for one in told[TOTAL].segments] == [300]


def test_a_daily_value_is_the_best_devices_newest() -> None:
    morning, evening = "2026-03-01T07:00:00+01:00", "2026-03-01T21:00:00+01:00"
    watch = series("heart_rate_resting", "watch", (evening, evening, 52), (morning, morning, 55), versions=[1, 2])
    phone = series("heart_rate_resting", "phone", (evening, evening, 60))
    day = compute(SUNDAY, DayInput([phone, watch]))["heart_rate_resting"]
    assert (day.count, day.mean, day.min, day.max, day.sum) == (1, 55, 55, 55, None)
    told = explained(series=[phone, watch])["heart_rate_resting"]
    assert [(one.device, one.sent, one.why) for one in told.devices] == [
        ("watch", 55, None),
        ("phone", 60, "covered-by watch"),
    ]
    assert compute(SUNDAY + timedelta(days=1), DayInput([phone, watch])) == {}


def test_readings_are_told_by_device() -> None:
    at = "2026-03-01T07:00:00+01:00"
    told = explained(series=[series("heart_rate", "phone", (at, at, 60)), series("heart_rate", "watch", (at, at, 70))])
    assert [(one.device, one.samples) for one in told["heart_rate"].devices] == [("watch", 1), ("phone", 1)]
    assert told["heart_rate"].mean == 65


def test_the_users_order_of_devices_comes_before_that_of_kinds() -> None:
    def first(order: dict[str, tuple[str, ...]], metric: str = "steps") -> str:
        kinds = [Series(metric, f"my-{kind}", kind, np.zeros(0, ROW)) for kind in ("phone", "ring", "watch", "toaster")]
        return Ranking(order).ranked(metric, kinds)[0].device_id

    assert first({}) == "my-watch"
    assert first({"steps": ("kind:phone",)}) == "my-phone"
    assert first({"steps": ("device:my-toaster", "kind:phone")}) == "my-toaster"
    assert first({"*": ("kind:phone",)}) == "my-phone"
    assert first({"*": ("kind:phone",), "steps": ("kind:ring",)}) == "my-ring"
    assert first({"distance": ("kind:phone",)}) == "my-watch"


@pytest.mark.parametrize("item", ["watch", "kind:", "device:", "", "Kind:watch"])
def test_an_order_names_devices_or_kinds(item: str) -> None:
    assert wrong_item(["kind:watch", item]) == item
    assert wrong_item(["kind:watch", "device:watch"]) is None
    assert wrong_item(["kind:watch", "kind:watch"]) == "kind:watch"


def test_the_zone_of_a_day_is_the_one_it_ended_in() -> None:
    def since(text: str, zone: str) -> ZoneChange:
        return ZoneChange(us(text), zone)

    history = ZoneHistory(
        "Europe/Berlin",
        (since("2026-03-01T12:00:00+00:00", "Asia/Tokyo"), since("2026-03-05T02:00:00+00:00", "Pacific/Honolulu")),
    )
    assert zone_on(date(2026, 2, 28), history, "") == "Europe/Berlin"
    assert zone_on(date(2026, 2, 28), history, "Europe/Rome") == "Europe/Rome"
    assert zone_on(date(2026, 3, 1), history, "") == "Asia/Tokyo"
    # The 4th ended in Tokyo before the flight; the 5th, begun there, ended in Honolulu.
    assert zone_on(date(2026, 3, 4), history, "") == "Asia/Tokyo"
    assert zone_on(date(2026, 3, 5), history, "") == "Pacific/Honolulu"
    assert zone_on(date(2026, 3, 5), ZoneHistory("UTC"), "Europe/Rome") == "Europe/Rome"


@pytest.mark.parametrize("zone", ["Pacific/Apia", "Pacific/Kiritimati", "Pacific/Honolulu", "Asia/Kathmandu"])
def test_samples_without_an_offset_take_the_zones(zone: str) -> None:
    history = ZoneHistory("UTC", (ZoneChange(0, zone),))
    for day in (SUNDAY, date(2028, 2, 29), date(2026, 10, 25)):
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC).isoformat()
        given = series("heart_rate", "watch", (noon, noon, 60))
        given.rows["offset"] = -(2**15)
        told = Series("heart_rate", "watch", "watch", history.with_offsets(given.rows))
        assert compute(day, DayInput([told]))["heart_rate"].count == 1
        assert history.offset_at(us(noon)) == told.rows["offset"][0]
