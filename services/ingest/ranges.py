"""Which metric and which stretch of time a reader asks for, and what is answered to a question that cannot be."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from services.ingest.metrics import METRICS, Metric
from services.ingest.moments import Moment, micros
from services.ingest.names import source_of
from shared.errors import Problem

From = Annotated[Moment, Query(alias="from", description="RFC 3339, included; write + as %2B")]
To = Annotated[Moment, Query(description="RFC 3339, not included")]


@dataclass(frozen=True)
class Range:
    """A metric over [from_us, to_us), microseconds since 1970 UTC."""

    metric: Metric
    from_us: int
    to_us: int


async def chosen_range(
    metric: Annotated[
        str,
        Query(max_length=128, description="Our name, HealthKit's or Health Connect's", examples=["heart_rate"]),
    ],
    since: From,
    to: To,
) -> Range:
    """The range asked for, exactly.

    Raises:
        Problem: 422, no such metric or no such range.
    """
    source = source_of(metric)
    if isinstance(source, str):
        raise Problem(422, "unknown-metric", "Nothing is kept under this name; docs/metrics.md lists all of them.")
    return Range(METRICS[source.metric], *bounds(since, to))


Chosen = Annotated[Range, Depends(chosen_range)]


def bounds(since: Moment, to: Moment) -> tuple[int, int]:
    """Both ends in microseconds since 1970. Raises `Problem` 422 for a range without time in it."""
    if since >= to:
        raise Problem(422, "empty-range", "`from` must lie before `to`; it is included and `to` is not.")
    if micros(since) < 0:
        raise Problem(422, "before-1970", "Nothing is kept of the time before 1970; choose a later `from`.")
    return micros(since), micros(to)
