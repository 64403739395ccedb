"""Local days: whose day a sample is, clock changes, the date line, and devices resolved without counting twice."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.buckets import MINUTE_US, ROW, Array
from services.ingest.days import DayInput, Series, compute, date_of, day_numbers, has_ended
from services.ingest.zones import offsets_in, zone_of

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DAY = date(2026, 3, 1)


def rows(*samples: tuple[str, str, float]) -> Array:
    """Rows of (start with offset, end with offset, value); the start's offset counts."""
    made = np.zeros(len(samples), ROW)
    for place, (start_text, end_text, value) in enumerate(samples):
        start, end = datetime.fromisoformat(start_text), datetime.fromisoformat(end_text)
        offset = (start.utcoffset() or timedelta()) // timedelta(minutes=1)
        times = [round(moment.timestamp() * 1_000_000) for moment in (start, end)]
        made[place] = (*times, value, offset, *times, 0, 0, 0)
    return made


def at(*readings: tuple[str, float]) -> Array:
    return rows(*((moment, moment, value) for moment, value in readings))


def steps(kind: str, *samples: tuple[str, str, float], device: str = "") -> Series:
    return Series("steps", device or kind, kind, rows(*samples))


def total(day: date, series: Sequence[Series]) -> float | None:
    metrics = compute(day, DayInput(series))
    return metrics["steps"].sum if "steps" in metrics else None


def test_readings_have_least_most_and_mean() -> None:
    series = [
        Series("heart_rate", "w", "watch", at(("2026-03-01T08:00:00+01:00", 60), ("2026-03-01T09:00:00+01:00", 71)))
    ]
    heart = compute(DAY, DayInput(series))["heart_rate"]
    assert (heart.unit, heart.count, heart.min, heart.max, heart.mean, heart.sum) == ("/min", 2, 60, 71, 65.5, None)


def test_watch_and_phone_are_resolved_along_time() -> None:
    watch = steps("watch", ("2026-03-01T08:00:00+00:00", "2026-03-01T12:00:00+00:00", 4_000))
    phone = steps("phone", ("2026-03-01T06:00:00+00:00", "2026-03-01T20:00:00+00:00", 10_000))
    assert total(DAY, [phone, watch]) == 11_143


def test_a_device_alone_counts_everything_once() -> None:
    hour = steps("phone", ("2026-03-01T08:00:00+00:00", "2026-03-01T09:00:00+00:00", 600))
    both = steps(
        "phone",
        ("2026-03-01T08:00:00+00:00", "2026-03-01T09:00:00+00:00", 600),
        ("2026-03-01T08:00:00+00:00", "2026-03-01T08:30:00+00:00", 500),
    )
    assert total(DAY, [hour]) == 600
    # The shorter record stands, the longer one fills what it leaves open.
    assert total(DAY, [both]) == 800


def test_a_sample_across_midnight_is_divided() -> None:
    night = steps("watch", ("2026-03-01T23:50:00+01:00", "2026-03-02T00:10:00+01:00", 100))
    assert total(DAY, [night]) == 50
    assert total(DAY + timedelta(days=1), [night]) == 50


def test_a_sample_belongs_to_the_day_of_its_own_offset() -> None:
    # One moment on both sides of the date line.
    auckland = at(("2026-03-02T08:00:00+13:00", 60))
    samoa = at(("2026-03-01T08:00:00-11:00", 61))
    assert auckland["start"][0] == samoa["start"][0]
    series = [Series("heart_rate", "w", "watch", np.concatenate((auckland, samoa)))]
    assert compute(date(2026, 3, 2), DayInput(series))["heart_rate"].mean == 60
    assert compute(date(2026, 3, 1), DayInput(series))["heart_rate"].mean == 61


@pytest.mark.parametrize(
    ("day", "hours", "before", "after"),
    [(date(2026, 3, 29), 23, "+01:00", "+02:00"), (date(2026, 10, 25), 25, "+02:00", "+01:00")],
)
def test_days_with_a_clock_change_have_23_and_25_hours(day: date, hours: int, before: str, after: str) -> None:
    begin = datetime.fromisoformat(f"{day}T00:00:00{before}")
    end = datetime.fromisoformat(f"{day + timedelta(days=1)}T00:00:00{after}")
    assert (end - begin) == timedelta(hours=hours)
    zone = zone_of("Europe/Berlin")
    assert zone is not None
    made = []
    for hour in range(-1, hours + 1):
        start = (begin.astimezone(UTC) + timedelta(hours=hour)).astimezone(zone)
        stop = (start.astimezone(UTC) + timedelta(hours=1)).astimezone(zone)
        made.append((start.isoformat(), stop.isoformat(), 100.0))
    assert total(day, [steps("watch", *made)]) == 100 * hours
    assert total(day - timedelta(days=1), [steps("watch", *made)]) == 100
    assert total(day + timedelta(days=1), [steps("watch", *made)]) == 100


