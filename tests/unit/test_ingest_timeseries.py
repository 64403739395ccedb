"""A metric over time: fed in any parts it gives the same points, and windows add up to what was sent."""

import itertools
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.buckets import HOUR_US, MINUTE_US, ROW, Array
from services.ingest.merging import Series
from services.ingest.moments import local_moment, micros, stamps
from services.ingest.points import encoded
from services.ingest.priorities import Ranking
from services.ingest.timeseries import END_OF_TIME_US, STEPS, Flow, Wanted
from shared.events.gateway import UNKNOWN_OFFSET

DAY_US = 24 * HOUR_US
NOON = 20_513 * DAY_US + 12 * HOUR_US
KINDS = ("watch", "phone", "ring")


def rows_of(*samples: tuple[int, int, float], offset: int = 60) -> Array:
    """Samples as (minutes after noon, minutes long, value)."""
    rows = np.zeros(len(samples), ROW)
    for place, (start, length, value) in enumerate(sorted(samples)):
        begin = NOON + start * MINUTE_US
        rows[place] = (begin, begin + length * MINUTE_US, value, offset, begin, begin + length * MINUTE_US, 0, 0, 0)
    return rows


def wanted(resolution: str, *, interval: bool = True, merged: bool = True, **changed: Any) -> Wanted:
    known: dict[str, Any] = {"from_us": NOON - DAY_US, "to_us": NOON + 4 * DAY_US}
    name = "steps" if interval else "heart_rate"
    return Wanted(name, interval, step_us=STEPS.get(resolution), merged=merged, **(known | changed))


def of(rows: Sequence[Array]) -> list[Series]:
    return [Series("steps", f"{kind}-1", kind, each) for kind, each in zip(KINDS, rows, strict=False)]


def points(ask: Wanted, series: Sequence[Series], *edges: int) -> list[str]:
    """The points when fed bucket by bucket, the edges in microseconds."""
    flow = Flow(ask)
    found: list[str] = []
    for begin, end in itertools.pairwise((-END_OF_TIME_US, *edges, END_OF_TIME_US)):
        parts = [
            Series(
                one.metric,
                one.device_id,
                one.device_kind,
                one.rows[(one.rows["start"] >= begin) & (one.rows["start"] < end)],
            )
            for one in series
        ]
        found += encoded(flow.feed(parts, end), ask, b"\n").decode().splitlines()
    return found


def sums(ask: Wanted, series: Sequence[Series]) -> dict[tuple[int, int], float]:
    table = Flow(ask).feed(series, END_OF_TIME_US)
    return {(int(one["key"]), int(one["device"])): float(one["sum"]) for one in table.rows}


# Thousands of minutes a case; on a busy machine that takes its time.
unhurried = settings(deadline=None, max_examples=60)


def one_after_another(gaps: list[tuple[int, int, int]]) -> list[tuple[int, int, float]]:
    """(minutes before it, minutes long, value) as samples without overlap."""
    ends = list(itertools.accumulate(gap + length for gap, length, _ in gaps))
    return [(end - length - 600, length, float(value)) for end, (_, length, value) in zip(ends, gaps, strict=True)]


samples = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 400), st.integers(0, 1000)), max_size=8).map(
    one_after_another
)
devices = st.tuples(samples, samples, samples).map(lambda found: of([rows_of(*one) for one in found]))
resolutions = st.sampled_from(("raw", "1m", "15m", "1h", "1d"))


@unhurried
@given(devices, resolutions, st.booleans(), st.lists(st.integers(-20, 20), max_size=4, unique=True))
def test_points_do_not_depend_on_the_parts_they_came_in(
    series: list[Series], resolution: str, merged: bool, hours: list[int]
) -> None:
    ask = wanted(resolution, merged=merged)
    whole = points(ask, series)
    split = points(ask, series, *(NOON + hour * HOUR_US for hour in sorted(hours)))
    assert [rounded(one) for one in split] == [rounded(one) for one in whole]


def rounded(line: str) -> dict[str, Any]:
    return {name: round(one, 6) if isinstance(one, float) else one for name, one in json.loads(line).items()}


@unhurried
@given(samples, resolutions.filter(lambda one: one != "raw"))
def test_windows_of_one_device_add_up_to_what_it_sent(sent: list[tuple[int, int, float]], resolution: str) -> None:
    rows = rows_of(*sent)
    found = sums(wanted(resolution), of([rows]))
    assert sum(found.values()) == pytest.approx(sum(one[2] for one in sent))


