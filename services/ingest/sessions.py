"""Sleeps and workouts as they were sent, checked: names, times, stages, totals and streams."""

from dataclasses import dataclass
from typing import Literal

from services.ingest.buckets import Array

SessionType = Literal["sleep", "workout"]


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
