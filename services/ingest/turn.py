"""One joint write: several users' batches merged into the buckets they touch, in one go.

Batches of one turn often meet in the same bucket, so rows of all of them are grouped first; the number of numpy calls
does not grow with the number of batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from services.ingest.buckets import HOUR_US, NO_ROWS, Array, Merged, Outcome, merge
from services.ingest.days import date_of, day_numbers
from services.ingest.samples import CheckedBatch

_HOUR_BITS = 32


@dataclass(frozen=True)
class BucketKey:
    """Which bucket: `hour` counts UTC hours since 1970. `device_kind` is what the newest batch calls the device."""

    user_id: str
    metric: str
    device_id: str
    device_kind: str
    hour: int

    @property
    def id(self) -> str:
        """The bucket's document id; the device's name, which may hold anything, comes last."""
        return f"{self.user_id}/{self.metric}/{self.hour}/{self.device_id}"


@dataclass(frozen=True)
class Tally:
    """What became of one batch's records; with `refused` they add up to what was received."""

    stored: int
    duplicates: int
    corrections: int
    refused: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class DirtyMark:
    """A local day to compute again: the UTC hours [from_hour, to_hour) whose buckets touch it.

    `batch` is the place of the newest batch behind it, `has_new` says whether more than corrections came.
    """

    user_id: str
    day: date
    from_hour: int
    to_hour: int
    batch: int
    has_new: bool


@dataclass(frozen=True)
class Turn:
    """The rows of `batches` in order of arrival; `group` numbers the bucket of each, `ends` where each batch ends."""

    batches: tuple[CheckedBatch, ...]
    keys: tuple[BucketKey, ...]
    rows: Array
    index: Array
    group: Array
    ends: Array


@dataclass(frozen=True)
class TurnResult:
    """`buckets`: (place in the turn's keys, rows) of every bucket to write. `tallies`: one per batch."""

    buckets: tuple[tuple[int, Array], ...]
    tallies: tuple[Tally, ...]
    dirty: tuple[DirtyMark, ...]


def weight(batch: CheckedBatch) -> int:
    """At most so many buckets the batch touches."""
    return sum(
        min(len(rows), int(rows["start"].max() - rows["start"].min()) // HOUR_US + 2)
        for rows in (series.rows for series in batch.series)
    )


def gather(batches: Sequence[CheckedBatch]) -> Turn:
    """Sort the rows of all batches into buckets."""
    numbers: dict[tuple[str, str, str], int] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    rows, index, place, ends = [NO_ROWS], [np.empty(0, "<u4")], [np.empty(0, "i8")], np.zeros(len(batches), "i8")
    for which, batch in enumerate(batches):
        for series in batch.series:
            name = (batch.user_id, series.metric, batch.device_id)
            number = numbers.setdefault(name, len(numbers))
            kinds[name] = batch.device_kind
            rows.append(series.rows)
            index.append(series.index)
            place.append((number << _HOUR_BITS) + series.rows["start"] // HOUR_US)
            ends[which] += len(series.rows)
    places, group = np.unique(np.concatenate(place), return_inverse=True)
    found: list[int] = places.tolist()
    names = list(numbers)
    keys: list[BucketKey] = []
    for one in found:
        name = names[one >> _HOUR_BITS]
        keys.append(BucketKey(*name, device_kind=kinds[name], hour=one & ((1 << _HOUR_BITS) - 1)))
    return Turn(tuple(batches), tuple(keys), np.concatenate(rows), np.concatenate(index), group, np.cumsum(ends))


def merge_turn(turn: Turn, stored: Sequence[Array | None]) -> TurnResult:
    """Merge the turn into what each of its buckets holds (None where there is none)."""
    held = [NO_ROWS if rows is None else rows for rows in stored]
    merged = merge(
        np.concatenate((NO_ROWS, *held)),
        np.repeat(np.arange(len(held)), [len(rows) for rows in held]),
        turn.rows,
        turn.group,
        len(held),
    )
    edges = np.searchsorted(merged.group, np.arange(len(held) + 1)).tolist()
    buckets = tuple(
        (place, merged.rows[edges[place] : edges[place + 1]]) for place in np.flatnonzero(merged.changed).tolist()
    )
    return TurnResult(buckets, _tallies(turn, merged.outcome), _dirty(turn, merged))


def _tallies(turn: Turn, outcome: Array) -> tuple[Tally, ...]:
    tallies: list[Tally] = []
    begin = 0
    for batch, end in zip(turn.batches, turn.ends.tolist(), strict=True):
        counts = np.bincount(outcome[begin:end], minlength=len(Outcome)).tolist()
        refused = batch.refused
        if counts[Outcome.SUPERSEDED]:
            late = turn.index[begin:end][outcome[begin:end] == Outcome.SUPERSEDED]
            refused = tuple(sorted((*refused, *((place, "superseded") for place in late.tolist()))))
        tallies.append(Tally(counts[Outcome.STORED], counts[Outcome.DUPLICATE], counts[Outcome.CORRECTION], refused))
        begin = end
    return tuple(tallies)


def _dirty(turn: Turn, merged: Merged) -> tuple[DirtyMark, ...]:
    """The days that the turn's rows touch, and those that replaced rows touched.

    Duplicates count: after a crash between buckets and marks, the repeated batch holds nothing else.
    """
    if not len(turn.rows):
        return ()
    rows = np.concatenate((turn.rows, merged.replaced))
    cause = np.concatenate((np.arange(len(turn.rows)), merged.replaced_by))
    batch = np.searchsorted(turn.ends, cause, side="right")
    numbers: dict[str, int] = {}
    user_of_batch = np.array([numbers.setdefault(one.user_id, len(numbers)) for one in turn.batches])
    users = list(numbers)
    first, last = day_numbers(rows)
    # A day before 1970 in local time is possible, hence the one added.
    days = np.concatenate((first, last)) + 1
    doubled = np.concatenate((cause, cause))
    batches = np.concatenate((batch, batch))
    hours = np.concatenate((rows["start"], rows["start"])) // HOUR_US
    places, inverse = np.unique((user_of_batch[batches] << _HOUR_BITS) + days, return_inverse=True)
    found: list[int] = places.tolist()
    count = len(found)
    from_hour, to_hour, newest = np.full(count, 1 << _HOUR_BITS), np.zeros(count, "i8"), np.zeros(count, "i8")
    has_new = np.zeros(count, bool)
    np.minimum.at(from_hour, inverse, hours)
    np.maximum.at(to_hour, inverse, hours + 1)
    np.maximum.at(newest, inverse, batches)
    np.logical_or.at(has_new, inverse, merged.outcome[doubled] == Outcome.STORED)
    return tuple(
        DirtyMark(
            users[place >> _HOUR_BITS],
            date_of((place & ((1 << _HOUR_BITS) - 1)) - 1),
            int(from_hour[one]),
            int(to_hour[one]),
            int(newest[one]),
            bool(has_new[one]),
        )
        for one, place in enumerate(found)
    )
