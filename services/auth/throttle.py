"""Token buckets, one number each: how often something may happen, for many keys, in bounded memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """`burst` at once, then one each `every_s` seconds."""

    burst: int
    every_s: float

    def wait_s(self, full_at: float, now: float) -> float:
        """Seconds until the next may happen, 0 for at once. `full_at`: when the bucket will be full again."""
        return max(0.0, full_at + self.every_s - now - self.burst * self.every_s)

    def taken(self, full_at: float, now: float) -> float:
        """`full_at` with one taken (the generic cell rate algorithm, ITU-T I.371)."""
        return max(full_at, now) + self.every_s


class Buckets:
    """A bucket for each key; full ones are forgotten. With `most` keys under way a new key has to wait."""

    def __init__(self, rate: Rate, *, most: int = 100_000) -> None:
        self.rate = rate
        self._most = most
        self._full_at: dict[str, float] = {}
        self._forget_again_at = float("-inf")

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until `key` may take one, 0 for at once; takes nothing. `now` in seconds since any fixed moment."""
        if key not in self._full_at and len(self._full_at) >= self._most:
            self._forget(now)
            if len(self._full_at) >= self._most:
                return self.rate.every_s
        return self.rate.wait_s(self._full_at.get(key, now), now)

    def take(self, key: str, now: float) -> None:
        """Take one, after `wait_s` was 0."""
        self._full_at[key] = self.rate.taken(self._full_at.get(key, now), now)

    def give_back(self, key: str) -> None:
        """Put back one that was taken."""
        if key in self._full_at:
            self._full_at[key] -= self.rate.every_s

    def _forget(self, now: float) -> None:
        if now < self._forget_again_at:
            return  # a look through all keys takes milliseconds, and whoever fills them asks often
        self._forget_again_at = now + 1
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
