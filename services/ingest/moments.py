"""Times as clients send them in a query, and as answers show them: RFC 3339."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from services.ingest.buckets import HOUR_US, MINUTE_US, Array
from shared.events.gateway import UNKNOWN_OFFSET

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 24 * HOUR_US
_ZERO = ord("0")
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _with_offset(value: object) -> object:
    # pydantic also reads seconds since 1970 and times without an offset.
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if isinstance(value, str) and RFC_3339.fullmatch(value) is not None:
        try:
            sent = datetime.fromisoformat(value.upper())
            # The first and the last hours there are may have no equal in UTC.
            sent.astimezone(UTC)
            return sent
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError(
        "time_form", "Write a time as 2026-03-01T08:00:00Z or 2026-03-01T08:00:00%2B01:00 (in a URL, + means a space)"
    )


# A time as clients may send it: RFC 3339 with an offset, at most microseconds.
Moment = Annotated[datetime, BeforeValidator(_with_offset)]


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (moment - EPOCH) // MICROSECOND


def moment(microseconds: int) -> datetime:
    """The time in UTC."""
    return EPOCH + microseconds * MICROSECOND


def local_moment(microseconds: int, offset: int) -> datetime:
    """The time at an offset in minutes, in UTC where that is unknown."""
    zone = UTC if offset == UNKNOWN_OFFSET else timezone(timedelta(minutes=offset))
    return moment(microseconds).astimezone(zone)


def stamps(times: Array, offsets: Array) -> Array:
    """Each time (microseconds since 1970 UTC) as RFC 3339 in ASCII, at its offset in minutes, in UTC where unknown.

    As precise as the most precise of them: seconds, milliseconds or microseconds. Digit by digit for all at once:
    a sixth of the time that numpy's own texts take, of which each would still want its offset.
    """
    local = times + np.where(offsets == UNKNOWN_OFFSET, 0, offsets).astype("i8") * MINUTE_US
    day, rest = np.divmod(local, DAY_US)
    second, fraction = np.divmod(rest, 1_000_000)
    digits = 0 if not fraction.any() else 6 if (fraction % 1_000).any() else 3
    days, which = _distinct(day)
    dates = np.array([str(one).encode() for one in days.astype("M8[D]")], "S10")[which]
    ends, which = _distinct(offsets)
    suffixes = np.array([suffix(one).encode() for one in ends.tolist()], "S6")[which]
    width = 19 + (digits and digits + 1)
    found = np.empty((len(times), width + 6), "u1")
    found[:, :10] = dates.view("u1").reshape(-1, 10)
    for column, letter in ((10, "T"), (13, ":"), (16, ":")):
        found[:, column] = ord(letter)
    hour, second = np.divmod(second.astype("i4"), 3600)
    minute, second = np.divmod(second, 60)
    for column, number in ((11, hour), (14, minute), (17, second)):
        found[:, column], found[:, column + 1] = number // 10 + _ZERO, number % 10 + _ZERO
    if digits:
        found[:, 19] = ord(".")
        shown = fraction // 10 ** (6 - digits)
        for column in range(digits):
            found[:, width - 1 - column] = shown // 10**column % 10 + _ZERO
    found[:, width:] = suffixes.view("u1").reshape(-1, 6)
    return found.view(f"S{width + 6}").reshape(-1)


def _distinct(values: Array) -> tuple[Array, Any]:
    """The different values and the place of each among them; most often there is one."""
    if len(values) and bool((values == values[0]).all()):
        return values[:1], np.zeros(len(values), "i8")
    return np.unique(values, return_inverse=True)


def suffix(offset: int) -> str:
    """An offset in minutes as RFC 3339 ends with it: `+01:00`, or `Z` where it is unknown."""
    if offset == UNKNOWN_OFFSET:
        return "Z"
    hours, minutes = divmod(abs(offset), 60)
    return f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
