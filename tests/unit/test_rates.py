"""Token buckets at the gateway: burst and refill, all or none, bounded memory, and what answers say of them."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.limited import Lately, Policies, Rates
from services.gateway.rates import Charge, MemoryBuckets, Policy, Taken, policy, rate_limited, told
from services.gateway.redis_buckets import RedisBuckets
from services.gateway.settings import Settings
from shared.client_address import networks


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken_of(buckets: MemoryBuckets, of: Policy, times: int, subject: str = "a") -> int:
    return sum(buckets.take_now([Charge(of, subject)]).allowed for _ in range(times))


def rates(**settings: str) -> Rates:
    given_ = Settings(**settings)
    of = Policies({}, {}, Policy("failed", 1, 1), Policy("key", 1, 1), 10)
    return Rates(of, MemoryBuckets(), MemoryBuckets(), given_.trusted_proxies)


def test_a_burst_then_evenly() -> None:
    clock = Clock()
    buckets, of = MemoryBuckets(clock=clock), Policy("read", 6, 60)
    assert taken_of(buckets, of, 10) == 6
    clock.now += 9.9
    assert taken_of(buckets, of, 1) == 0
    clock.now += 0.2
    assert taken_of(buckets, of, 2) == 1
    clock.now += 60
    assert taken_of(buckets, of, 10) == 6


def test_subjects_and_policies_do_not_touch_each_other() -> None:
    buckets, read, write = MemoryBuckets(clock=Clock()), Policy("read", 1, 60), Policy("write", 1, 60)
    assert [taken_of(buckets, of, 2, who) for of in (read, write) for who in ("a", "b")] == [1, 1, 1, 1]


def test_all_charges_are_taken_or_none() -> None:
    buckets, key, partner = MemoryBuckets(clock=Clock()), Policy("key", 5, 60), Policy("partner", 2, 60)
    both = [Charge(key, "k"), Charge(partner, "p")]
    assert [buckets.take_now(both).allowed for _ in range(3)] == [True, True, False]
    assert taken_of(buckets, key, 5, "k") == 3


@given(st.lists(st.floats(0, 120), max_size=60), st.integers(1, 20), st.integers(1, 90))
def test_no_window_lets_through_more_than_a_burst_and_its_refill(
    pauses: list[float], quota: int, window_s: int
) -> None:
    clock = Clock()
    buckets, of = MemoryBuckets(clock=clock), Policy("read", quota, window_s)
    allowed: list[float] = []
    for pause in pauses:
        clock.now += pause
        taken = buckets.take_now([Charge(of, "a")])
        if taken.allowed:
            allowed.append(clock.now)
        else:
            # What a refusal says is true: a moment before it is too early, then is in time.
            assert 0 < of.wait_s(taken.full_in_s[0]) <= of.every_s
    for start in allowed:
        within = [at for at in allowed if start <= at <= start + window_s]
        assert len(within) <= 2 * quota


def test_a_million_addresses_leave_50_000_buckets() -> None:
    buckets, of = MemoryBuckets(), Policy("address-read", 10, 60)
    for number in range(1_000_000):
        buckets.take_now([Charge(of, str(number))])
    assert len(buckets) <= 50_000


def test_50_000_buckets_are_15_mib_at_most() -> None:
    buckets, of = MemoryBuckets(), Policy("address-read", 10, 60)
    tracemalloc.start()
    try:
        for number in range(60_000):
            buckets.take_now([Charge(of, f"2001:db8:{number:x}::/64")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 15 * 2**20


def test_a_flood_of_one_policy_makes_nobody_of_another_forgotten() -> None:
    buckets, flooded, other = MemoryBuckets(most=100), Policy("address", 10, 60), Policy("user", 1, 60)
    assert taken_of(buckets, other, 1) == 1
    for number in range(1000):
        buckets.take_now([Charge(flooded, str(number))])
    assert taken_of(buckets, other, 1) == 0


def test_those_who_go_on_are_remembered_among_many() -> None:
    buckets, of = MemoryBuckets(most=100, clock=Clock()), Policy("address", 3, 60)
    allowed = 0
    for number in range(1000):
        buckets.take_now([Charge(of, str(number))])
        if number % 20 == 0:
            allowed += taken_of(buckets, of, 1, "again and again")
    assert allowed == 3


def test_what_answers_say() -> None:
    read, quota = Policy("user-read", 100, 60), Policy("partner", 6, 60)
    charges = [Charge(read, "a"), Charge(quota, "p")]
    assert told(charges, Taken(True, [30.0, 10.0])) == (
        (b"ratelimit-policy", b'"user-read";q=100;w=60, "partner";q=6;w=60'),
        (b"ratelimit", b'"user-read";r=50;t=30, "partner";r=5;t=10'),
    )


def test_a_refusal_says_which_limit_and_when() -> None:
    charges = [Charge(Policy("user-read", 100, 60), "a"), Charge(Policy("partner", 6, 60), "p")]
    problem = rate_limited(charges, Taken(False, [0.5, 57.5]))
    assert (problem.status, problem.code) == (429, "rate-limited")
    assert problem.members == {"limit": "partner", "retry_after_s": 8}
    assert problem.headers == {"Retry-After": "8"}
    assert told(charges, Taken(False, [0.5, 57.5]))[1][1] == b'"user-read";r=99;t=1, "partner";r=0;t=8'


@pytest.mark.parametrize("text", ["", "10", "0/60", "10/0", "1e3/60", "-1/60", "1000000/60", "10/60/1", "٣/60"])
def test_a_rate_is_calls_and_seconds(text: str) -> None:
    assert policy("read", " 1200/60 ") == Policy("read", 1200, 60)
    with pytest.raises(ValueError, match="such as 1200/60"):
        policy("read", text)


def test_settings_are_read_and_refused() -> None:
    settings = Settings(gateway_rate_sign_in="5/10")
    assert settings.rate("sign-in", "address") == Policy("address-sign-in", 5, 10)
    with pytest.raises(ValueError, match="such as 1200/60"):
        Settings(gateway_rate_write="many")


def test_another_store_than_redis_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="redis://") as error:
        RedisBuckets("memcached://:hunter2@cache", MemoryBuckets())
    assert "hunter2" not in str(error.value)


def test_a_first_sync_of_a_year_is_never_held_up() -> None:
    """A heart rate every 5 s for a year is 631 batches of 10,000; at the best, one takes 4 ms."""
    clock = Clock()
    buckets, of = MemoryBuckets(clock=clock), Settings().rate("write", "user")
    for _ in range(631):
        assert buckets.take_now([Charge(of, "a")]).allowed
        clock.now += 0.004


def test_networks_are_ipv4_addresses_and_ipv6_prefixes() -> None:
    one = rates()
    assert one.network("203.0.113.9", None) == "203.0.113.9"
    assert one.network("2001:db8:1:2:3::4", None) == one.network("2001:db8:1:2:ffff::1", None)
    assert one.network("2001:db8:1:2::4", None) != one.network("2001:db8:1:3::4", None)
    assert one.network("::ffff:203.0.113.9", None) == "203.0.113.9"


def test_a_forged_forwarded_for_changes_nothing() -> None:
    assert rates().network("203.0.113.9", b"198.51.100.1") == "203.0.113.9"
    behind = rates(gateway_trusted_proxies="10.0.0.0/8")
    assert behind.network("203.0.113.9", b"198.51.100.1") == "203.0.113.9"
    assert behind.network("10.0.0.1", b"192.0.2.7, 198.51.100.1") == "198.51.100.1"
    assert behind.network("10.0.0.1", b"x" * 60_000 + b", 198.51.100.1") == "198.51.100.1"
    assert networks("10.0.0.0/8")


def test_good_headers_are_remembered_in_bounds() -> None:
    good = Lately(100)
    for number in range(1000):
        good.add(b"%d" % number)
    assert b"999" in good
    assert b"0" not in good
    good.discard(b"999")
    assert b"999" not in good


def test_a_good_header_that_goes_on_is_remembered_among_many() -> None:
    good = Lately(100)
    good.add(b"steady")
    for number in range(1000):
        good.add(b"%d" % number)
        assert b"steady" in good


def test_what_is_given_back_is_there_again() -> None:
    own = MemoryBuckets(clock=lambda: 100.0)
    charges = [Charge(Policy("failed", 2, 60), "192.0.2.1")]
    assert [own.take_now(charges).allowed for _ in range(3)] == [True, True, False]
    own.give_back(charges)
    assert [own.take_now(charges).allowed for _ in range(2)] == [True, False]


def test_a_partners_own_quota_counts_and_else_the_setting() -> None:
    own = {"prt_1": 30, "prt_0": 0}
    of = Policies({}, {}, Policy("failed", 1, 1), Policy("key", 1, 1), 2400, own.get)
    assert [of.partner(name).quota for name in ("prt_1", "prt_0", "prt_2")] == [30, 1, 2400]
