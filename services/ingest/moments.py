"""Times as clients send them in a query, and as answers show them: RFC 3339."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from services.ingest.buckets import MINUTE_US, Array
from shared.events import UNKNOWN_OFFSET

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _with_offset(value: object) -> object:
    # pydantic also reads seconds since 1970 and times without an offset.
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if isinstance(value, str) and RFC_3339.fullmatch(value) is not None:
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError:
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


def texts(times: Array, offsets: Array) -> Sequence[str]:
    """Each time (microseconds since 1970 UTC) as RFC 3339 at its offset in minutes, in UTC where that is unknown.

    As precise as the most precise of them: seconds, milliseconds or microseconds.
    """
    known = offsets != UNKNOWN_OFFSET
    local = times + np.where(known, offsets, 0).astype("i8") * MINUTE_US
    unit = "s" if not (local % 1_000_000).any() else "us" if (local % 1_000).any() else "ms"
    plain: list[str] = np.datetime_as_string(local.astype("M8[us]"), unit=unit).tolist()
    if not len(offsets) or bool((offsets == offsets[0]).all()):
        end = suffix(int(offsets[0])) if len(offsets) else ""
        return [text + end for text in plain]
    ends = {one: suffix(one) for one in np.unique(offsets).tolist()}
    return [text + ends[one] for text, one in zip(plain, offsets.tolist(), strict=True)]


def suffix(offset: int) -> str:
    """An offset in minutes as RFC 3339 ends with it: `+01:00`, or `Z` where it is unknown."""
    if offset == UNKNOWN_OFFSET:
        return "Z"
    hours, minutes = divmod(abs(offset), 60)
    return f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
