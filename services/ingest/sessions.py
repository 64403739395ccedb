"""Sleeps and workouts as they were sent, checked: names, times, stages, totals and streams."""

from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

from services.ingest.buckets import MINUTE_US, Array
from services.ingest.deletions import FINAL_VERSION
from services.ingest.metrics import LONGEST_SESSION_US, STREAMS, TOTALS, Source, Stage
from services.ingest.names import source_of, sport_of, stage_of
from services.ingest.refusals import Code
from services.ingest.zones import LARGEST_OFFSET_MINUTES, offsets_in
from shared.events.gateway import UNKNOWN_OFFSET, SessionSubmitted, StreamColumns

SessionType = Literal["sleep", "workout"]
_TYPES: dict[str, SessionType] = {"sleep": "sleep", "workout": "workout"}
# Apps round the session to whole seconds and its stages not, or the other way round.
STAGE_SLACK_US = 1_000_000
# A sensor goes on for a moment after the workout was stopped.
STREAM_SLACK_US = MINUTE_US


@dataclass(frozen=True)
class Stages:
    """A sleep's stages sorted by start, in equal lengths: int64 microseconds, and the `Stage` numbers as uint8."""

    start: Array
    end: Array
    stage: Array


@dataclass(frozen=True)
class Stream:
    """One of `STREAMS` in its own unit, sorted by time: int64 microseconds since 1970 UTC, float64."""

    name: str
    at: Array
    value: Array


@dataclass(frozen=True)
class CheckedSession:
    """A sleep or a workout that passed.

    `identity`: 16 bytes, the source's id hashed or else (start, end) packed; `named` says which. `sport` is one of
    `SPORTS`, "" for a sleep, and `sport_sent` the source's own word. `totals` have names of `TOTALS`.
    `offset_minutes` may be `UNKNOWN_OFFSET`; `arrived` counts minutes since 1970.
    """

    index: int
    type: SessionType
    start_us: int
    end_us: int
    offset_minutes: int
    identity: bytes
    named: bool
    version: int
    arrived: int
    sport: str
    sport_sent: str
    totals: dict[str, float]
    stages: Stages | None
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class Taken:
    """When and where a batch was taken: the latest start it may hold, minutes since 1970, its zone if it names one."""

    latest_us: int
    arrived: int
    zone: ZoneInfo | None


class _Refused(Exception):
    def __init__(self, code: Code) -> None:
        self.code: Code = code


def check_session(sent: SessionSubmitted, taken: Taken) -> CheckedSession | Code:
    """The session with our names, or why it is refused; all of it or nothing.

    Stages lie inside the session and follow one another, in bed aside; what sticks out or overlaps by up to
    `STAGE_SLACK_US` is cut off. Stream points may lie `STREAM_SLACK_US` outside and come in any order.
    """
    try:
        return _checked(sent, taken)
    except _Refused as refused:
        return refused.code


def _checked(sent: SessionSubmitted, taken: Taken) -> CheckedSession:
    source = source_of(sent.type)
    if isinstance(source, str):
        raise _Refused(source)
    kind = _TYPES.get(source.metric)
    if kind is None:
        raise _Refused("unknown-metric")
    _check_times(sent, taken)
    named = any(sent.identity)
    return CheckedSession(
        index=sent.index,
        type=kind,
        start_us=sent.start_us,
        end_us=sent.end_us,
        offset_minutes=_offset(sent, taken),
        identity=sent.identity if named else sent.start_us.to_bytes(8, "little") + sent.end_us.to_bytes(8, "little"),
        named=named,
        version=sent.version,
        arrived=taken.arrived,
        sport=sport_of(source, sent.sport) if kind == "workout" else "",
        sport_sent=sent.sport if kind == "workout" else "",
        totals=_totals(sent.totals),
        stages=_stages(sent, kind, source),
        streams=_streams(sent, kind),
    )


