"""Records that are gone at their source: what a deletion names, checked."""

from dataclasses import dataclass

from services.ingest.metrics import LONGEST_SAMPLE_US, LONGEST_SESSION_US, METRICS, SHORTEST_INTERVAL_US
from services.ingest.names import source_of
from services.ingest.refusals import Code
from shared.events.gateway import DeletionSubmitted

# A deletion that names no version is final. Ranks double a version, so a quarter of int64 is the most one may be;
# microseconds since 1970 reach it in the year 75000, nanoseconds in 2043.
FINAL_VERSION = (2**63 - 1) // 4


@dataclass(frozen=True)
class CheckedDeletion:
    """A deletion that passed: by the source's id, or by metric and time of a record that has none.

    `identity`: 16 bytes where the source gave an id, else None. `metric`: our name, "" where not told. `start_us` and
    `end_us`: None where not told; where `identity` is None both are there, and are those the stored row has.
    `version`: `FINAL_VERSION` where none was told.
    """

    index: int
    identity: bytes | None
    metric: str
    start_us: int | None
    end_us: int | None
    version: int

    @property
    def row_identity(self) -> bytes:
        """The 16 bytes under which the record is stored: the id's hash, else start and end packed."""
        if self.identity is not None:
            return self.identity
        if self.start_us is None or self.end_us is None:
            raise AssertionError("a deletion without an id has its times")
        return self.start_us.to_bytes(8, "little") + self.end_us.to_bytes(8, "little")


def check_deletion(sent: DeletionSubmitted, latest_us: int) -> CheckedDeletion | Code:
    """What the deletion names, or why it names nothing; no record begins after `latest_us`."""
    metric = ""
    if sent.metric:
        source = source_of(sent.metric)
        if isinstance(source, str):
            return source
        metric = source.metric
    if not 0 <= sent.version < FINAL_VERSION:
        return "bad-version"
    start, end = sent.start_us, sent.end_us
    named = any(sent.identity)
    if not named:
        end = stored_end(metric, start, end)
        if end is None or start is None:
            return "bad-deletion"
    if start is not None and (wrong := _wrong_times(metric, start, start if end is None else end, latest_us)):
        return wrong
    return CheckedDeletion(
        index=sent.index,
        identity=sent.identity if named else None,
        metric=metric,
        start_us=start,
        end_us=end,
        version=sent.version or FINAL_VERSION,
    )


def _wrong_times(metric: str, start_us: int, end_us: int, latest_us: int) -> Code | None:
    """Why no record of those times is stored; a tombstone that lasts for ever would touch days without number."""
    if start_us < 0:
        return "before-1970"
    if end_us < start_us:
        return "end-before-start"
    if start_us > latest_us:
        return "in-future"
    longest = LONGEST_SESSION_US if metric in ("", "sleep", "workout") else LONGEST_SAMPLE_US
    return "too-long" if end_us - start_us > longest else None


def stored_end(metric: str, start_us: int | None, end_us: int | None) -> int | None:
    """The end under which a record of that metric and time is stored; None when that is not enough to say it."""
    if not metric or start_us is None:
        return None
    kind = METRICS[metric].kind
    if kind == "interval" and end_us in (None, start_us):
        return start_us + SHORTEST_INTERVAL_US
    if kind == "session":
        return end_us
    return start_us if end_us is None else end_us
