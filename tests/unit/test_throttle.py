"""Token buckets: burst, refill, what is given back, and a bound on memory."""

from hypothesis import given
from hypothesis import strategies as st

from services.auth.throttle import Buckets, Rate


def tried(buckets: Buckets, key: str, now: float) -> bool:
    if buckets.wait_s(key, now) > 0:
        return False
    buckets.take(key, now)
    return True


def test_a_burst_then_one_at_a_time() -> None:
    buckets = Buckets(Rate(3, 10))
    assert [tried(buckets, "a", 0) for _ in range(5)] == [True, True, True, False, False]
    assert buckets.wait_s("a", 4) == 6
    assert [tried(buckets, "a", 10) for _ in range(2)] == [True, False]
    assert tried(buckets, "b", 10)


def test_what_is_given_back_may_be_taken_again() -> None:
    buckets = Buckets(Rate(1, 10))
    assert tried(buckets, "a", 0)
    buckets.give_back("a")
    assert tried(buckets, "a", 0)
    assert not tried(buckets, "a", 0)


def test_full_buckets_make_room_and_others_keep_theirs() -> None:
    buckets = Buckets(Rate(1, 10), most=100)
    for number in range(1000):
        tried(buckets, str(number), 0)
    assert len(buckets) == 100
    assert not tried(buckets, "0", 5)
    assert not tried(buckets, "new", 5)
    assert tried(buckets, "new", 11)
    assert len(buckets) == 1


@given(st.lists(st.floats(0, 100), max_size=200), st.integers(1, 20), st.floats(0.1, 50))
def test_never_more_than_the_rate_allows(gaps: list[float], burst: int, every_s: float) -> None:
    buckets = Buckets(Rate(burst, every_s))
    now, taken = 0.0, 0
    for gap in gaps:
        now += gap
        taken += tried(buckets, "a", now)
    assert taken <= burst + now / every_s + 1e-6
