"""The present, as the system stores it: UTC at millisecond precision, which is what BSON keeps. And dates as sent."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

Clock = Callable[[], datetime]
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _written_in_full(value: object) -> object:
    # pydantic also reads seconds since 1970 and a midnight as dates.
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or DATE.fullmatch(value) is None:
        raise PydanticCustomError("date_form", "Write a date as YYYY-MM-DD")
    return value


# A date as clients may send it: YYYY-MM-DD and nothing else.
FullDate = Annotated[date, BeforeValidator(_written_in_full)]


def utc_now() -> datetime:
    """The current time, UTC-aware, truncated to milliseconds."""
    return truncated(datetime.now(UTC))


def truncated(moment: datetime) -> datetime:
    """`moment` in UTC at millisecond precision.

    Raises:
        ValueError: the time carries no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone or an offset, such as 2026-03-01T08:00:00+01:00")
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _in_milliseconds(moment: datetime) -> datetime:
    try:
        return truncated(moment)
    except OverflowError as error:
        raise PydanticCustomError("moment", "Send a time in the years 1 to 9999 of UTC") from error


# A time as callers may send it in a body, as it is stored.
Moment = Annotated[AwareDatetime, AfterValidator(_in_milliseconds)]
