"""When a delivery is tried: ten times over 75 h 35 min 05 s, each wait ±20 %.

The waits are those of the Standard Webhooks specification.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

WAITS: tuple[timedelta, ...] = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
MAX_TRIES = len(WAITS)
JITTER = 0.2
# A receiver that is overloaded or hangs is not asked again after 5 s.
SLOW_FLOOR = timedelta(minutes=1)
# Retry-After is obeyed up to here, or up to twice the wait that was due anyway.
RETRY_AFTER_CEILING = timedelta(hours=1)
LONGEST_RETRY_AFTER_S = 10 * 24 * 3600


def next_wait(
    tries: int, jitter: float, *, retry_after: timedelta | None = None, slow: bool = False
) -> timedelta | None:
    """How long to wait after `tries` failed tries; None when there is no further try.

    `jitter` is a random number from -1 to 1, `retry_after` what the receiver asked for, `slow` says that it timed out
    or answered 429. Never shorter than the jittered wait, and with `retry_after` at most the larger of one hour and
    twice that wait.
    """
    if tries >= MAX_TRIES:
        return None
    wait = WAITS[tries] * (1 + JITTER * max(-1.0, min(1.0, jitter)))
    if slow:
        wait = max(wait, SLOW_FLOOR)
    if retry_after is not None:
        wait = max(wait, min(retry_after, max(2 * wait, RETRY_AFTER_CEILING)))
    return wait


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """A Retry-After header (seconds or an HTTP date) as a wait from `now`; None when there is none or it is junk."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return timedelta(seconds=min(float(text), LONGEST_RETRY_AFTER_S))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a zone or hour of many digits
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(timedelta(0), min(moment - now, timedelta(seconds=LONGEST_RETRY_AFTER_S)))