def test_a_zone_gives_the_offset_of_each_time() -> None:
    zone = zone_of("Europe/Berlin")
    assert zone is not None
    moments = at(("2026-03-29T00:59:59+00:00", 1), ("2026-03-29T01:00:00+00:00", 1), ("2026-07-01T00:00:00+00:00", 1))
    assert offsets_in(zone, moments["start"]).tolist() == [60, 120, 120]
    assert zone_of("Nowhere/At-All") is None
    assert zone_of("../etc/passwd") is None
    assert zone_of("") is None


def test_a_day_is_over_six_hours_after_its_local_end() -> None:
    end = datetime(2026, 3, 2, 5, tzinfo=UTC)  # 06:00 in Berlin
    assert has_ended(DAY, "Europe/Berlin", end)
    assert not has_ended(DAY, "Europe/Berlin", end - timedelta(minutes=1))


@pytest.mark.parametrize("apart_us", [0, 1_000])
def test_thousands_of_records_over_one_another_are_counted_once(apart_us: int) -> None:
    """First-fit over each length: pass by pass, 10,000 of them held the event loop for 5 s."""
    made = np.zeros(5_000, ROW)
    made["start"] = 20_000 * 1440 * MINUTE_US + np.arange(len(made)) * apart_us
    made["end"] = made["start"] + 5 * MINUTE_US
    made["value"], made["id_hi"] = 300, np.arange(len(made))
    result = compute(date_of(20_000), DayInput([Series("steps", "watch", "watch", made)]))["steps"]
    assert result.sum == round(300 + 4_999 * apart_us / 1_000_000)


Span = tuple[int, int, int, int]  # device, first minute, minutes, steps


@calm
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1400), st.integers(1, 300), st.integers(0, 1000)), max_size=12)
)
def test_overlaps_agree_with_a_minute_by_minute_count(spans: list[Span]) -> None:
    kinds = ("watch", "ring", "phone")
    begin = 20_000 * 24 * 60
    by_device: dict[int, list[Span]] = {}
    for span in dict.fromkeys(spans):
        # One record for each (start, end), as identity has it.
        of_device = by_device.setdefault(span[0], [])
        if all(known[1:3] != span[1:3] for known in of_device):
            of_device.append(span)
    series = [Series("steps", kinds[device], kinds[device], minute_rows(begin, of)) for device, of in by_device.items()]
    for number in (20_000, 20_001):
        expected = minute_by_minute([span for of in by_device.values() for span in of], (number - 20_000) * 1440)
        result = total(date_of(number), series)
        assert (result or 0) == pytest.approx(expected, abs=0.501)


def minute_rows(begin: int, spans: Sequence[Span]) -> Array:
    made = np.zeros(len(spans), ROW)
    for place, (_, first, minutes, value) in enumerate(spans):
        times = ((begin + first) * MINUTE_US, (begin + first + minutes) * MINUTE_US)
        made[place] = (*times, value, 0, *times, 0, 0, 0)
    return made[np.argsort(made["start"], kind="stable")]


def minute_by_minute(spans: Sequence[Span], begin: int) -> float:
    """Each minute goes to the best device's shortest, then earliest record."""
    result = 0.0
    layered: dict[int, list[Span]] = {}
    for span in spans:
        layered.setdefault(span[0], []).append(span)
    taken: set[int] = set()
    for device in sorted(layered):
        for _, first, minutes, value in sorted(greedy(layered[device]), key=lambda one: one[2]):
            free = set(range(first, first + minutes)) - taken
            result += value / minutes * len([minute for minute in free if begin <= minute < begin + 1440])
            taken |= set(range(first, first + minutes))
    return result


def greedy(spans: Sequence[Span]) -> list[Span]:
    """Records of one length, first those that do not overlap one another, taken from the left."""
    ordered: list[Span] = []
    for minutes in sorted({span[2] for span in spans}):
        rest = sorted(span for span in spans if span[2] == minutes)
        while rest:
            free_from, later = -1, []
            for span in rest:
                if span[1] >= free_from:
                    ordered.append(span)
                    free_from = span[1] + minutes
                else:
                    later.append(span)
            rest = later
    return ordered


@calm
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 600), st.integers(-12 * 4, 14 * 4)), max_size=20))
def test_days_divide_every_sample_without_rest(spans: list[tuple[int, int, int]]) -> None:
    """The days' totals add up to the samples' total when nothing overlaps."""
    made = np.zeros(len(spans), ROW)
    at_minute = 20_000 * 1440
    for place, (gap, minutes, quarter) in enumerate(spans):
        start = (at_minute + gap) * MINUTE_US
        made[place] = (start, start + minutes * MINUTE_US, 10, quarter * 15, start, 0, 0, 0, 0)
        at_minute += gap + minutes
    if not len(made):
        return
    first, last = day_numbers(made)
    series = [Series("steps", "watch", "watch", made)]
    totals = [total(date_of(number), series) or 0 for number in range(first.min(), last.max() + 1)]
    assert sum(totals) == pytest.approx(10 * len(spans), abs=0.5 * len(totals))
