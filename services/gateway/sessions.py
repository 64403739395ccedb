"""Sleeps and workouts as phones send them, and packed."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from services.gateway.samples import SourceId, Version, identity_of
from services.gateway.times import parse_time, parse_times
from shared.events.gateway import SessionSubmitted, StageColumns, StreamColumns

MAX_STREAMS = 32
MAX_TOTALS = 64
# Far beyond any session, and still exact in microseconds.
MAX_OFFSET_S = 10**9

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

# A platform's constant, such as HealthKit's HKCategoryValueSleepAnalysis.
Number = Annotated[int, msgspec.Meta(ge=0, lt=10**9)]


class Stage(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A part of a sleep, by its name or by its platform's number."""

    stage: Name | Number
    start: str
    end: str


class Stream(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Values of a workout, each at `offsets_s` seconds after `start`; equal lengths."""

    name: Name
    start: str
    offsets_s: list[float]
    values: list[float]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sleep or a workout.

    `sport` is a name or its platform's number; `totals` have our names with the unit in them, such as `distance_m`.
    """

    type: Name
    start: str
    end: str
    id: SourceId | None = None
    version: Version = 0
    sport: Annotated[str, msgspec.Meta(max_length=64)] | Number | None = None
    totals: Annotated[dict[Name, float], msgspec.Meta(max_length=MAX_TOTALS)] | None = None
    stages: list[Stage] | None = None
    streams: Annotated[list[Stream], msgspec.Meta(max_length=MAX_STREAMS)] | None = None


def points_of(sessions: Sequence[Session]) -> int:
    """How many stages and stream points they hold."""
    return sum(
        len(session.stages or ())
        + sum(max(len(stream.offsets_s), len(stream.values)) for stream in session.streams or ())
        for session in sessions
    )


def packed_session(session: Session, index: int) -> SessionSubmitted | None:
    """The session at place `index` of the batch; None when a time is none or a stream's columns differ in length."""
    start, end = parse_time(session.start), parse_time(session.end)
    stages = _stages(session.stages or [])
    streams = [_stream(stream) for stream in session.streams or []]
    known = [stream for stream in streams if stream is not None]
    if start is None or end is None or (session.stages and stages is None) or len(known) < len(streams):
        return None
    return SessionSubmitted(
        index=index,
        type=session.type,
        start_us=start[0],
        end_us=end[0],
        offset_minutes=start[1],
        identity=identity_of(session.id),
        version=session.version,
        sport="" if session.sport is None else str(session.sport),
        totals=session.totals or {},
        stages=stages,
        streams=tuple(known),
    )


def _stages(stages: list[Stage]) -> StageColumns | None:
    """The stages as columns; None when there are none or a time is bad."""
    if not stages:
        return None
    starts, _, starts_valid = parse_times([one.start for one in stages])
    ends, _, ends_valid = parse_times([one.end for one in stages])
    if not (starts_valid.all() and ends_valid.all()):
        return None
    return StageColumns(
        start_us=starts.astype("<i8", copy=False).tobytes(),
        end_us=ends.astype("<i8", copy=False).tobytes(),
        stage=tuple(str(one.stage) for one in stages),
    )


def _stream(stream: Stream) -> StreamColumns | None:
    start = parse_time(stream.start)
    if start is None or len(stream.offsets_s) != len(stream.values):
        return None
    offsets = np.array(stream.offsets_s, np.float64)
    if not (np.abs(offsets) <= MAX_OFFSET_S).all():
        return None
    at = start[0] + np.rint(offsets * 1_000_000).astype("<i8")
    return StreamColumns(name=stream.name, at_us=at.tobytes(), value=np.array(stream.values, "<f8").tobytes())
