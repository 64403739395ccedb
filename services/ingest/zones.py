"""Where a user's clock stood: the IANA zones of a user over time, and the offsets that follow from them.

A sample's own offset decides its day. A time sent as UTC has none; it takes the zone the user was in at that time.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, Array
from shared.events.gateway import UNKNOWN_OFFSET

# Local time is between 14 hours ahead of UTC and 12 hours behind it.
LARGEST_OFFSET_MINUTES = 14 * 60
# A user who moves every week is remembered for four years.
MAX_CHANGES = 200


class ZoneChange(msgspec.Struct, frozen=True):
    """From `from_us` (microseconds since 1970 UTC) on the user was in `zone`."""

    from_us: int
    zone: str


class ZoneHistory(msgspec.Struct, frozen=True):
    """A user's zones in order of time; before the first change, and where there is none, `home` holds."""

    home: str = "UTC"
    changes: tuple[ZoneChange, ...] = ()

    def at(self, moment_us: int) -> str:
        """The zone in force at that time."""
        place = bisect_right(self.changes, moment_us, key=lambda one: one.from_us)
        return self.changes[place - 1].zone if place else self.home

    @property
    def fingerprint(self) -> bytes:
        """Eight bytes that differ for different histories."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=8).digest()

    def offset_at(self, moment_us: int) -> int:
        """Minutes local minus UTC at that time."""
        zone = zone_of(self.at(moment_us)) or ZoneInfo("UTC")
        return int(offsets_in(zone, np.array([moment_us], "i8"))[0])

    def with_offsets(self, rows: Array) -> Array:
        """`rows` (with `start` and `offset`), those without an offset given their zone's; a copy if there were any."""
        unknown = rows["offset"] == UNKNOWN_OFFSET
        if not unknown.any():
            return rows
        rows = rows.copy()
        edges = np.array([one.from_us for one in self.changes], "i8")
        of_zone = np.where(unknown, np.searchsorted(edges, rows["start"], side="right"), -1)
        for place, name in enumerate((self.home, *(one.zone for one in self.changes))):
            chosen = of_zone == place
            if chosen.any():
                rows["offset"][chosen] = offsets_in(zone_of(name) or ZoneInfo("UTC"), rows["start"][chosen])
        return rows


def zone_of(name: str) -> ZoneInfo | None:
    """The IANA zone of that name, None when there is none."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def offsets_in(zone: ZoneInfo, start_us: Array) -> Array:
    """The zone's offset in minutes at each time; clocks change on quarter hours, so one look-up serves each of them."""
    quarters, place = np.unique(start_us // (15 * MINUTE_US), return_inverse=True)
    offsets: list[int] = []
    for quarter in quarters.tolist():
        delta = datetime.fromtimestamp(quarter * 900, UTC).astimezone(zone).utcoffset() or timedelta()
        offsets.append(round(delta.total_seconds() / 60))
    return np.array(offsets, "<i2")[place]


def changed(history: ZoneHistory, changes: Sequence[ZoneChange]) -> ZoneHistory:
    """The history with more changes, the newest 200: of equal times the later entry, of equal neighbours the first."""
    by_time = {one.from_us: one for one in (*history.changes, *changes)}
    kept: list[ZoneChange] = []
    for one in sorted(by_time.values(), key=lambda each: each.from_us):
        if one.zone != (kept[-1].zone if kept else history.home):
            kept.append(one)
    return ZoneHistory(history.home, tuple(kept[-MAX_CHANGES:]))
