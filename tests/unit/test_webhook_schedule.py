from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.webhooks.schedule import (
    MAX_TRIES,
    RETRY_AFTER_CEILING,
    SLOW_FLOOR,
    WAITS,
    next_wait,
    parse_retry_after,
)

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
jitters = st.floats(-1, 1)
tries = st.integers(1, MAX_TRIES - 1)


def test_ten_tries_over_75_h_35_min_5_s():
    waits = [next_wait(number, 0.0) for number in range(1, MAX_TRIES)]
    assert MAX_TRIES == 10
    assert sum(filter(None, waits), timedelta(0)) == timedelta(hours=75, minutes=35, seconds=5)
    assert next_wait(MAX_TRIES, 0.0) is None


@given(tries, jitters)
def test_jitter_is_at_most_a_fifth(number: int, jitter: float):
    wait = next_wait(number, jitter)
    assert wait is not None
    assert WAITS[number] * 0.79999 <= wait <= WAITS[number] * 1.20001


@given(tries, jitters, st.timedeltas(timedelta(0), timedelta(days=30)), st.booleans())
def test_retry_after_only_ever_lengthens_and_within_bounds(number: int, jitter: float, asked: timedelta, slow: bool):
    plain = next_wait(number, jitter, slow=slow)
    wait = next_wait(number, jitter, retry_after=asked, slow=slow)
    assert plain is not None
    assert wait is not None
    assert plain <= wait <= max(2 * plain, RETRY_AFTER_CEILING)
    assert wait == max(plain, asked) or asked > wait


def test_a_slow_receiver_gets_a_minute_at_least():
    assert next_wait(1, -1.0, slow=True) == SLOW_FLOOR
    assert next_wait(1, 0.0) == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("0", 0),
        ("Sun, 01 Mar 2026 08:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 07:00:00 GMT", 0),
        ("9" * 300, 10 * 24 * 3600),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.2.3", None),
        ("nan", None),
        ("٣", None),
        (".", None),
        ("Sun, 99 Mar 2026 08:02:00 GMT", None),
        ("Sun, 01 Mar 2026 08:02:00 +99999999999999", None),
        ("Sun, 01 Mar 2026 99999999999999999999:00:00 GMT", None),
    ],
)
def test_retry_after_is_read(header: str | None, seconds: float | None):
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(header, NOW) == expected


@given(st.text(max_size=40))
def test_junk_in_retry_after_never_raises(header: str):
    wait = parse_retry_after(header, NOW)
    assert wait is None or wait >= timedelta(0)
