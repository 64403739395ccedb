"""The present, as the system stores it: UTC at millisecond precision, which is what BSON keeps."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


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
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
