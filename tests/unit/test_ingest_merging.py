"""Devices merged along time: a second-by-second oracle for the total and for the segments behind it."""

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.buckets import ROW, Array
from services.ingest.merging import DAY_US, Cover, Explained, Series, explained, quanta, shares, total

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECOND_US = 1_000_000
NUMBER = 20_000
BEGIN = NUMBER * DAY_US
# (device, first second of the day, seconds, value); the best device is 0
Span = tuple[int, int, int, int]
spans = st.lists(
    st.tuples(st.integers(0, 2), st.integers(-300, 900), st.integers(1, 500), st.integers(0, 1000)), max_size=14
)


def series(chosen: Sequence[Span]) -> list[Series]:
    """One series per device, best first; one record for each (start, end) of a device, as identity has it."""
    devices: dict[int, dict[tuple[int, int], Span]] = {}
    for span in chosen:
        devices.setdefault(span[0], {}).setdefault(span[1:3], span)
    return [
        Series("steps", f"device-{device}", "watch", rows(list(of.values()))) for device, of in sorted(devices.items())
    ]


def rows(of_device: Sequence[Span]) -> Array:
    made = np.zeros(len(of_device), ROW)
    for place, (_, first, seconds, value) in enumerate(of_device):
        start = BEGIN + first * SECOND_US
        made[place] = (start, start + seconds * SECOND_US, value, 0, place, 0, 0, 0, 0)
    return made[np.argsort(made["start"], kind="stable")]


def oracle(ranked: Sequence[Series]) -> dict[int, tuple[str, Fraction]]:
    """Who tells each second of the day, and how much: the best device's shortest, then earliest record."""
    taken: dict[int, tuple[str, Fraction]] = {}
    for one in ranked:
        for start, end, value in in_order(one.rows):
            rate = Fraction(value) / (end - start)
            for second in range(start, end):
                if 0 <= second < 86_400:
                    taken.setdefault(second, (one.device_id, rate))
    return taken


