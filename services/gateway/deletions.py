"""Records that are gone at their source, as phones tell it."""

import msgspec

from services.gateway.samples import MetricName, SourceId, Version, identity_of
from services.gateway.times import parse_time
from shared.events.gateway import DeletionSubmitted


class Deletion(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Names the record by its `id`, or by `metric` and `start` (and `end`) where it has none."""

    id: SourceId | None = None
    metric: MetricName | None = None
    start: str | None = None
    end: str | None = None
    version: Version = 0


def packed_deletion(deletion: Deletion, index: int) -> DeletionSubmitted | None:
    """The deletion at place `index` of the batch; None when a time is none."""
    times = [None if text is None else parse_time(text) for text in (deletion.start, deletion.end)]
    if any(text is not None and time is None for text, time in zip((deletion.start, deletion.end), times, strict=True)):
        return None
    start, end = (None if time is None else time[0] for time in times)
    return DeletionSubmitted(
        index=index,
        identity=identity_of(deletion.id),
        metric=deletion.metric or "",
        start_us=start,
        end_us=end,
        version=deletion.version,
    )
