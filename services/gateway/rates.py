"""How often callers may call: token buckets, one number each, and what answers say of them.

A bucket is kept as the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371), so it needs
no refilling. The headers are those of draft-ietf-httpapi-ratelimit-headers-11.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple, Protocol

from shared.errors import Problem

TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,4})", re.ASCII)
MOST_CALLS = 999_999
# A bucket is one float under its subject, about 0.2 KB; of each policy there are at most so many in memory.
MOST_BUCKETS = 50_000
# What rounding may take from a number of seconds.
FUZZ_S = 1e-6


@dataclass(frozen=True, slots=True)
class Policy:
    """`quota` calls at once, and as many again, evenly, every `window_s` seconds."""

    name: str
    quota: int
    window_s: int
    # Worked out once: the seconds until the next one is there, the longest that a bucket with one to give may need
    # until it is full, and how RateLimit-Policy says it.
    every_s: float = field(init=False, compare=False)
    last_s: float = field(init=False, compare=False)
    said: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Work out the rest."""
        object.__setattr__(self, "every_s", self.window_s / self.quota)
        object.__setattr__(self, "last_s", self.window_s - self.every_s + FUZZ_S)
        object.__setattr__(self, "said", f'"{self.name}";q={self.quota};w={self.window_s}')

    def wait_s(self, full_in_s: float) -> float:
        """Seconds until one may be taken of a bucket that is full in `full_in_s`, 0 for at once."""
        return max(0.0, full_in_s - self.last_s)

    def remaining(self, full_in_s: float) -> int:
        """How many may be taken at once of a bucket that is full in `full_in_s`."""
        left = int((self.window_s - full_in_s + FUZZ_S) / self.every_s)
        return left if left > 0 else 0


def policy(name: str, text: str) -> Policy:
    """The policy that a setting such as `1200/60` gives: 1200 at once, and 1200 every 60 s. Raises ValueError."""
    match = TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"write a number of calls, up to {MOST_CALLS}, and of seconds, such as 1200/60")
    return Policy(name, int(match[1]), int(match[2]))


class Charge(NamedTuple):
    """One call on the account of `subject`: a user, a partner, a key or a network."""

    policy: Policy
    subject: str


class Taken(NamedTuple):
    """What became of charges: all taken or none, and in how many seconds each one's bucket is full again."""

    allowed: bool
    full_in_s: Sequence[float]


class Buckets(Protocol):
    """Where the buckets are."""

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """Take one of every charge's bucket, or none of any when one of them is empty."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class _Kept:
    """The buckets of one policy by subject. Those not touched while half of `most` others were are forgotten.

    Two dictionaries make that constant work: nobody who comes from a million addresses makes anybody look through them.
    """

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def full_at(self, subject: str) -> float:
        """When the bucket is full again, on the clock; 0 for one that nothing is known of."""
        found = self._young.get(subject)
        if found is None and (found := self._old.get(subject)) is not None:
            # Asking keeps it, so that whoever is refused is not forgotten for it.
            self.set(subject, found)
        return found or 0.0

    def set(self, subject: str, full_at: float) -> None:
        """Keep when the bucket is full again."""
        self._young[subject] = full_at
        if len(self._young) >= self._half:
            self._young, self._old = {}, self._young


class MemoryBuckets:
    """The buckets of this process, in bounded memory. `clock` in seconds since any moment that is long over."""

    def __init__(self, *, most: int = MOST_BUCKETS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._kept.values())

    def take_now(self, charges: Sequence[Charge]) -> Taken:
        """As `take`."""
        now = self._clock()
        full_in_s: list[float] = []
        allowed = True
        for of, subject in charges:
            found = self._of(of).full_at(subject) - now
            if found > of.last_s:
                allowed = False
            full_in_s.append(found if found > 0.0 else 0.0)
        if allowed:
            for place, (of, subject) in enumerate(charges):
                full_in_s[place] += of.every_s
                self._of(of).set(subject, now + full_in_s[place])
        return Taken(allowed, full_in_s)

    def give_back(self, charges: Sequence[Charge]) -> None:
        """Undo `take_now` of these."""
        for of, subject in charges:
            kept = self._of(of)
            kept.set(subject, kept.full_at(subject) - of.every_s)

    def _of(self, policy: Policy) -> _Kept:
        kept = self._kept.get(policy.name)
        if kept is None:
            kept = self._kept[policy.name] = _Kept(self._most)
        return kept

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """As in the protocol."""
        return self.take_now(charges)

    async def close(self) -> None:
        """As in the protocol."""


def told(charges: Sequence[Charge], taken: Taken) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of the answer: each policy, and what is left of it.

    `r` may be called at once; `t` is when all of the quota is there again and, of an empty bucket, when one is.
    """
    left = [_left(of, full_in_s, taken.allowed) for (of, _), full_in_s in zip(charges, taken.full_in_s, strict=True)]
    policies = charges[0].policy.said if len(charges) == 1 else ", ".join([of.said for of, _ in charges])
    return (b"ratelimit-policy", policies.encode()), (b"ratelimit", ", ".join(left).encode())


def _left(of: Policy, full_in_s: float, allowed: bool) -> str:
    t = full_in_s if allowed else of.wait_s(full_in_s) or full_in_s
    return f'"{of.name}";r={of.remaining(full_in_s)};t={ceil(t)}'


def rate_limited(charges: Sequence[Charge], taken: Taken) -> Problem:
    """429 for charges that were not taken: by which limit, and how long to wait."""
    waits = [charge.policy.wait_s(full_in_s) for charge, full_in_s in zip(charges, taken.full_in_s, strict=True)]
    wait_s, longest = max((wait_s, place) for place, wait_s in enumerate(waits))
    of, retry_after_s = charges[longest].policy, max(1, ceil(wait_s))
    return Problem(
        429,
        "rate-limited",
        f"{of.quota} calls at once, and {of.quota} every {of.window_s} s, is what `{of.name}` allows. Nothing of this "
        f"request was taken: send it again, under the same Idempotency-Key if it has one, in {retry_after_s} s.",
        headers={"Retry-After": str(retry_after_s)},
        limit=of.name,
        retry_after_s=retry_after_s,
    )