def in_order(of_device: Array) -> list[tuple[int, int, int]]:
    """Records as (start, end, value) in seconds: by length; of one length first those that overlap none before them."""
    records = [
        (int(one["start"] - BEGIN) // SECOND_US, int(one["end"] - BEGIN) // SECOND_US, int(one["value"]))
        for one in of_device
    ]
    ordered: list[tuple[int, int, int]] = []
    for length in sorted({end - start for start, end, _ in records}):
        rest = sorted(one for one in records if one[1] - one[0] == length)
        while rest:
            free_from, later = -(10**9), []
            for one in rest:
                if one[0] >= free_from:
                    ordered.append(one)
                    free_from = one[1]
                else:
                    later.append(one)
            rest = later
    return ordered


def told(chosen: Sequence[Span], decimals: int = 0) -> tuple[list[Series], Explained]:
    ranked = series(chosen)
    return ranked, explained(ranked, BEGIN, decimals)


@calm
@given(spans)
def test_totals_agree_with_a_second_by_second_count(chosen: list[Span]) -> None:
    ranked = series(chosen)
    expected = sum((rate for _, rate in oracle(ranked).values()), Fraction(0))
    assert abs(total(ranked, BEGIN)[0] - float(expected)) < 1e-6


@calm
@given(spans, st.integers(0, 3))
def test_segments_add_up_to_the_total_the_quick_path_gives(chosen: list[Span], decimals: int) -> None:
    ranked, result = told(chosen, decimals)
    quick, count = total(ranked, BEGIN)
    assert (quanta(result.sum, decimals), result.count) == (quanta(quick, decimals), count)
    assert sum(int(quanta(one.value, decimals)) for one in result.segments) == int(quanta(result.sum, decimals))


@calm
@given(spans)
def test_segments_say_who_told_each_second_and_how_much(chosen: list[Span]) -> None:
    ranked, result = told(chosen, 3)
    taken = oracle(ranked)
    inside: set[int] = set()
    for one in result.segments:
        seconds = range((one.start_us - BEGIN) // SECOND_US, (one.end_us - BEGIN) // SECOND_US)
        mine = [taken[second] for second in seconds if second in taken]
        assert {device for device, _ in mine} == {one.device_id}
        assert abs(one.value - float(sum(rate for _, rate in mine))) < 0.002
        assert not inside & set(seconds)
        inside |= set(seconds)
    assert inside >= taken.keys()


@calm
@given(spans)
def test_what_was_sent_is_either_taken_or_dropped(chosen: list[Span]) -> None:
    ranked, result = told(chosen, 3)
    for one in ranked:
        parts = [(max(0, start), min(86_400, end), end - start, value) for start, end, value in in_order(one.rows)]
        sent = sum(value * (end - start) / length for start, end, length, value in parts if end > start)
        taken = sum(each.value for each in result.segments if each.device_id == one.device_id)
        dropped = [each for segment in result.segments for each in segment.dropped if each.device_id == one.device_id]
        assert abs(sent - taken - sum(each.value for each in dropped)) < 0.01
        assert all(each.value > 0 for each in dropped)


@calm
@given(st.lists(st.floats(0, 1e6), max_size=50), st.integers(0, 3))
def test_shares_add_up_to_their_rounded_sum(values: list[float], decimals: int) -> None:
    parts = shares(np.array(values, "f8"), decimals)
    assert parts.sum() == (quanta(np.cumsum(values)[-1], decimals) if values else 0)
    assert (np.abs(parts - np.array(values) * 10**decimals) <= 1.001).all()


@calm
@given(spans, spans)
def test_pieces_are_what_a_cover_leaves_free(one: list[Span], other: list[Span]) -> None:
    cover = Cover()
    for each in series(one):
        cover = cover.with_intervals(each.rows["start"], each.rows["end"])
    for each in series(other):
        # Without overlap, as a layer is.
        chosen = each.rows[np.append(True, each.rows["start"][1:] >= np.maximum.accumulate(each.rows["end"])[:-1])]
        start, end, of = cover.pieces(chosen["start"], chosen["end"])
        assert (end > start).all()
        assert (cover.free(start, end) == end - start).all()
        expected = cover.free(chosen["start"], chosen["end"])
        found = np.bincount(of, weights=(end - start), minlength=len(chosen))
        assert found.tolist() == expected.tolist()


def test_watch_and_phone_come_to_11143_whoever_is_first() -> None:
    watch = Series("steps", "watch-1", "watch", rows([(0, 8 * 3600, 4 * 3600, 4_000)]))
    phone = Series("steps", "phone-1", "phone", rows([(1, 6 * 3600, 14 * 3600, 10_000)]))
    result = explained([watch, phone], BEGIN, 0)
    assert (result.sum, result.count) == (11_143, 2)
    parts = [(one.device_id, (one.start_us - BEGIN) / 3.6e9, (one.end_us - BEGIN) / 3.6e9) for one in result.segments]
    assert parts == [("phone-1", 6, 8), ("watch-1", 8, 12), ("phone-1", 12, 20)]
    assert [one.value for one in result.segments] == [1_429, 4_000, 5_714]
    (dropped,) = result.segments[1].dropped
    assert (dropped.device_id, dropped.value, dropped.why) == ("phone-1", 2_857, "covered-by watch-1")


def test_an_hourly_total_beside_its_own_minutes_is_told_as_dropped() -> None:
    minutes = [(0, minute * 60, 60, 10) for minute in range(30)]
    result = explained([Series("steps", "phone-1", "phone", rows([(0, 0, 3600, 600), *minutes]))], BEGIN, 0)
    # 300 in minutes, and the half of the hour they leave open.
    assert result.sum == 600
    (segment,) = result.segments
    assert [(one.value, one.why) for one in segment.dropped] == [(300, "finer-record")]


def test_a_pause_joins_and_a_long_one_parts() -> None:
    watch = Series("steps", "watch-1", "watch", rows([(0, 0, 60, 10), (0, 600, 60, 10), (0, 3_600, 60, 10)]))
    result = explained([watch], BEGIN, 0)
    assert [(one.start_us - BEGIN, one.value) for one in result.segments] == [(0, 20), (3_600 * SECOND_US, 10)]


def test_nothing_is_nothing() -> None:
    assert explained([], BEGIN, 0) == Explained(0.0, 0, ())
    assert explained([Series("steps", "w", "watch", rows([(0, 90_000, 60, 10)]))], BEGIN, 0).segments == ()


def test_devices_may_disagree_about_the_offset_never_about_the_time() -> None:
    start = round(datetime.fromisoformat("2026-03-01T12:00:00+00:00").timestamp()) * SECOND_US
    made = np.zeros(1, ROW)
    made[0] = (start, start + 3600 * SECOND_US, 100, 0, 0, 0, 0, 0, 0)
    other = made.copy()
    other["offset"] = 120
    begin = start // DAY_US * DAY_US
    result = explained([Series("steps", "a", "watch", made), Series("steps", "b", "phone", other)], begin, 0)
    assert (result.sum, len(result.segments)) == (100, 1)