@unhurried
@given(devices)
def test_merged_windows_are_a_minute_oracle(series: list[Series]) -> None:
    """Every minute belongs to the best device that says anything about it."""
    oracle: dict[int, float] = {}
    for one in Ranking().ranked("steps", series):
        mine: dict[int, float] = {}
        for row in one.rows:
            minutes = range(int(row["start"]) // MINUTE_US, int(row["end"]) // MINUTE_US)
            mine |= {minute: float(row["value"]) / len(minutes) for minute in minutes}
        oracle = mine | oracle
    found = {key: value for (key, _), value in sums(wanted("1m"), series).items()}
    assert found.keys() == oracle.keys()
    assert all(found[minute] == pytest.approx(oracle[minute]) for minute in oracle)


def test_readings_of_all_devices_have_one_window() -> None:
    ask = wanted("1h", interval=False)
    found = points(ask, of([rows_of((0, 0, 60), (59, 0, 80)), rows_of((30, 0, 100))]))
    assert found == [
        '{"start":"2026-03-01T12:00:00Z","end":"2026-03-01T13:00:00Z","count":3,"min":60.0,"max":100.0,"mean":80.0}'
    ]


def test_a_sample_cut_in_two_counts_once() -> None:
    series = of([rows_of((60, 60, 10)), rows_of((0, 180, 180))])
    table = Flow(wanted("1d")).feed(series, END_OF_TIME_US)
    assert table.rows["count"].tolist() == [2]
    assert table.rows["sum"].tolist() == [130]


def test_users_own_order_decides() -> None:
    series = of([rows_of((0, 60, 10)), rows_of((0, 60, 100))])
    ranking = Ranking({"steps": ("kind:phone",)})
    assert list(sums(wanted("1d", ranking=ranking), series).values()) == [100]


def test_a_day_of_25_hours_has_two_offsets() -> None:
    """Clocks go back in the night to 25 October 2026."""
    start = micros(local_moment(0, 0).replace(year=2026, month=10, day=24, hour=22, minute=30))
    rows = np.zeros(2, ROW)
    for place, (at, offset) in enumerate(((start, 120), (start + 24 * HOUR_US, 60))):
        rows[place] = (at, at, 60, offset, at, at, 0, 0, 0)
    ask = Wanted("heart_rate", False, start - DAY_US, start + 2 * DAY_US, STEPS["1d"], True)
    (line,) = points(ask, [Series("heart_rate", "watch-1", "watch", rows)])
    assert line.startswith(
        '{"date":"2026-10-25","start":"2026-10-25T00:00:00+02:00","end":"2026-10-26T00:00:00+01:00","count":2'
    )


@unhurried
@given(st.lists(st.tuples(st.integers(0, 2**52), st.one_of(st.just(UNKNOWN_OFFSET), st.integers(-840, 840)))))
def test_times_are_written_as_they_are(sent: list[tuple[int, int]]) -> None:
    times, offsets = (np.array([one[place] for one in sent], kind) for place, kind in ((0, "i8"), (1, "<i2")))
    for stamp, (time, offset) in zip(stamps(times, offsets).tolist(), sent, strict=True):
        text = stamp.decode()
        read = datetime.fromisoformat(text)
        assert micros(read) == time
        assert text.endswith("Z") == (offset == UNKNOWN_OFFSET)
        assert read.utcoffset() == local_moment(time, offset).utcoffset()


@pytest.mark.parametrize(("resolution", "most"), [("raw", 0), ("1m", 0), ("1h", 0), ("1d", 3 * 1440)])
def test_a_year_of_minutes_keeps_no_more_than_the_open_windows(resolution: str, most: int) -> None:
    minutes = np.arange(365 * 1440)
    rows = np.zeros(len(minutes), ROW)
    rows["start"] = rows["end"] = rows["id_hi"] = rows["id_lo"] = NOON + minutes * MINUTE_US
    rows["value"], rows["offset"] = 60, UNKNOWN_OFFSET
    ask = wanted(resolution, interval=False, to_us=NOON + 400 * DAY_US)
    flow = Flow(ask)
    found = 0
    for begin in range(0, len(rows), 6 * 60):
        part = rows[begin : begin + 6 * 60]
        complete = int(part["start"][-1]) + MINUTE_US
        found += len(flow.feed([Series("heart_rate", "watch-1", "watch", part)], complete).rows)
        assert flow.kept <= most
    found += len(flow.feed([], END_OF_TIME_US).rows)
    assert found == {"raw": 525_600, "1m": 525_600, "1h": 8_760, "1d": 366}[resolution]


def test_a_long_sample_is_kept_until_it_ends() -> None:
    flow = Flow(wanted("1h"))
    flow.feed(of([rows_of((0, 600, 600))]), NOON + HOUR_US)
    assert flow.kept == 1
    flow.feed([], NOON + 10 * HOUR_US)
    assert flow.kept == 0
