"""What is expected of a device, what came late, and what counts as a gap."""

import numpy as np

from services.ingest.buckets import HOUR_US, MINUTE_US, ROW, Array
from services.ingest.completeness import DAY_US, Gap, Tally

FIRST = 20_500
CET = 60
LATER = (FIRST + 100) * DAY_US


def minutes(day: int, first: int, last: int, *, every: int = 1, arrived_after: int = 1) -> Array:
    """Readings of the local minutes [first, last) of that day."""
    at = np.arange(first, last, every) * MINUTE_US + day * DAY_US - CET * MINUTE_US
    rows = np.zeros(len(at), ROW)
    rows["start"] = rows["end"] = at
    rows["offset"] = CET
    rows["arrived"] = at // MINUTE_US + arrived_after
    return rows


def test_usual_is_the_median_of_the_last_fortnight_with_data() -> None:
    tally = Tally(readings=True)
    for day in range(20):
        tally.add(minutes(FIRST + day * 2, 480, 500 if day < 6 else 580))
    assert tally.expected(FIRST + 100) == 100
    assert tally.expected(FIRST + 6) == 20
    assert tally.expected(FIRST + 3) is None


def test_what_came_more_than_six_hours_late_is_late() -> None:
    tally = Tally(readings=True)
    tally.add(minutes(FIRST, 480, 490, arrived_after=6 * 60))
    tally.add(minutes(FIRST, 500, 510, arrived_after=6 * 60 + 1))
    (day,) = tally.days([FIRST], LATER, CET)
    assert (day.received, day.late) == (20, 10)


def test_a_gap_is_time_awake_without_readings() -> None:
    tally = Tally(readings=True)
    tally.add(minutes(FIRST, 0, 12 * 60))
    tally.add(minutes(FIRST, 12 * 60 + 10, 15 * 60))
    tally.add(minutes(FIRST, 16 * 60, 24 * 60))
    (day,) = tally.days([FIRST], LATER, CET)
    begin = FIRST * DAY_US
    assert day.gaps == (Gap(begin + 15 * HOUR_US - MINUTE_US, begin + 16 * HOUR_US, CET, CET),)


def test_a_day_without_anything_is_one_gap_and_the_night_is_none() -> None:
    tally = Tally(readings=True)
    tally.add(minutes(FIRST, 6 * 60, 22 * 60))
    tally.add(minutes(FIRST + 2, 6 * 60, 22 * 60))
    days = tally.days([FIRST, FIRST + 1, FIRST + 2], LATER, CET)
    assert [len(day.gaps or ()) for day in days] == [0, 1, 0]
    (gap,) = days[1].gaps or ()
    assert (gap.start - (FIRST + 1) * DAY_US, gap.end - gap.start) == (6 * HOUR_US, 16 * HOUR_US)


def test_a_device_that_reads_rarely_has_no_gaps_between_its_readings() -> None:
    tally = Tally(readings=True)
    tally.add(minutes(FIRST, 0, 24 * 60, every=30))
    assert tally.days([FIRST], LATER, CET)[0].gaps == ()


def test_what_is_still_to_come_is_no_gap() -> None:
    tally = Tally(readings=True)
    tally.add(minutes(FIRST, 6 * 60, 12 * 60))
    now = FIRST * DAY_US + 12 * HOUR_US + 10 * MINUTE_US - CET * MINUTE_US
    assert tally.days([FIRST, FIRST + 1], now, CET)[0].gaps == ()
    assert tally.days([FIRST + 1], now, CET)[0].gaps == ()


def test_intervals_have_no_gaps() -> None:
    tally = Tally(readings=False)
    tally.add(minutes(FIRST, 6 * 60, 7 * 60))
    assert tally.days([FIRST], LATER, CET)[0].gaps is None