def _check_times(sent: SessionSubmitted, taken: Taken) -> None:
    if sent.start_us < 0:
        raise _Refused("before-1970")
    if sent.end_us <= sent.start_us:
        raise _Refused("end-before-start")
    if sent.start_us > taken.latest_us:
        raise _Refused("in-future")
    if sent.end_us - sent.start_us > LONGEST_SESSION_US:
        raise _Refused("too-long")
    if sent.offset_minutes != UNKNOWN_OFFSET and abs(sent.offset_minutes) > LARGEST_OFFSET_MINUTES:
        raise _Refused("bad-offset")
    if not 0 <= sent.version < FINAL_VERSION:
        raise _Refused("bad-version")


def _offset(sent: SessionSubmitted, taken: Taken) -> int:
    if sent.offset_minutes != UNKNOWN_OFFSET or taken.zone is None:
        return sent.offset_minutes
    return int(offsets_in(taken.zone, np.array([sent.start_us], "<i8"))[0])


def _totals(sent: dict[str, float]) -> dict[str, float]:
    for name, value in sent.items():
        bounds = TOTALS.get(name)
        if bounds is None:
            raise _Refused("unknown-total")
        if not bounds.lowest <= value <= bounds.highest:
            raise _Refused("out-of-range")
    return dict(sent)


def _stages(sent: SessionSubmitted, kind: SessionType, source: Source) -> Stages | None:
    columns = sent.stages
    if columns is None or not columns.stage:
        return None
    count = len(columns.stage)
    if kind != "sleep" or len(columns.start_us) != 8 * count or len(columns.end_us) != 8 * count:
        raise _Refused("bad-stages")
    names = {name: stage_of(source, name) for name in set(columns.stage)}
    if None in names.values():
        raise _Refused("unknown-stage")
    stage = np.fromiter((names[name] or 0 for name in columns.stage), "u1", count)
    start, end = np.frombuffer(columns.start_us, "<i8"), np.frombuffer(columns.end_us, "<i8")
    outside = (start < sent.start_us - STAGE_SLACK_US) | (end > sent.end_us + STAGE_SLACK_US)
    if outside.any() or (end <= start).any():
        raise _Refused("bad-stages")
    order = np.argsort(start, kind="stable")
    start, end, stage = np.clip(start[order], sent.start_us, None), np.clip(end[order], None, sent.end_us), stage[order]
    spells = np.flatnonzero(stage != Stage.IN_BED)
    over = end[spells[:-1]] - start[spells[1:]]
    if (over > STAGE_SLACK_US).any():
        raise _Refused("bad-stages")
    end[spells[:-1]] -= np.maximum(over, 0)
    # What the cut left nothing of.
    kept = end > start
    return Stages(start[kept], end[kept], stage[kept])


def _streams(sent: SessionSubmitted, kind: SessionType) -> tuple[Stream, ...]:
    if sent.streams and (kind != "workout" or len({one.name for one in sent.streams}) < len(sent.streams)):
        raise _Refused("bad-stream")
    return tuple(_stream(one, sent) for one in sent.streams)


def _stream(columns: StreamColumns, sent: SessionSubmitted) -> Stream:
    bounds = STREAMS.get(columns.name)
    if bounds is None:
        raise _Refused("unknown-stream")
    if len(columns.at_us) != len(columns.value) or len(columns.at_us) % 8:
        raise _Refused("bad-stream")
    at, value = np.frombuffer(columns.at_us, "<i8"), np.frombuffer(columns.value, "<f8")
    if ((at < sent.start_us - STREAM_SLACK_US) | (at > sent.end_us + STREAM_SLACK_US)).any():
        raise _Refused("bad-stream")
    if not ((value >= bounds.lowest) & (value <= bounds.highest)).all():
        raise _Refused("out-of-range")
    order = np.argsort(at, kind="stable")
    return Stream(columns.name, at[order], value[order])
