"""How fast one endpoint gets its deliveries, on a clock that the tests move."""

import pytest

from services.webhooks.lanes import (
    BREAKS_AFTER,
    FILLED,
    FIRST_WINDOW,
    LARGEST_WINDOW,
    PROBE_LONGEST_S,
    SILENT_S,
    Lane,
)


def turn(lane: Lane, succeeded: bool | None, now: float, rate: int | None = None) -> None:
    """One delivery starts and ends at `now`."""
    assert lane.room(now, rate) >= 1
    lane.started(1)
    lane.ended(succeeded, now)


def test_the_window_grows_with_success_and_has_an_end():
    lane = Lane()
    assert lane.room(0, None) == FIRST_WINDOW
    for _ in range(10):
        turn(lane, True, 0)
    assert lane.room(0, None) == LARGEST_WINDOW
    lane.started(LARGEST_WINDOW)
    assert lane.room(0, None) == 0
    assert lane.wait(0, None) is None


def test_five_failures_in_a_row_leave_one_try_at_a_time_after_growing_pauses():
    lane = Lane()
    for _ in range(BREAKS_AFTER):
        turn(lane, False, 0)
    now, waits = 0.0, list[float]()
    for _ in range(8):
        wait = lane.wait(now, None)
        assert wait is not None
        waits.append(wait)
        assert lane.room(now + wait - 0.01, None) == 0
        now += wait
        assert lane.room(now, None) == 1
        turn(lane, False, now)
    assert waits == [1, 2, 4, 8, 16, 32, PROBE_LONGEST_S, PROBE_LONGEST_S]


def test_one_success_closes_the_breaker():
    lane = Lane()
    for _ in range(BREAKS_AFTER):
        turn(lane, False, 0)
    turn(lane, True, 1)
    assert lane.failures == 0
    assert lane.room(1, None) == 2
    turn(lane, None, 1)
    assert lane.room(1, None) == 2


@pytest.mark.parametrize("rate", [1, 3, 7, 10, 19, 20, 100, 1000])
def test_in_no_second_more_than_the_rate_starts_also_after_a_silence(rate: int):
    lane = Lane(window=LARGEST_WINDOW)
    lane.room(0, rate)
    begun: list[float] = []
    for step in range(6_000, 26_000):
        now = step / 1000
        room = lane.room(now, rate)
        lane.started(room)
        for _ in range(room):
            lane.ended(True, now)
        begun += [now] * room
    assert all(late - early >= 1 for early, late in zip(begun, begun[rate:], strict=False))
    assert 0.9 * rate * 20 - 1 <= len(begun) <= rate * 20
    wait = lane.wait(26, rate)
    assert wait is None or wait <= 1 / (rate * FILLED)


def test_deliveries_that_leave_late_are_not_followed_too_soon():
    lane = Lane()
    assert lane.room(0, 10) == 1
    lane.started(1)
    lane.begun(5)
    assert (lane.room(5.05, 10), lane.room(5.2, 10)) == (0, 1)


def test_what_was_not_there_to_start_costs_nothing():
    lane = Lane()
    assert lane.room(0, 1) == 1
    lane.started(1)
    lane.unused(1)
    assert (lane.running, lane.room(0, 1)) == (0, 1)


def test_a_clock_that_is_set_back_closes_nothing_for_long():
    lane = Lane()
    for _ in range(BREAKS_AFTER):
        turn(lane, False, 1_000)
    assert lane.room(400, None) == 1
    lane.room(1_000, 5)
    lane.room(400, 5)
    assert lane.room(401, 5) == 1


def test_a_lane_is_forgotten_only_when_nothing_would_change():
    lane = Lane()
    assert lane.quiet(0)
    turn(lane, True, 0)
    assert not lane.quiet(1)
    assert lane.quiet(PROBE_LONGEST_S + 1)
    turn(lane, False, 100)
    assert not lane.quiet(100 + PROBE_LONGEST_S + 1)


def test_a_lane_that_failed_is_forgotten_when_nothing_is_due_there_any_more():
    lane = Lane()
    for _ in range(BREAKS_AFTER):
        turn(lane, False, 100)
    assert not lane.quiet(100 + SILENT_S)
    assert lane.quiet(100 + SILENT_S + 1)
    lane.started(1)
    assert not lane.quiet(100 + SILENT_S + 1)
