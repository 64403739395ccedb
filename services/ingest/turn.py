"""One joint write: several users' batches merged into the buckets they touch, in one go.

Batches of one turn often meet in the same bucket, so rows of all of them are grouped first; the number of numpy calls
does not grow with the number of batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.ingest.buckets import HOUR_US, NO_ROWS, Array, Outcome, joined, merge
from services.ingest.metrics import METRICS
from services.ingest.moving import Move, settled, with_moves
from services.ingest.refusals import Code
from services.ingest.samples import CheckedBatch, CheckedSeries

_HOUR_BITS = 32
# The `index` of a row that answers no record of its own: one deletion may strike several samples.
NO_RECORD = 2**32 - 1
# A row takes 20 to 60 bytes, so a bucket stays under 1.2 MB; a sample every 180 ms of an hour.
MAX_BUCKET_ROWS = 20_000
REFUSALS: dict[Outcome, Code] = {Outcome.SUPERSEDED: "superseded", Outcome.REFUSED_DELETED: "deleted"}


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

    def of(self, start_us: int) -> "BucketKey":
        """The bucket of the same metric and device that holds what starts then."""
        hour = start_us // HOUR_US
        return replace(self, hour=hour - hour % METRICS[self.metric].bucket_hours)


@dataclass(frozen=True)
class Tally:
    """What became of one batch's records; with `refused` they add up to what was received."""

    stored: int = 0
    duplicates: int = 0
    corrections: int = 0
    deleted: int = 0
    refused: tuple[tuple[int, str], ...] = ()

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.corrections + other.corrections,
            self.deleted + other.deleted,
            tuple(sorted((*self.refused, *other.refused))),
        )


@dataclass(frozen=True)
class Turn:
    """The rows of `batches` in order of arrival; `group` numbers the bucket of each, `ends` where each batch ends."""

    batches: tuple[CheckedBatch, ...]
    keys: tuple[BucketKey, ...]
    rows: Array
    index: Array
    group: Array
    ends: Array

    def batch_of(self, rows: Array) -> Array:
        """The places of the batches that these rows, given by their places, came with."""
        return np.searchsorted(self.ends, rows, side="right")


@dataclass(frozen=True)
class TurnResult:
    """What a turn's samples came to.

    `buckets`: (place in the turn's keys, rows) of every bucket to write. `outcome`: an `Outcome` per row of the turn.
    `replaced`: samples put out of force, `replaced_by` the rows that did. `tallies`: one per batch. `homes`: by move,
    the place of the bucket that holds its sample now.
    """

    buckets: tuple[tuple[int, Array], ...]
    outcome: Array
    replaced: Array
    replaced_by: Array
    tallies: tuple[Tally, ...]
    homes: tuple[int, ...] = ()


def weight(batch: CheckedBatch) -> int:
    """At most so many buckets, places and sessions the batch touches."""
    return (
        sum(
            min(len(rows), int(rows["start"].max() - rows["start"].min()) // HOUR_US + 2)
            for rows in (series.rows for series in batch.series)
        )
        + sum(len(series.rows) for series in batch.series if not METRICS[series.metric].dense)
        + len(batch.sessions)
        + len(batch.deletions)
    )


def gather(batches: Sequence[CheckedBatch]) -> Turn:
    """Sort the rows of all batches into buckets."""
    numbers: dict[tuple[str, str, str], int] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    rows: list[Array] = []
    index, place, ends = [np.empty(0, "<u4")], [np.empty(0, "i8")], np.zeros(len(batches), "i8")
    for which, batch in enumerate(batches):
        for series in batch.series:
            name = (batch.user_id, series.metric, batch.device_id)
            number = numbers.setdefault(name, len(numbers))
            kinds[name] = batch.device_kind
            rows.append(series.rows)
            index.append(series.index)
            hours = series.rows["start"] // HOUR_US
            width = METRICS[series.metric].bucket_hours
            place.append((number << _HOUR_BITS) + (hours if width == 1 else hours - hours % width))
            ends[which] += len(series.rows)
    places, group = np.unique(np.concatenate(place), return_inverse=True)
    found: list[int] = places.tolist()
    names = list(numbers)
    keys: list[BucketKey] = []
    for one in found:
        name = names[one >> _HOUR_BITS]
        keys.append(BucketKey(*name, device_kind=kinds[name], hour=one & ((1 << _HOUR_BITS) - 1)))
    return Turn(tuple(batches), tuple(keys), joined(rows), np.concatenate(index), group, np.cumsum(ends))


def merge_turn(turn: Turn, stored: Sequence[Array | None], moves: Sequence[Move] = ()) -> TurnResult:
    """Merge the turn into what each of its buckets holds (None where there is none)."""
    held = [NO_ROWS if rows is None else rows for rows in stored]
    rows = joined(held)
    group = np.repeat(np.arange(len(held)), [len(one) for one in held])
    groups = len(held)
    homes: tuple[int, ...] = ()
    if moves:
        taken, arriving = with_moves(moves, groups, rows, group, turn.group)
        merged = merge(rows, taken, turn.rows, arriving, groups + len(moves))
        places = {key.id: place for place, key in enumerate(turn.keys)}
        stayed = merged.rows["start"][np.searchsorted(merged.group, groups + np.arange(len(moves)))].tolist()
        homes = tuple(
            places[turn.keys[move.buckets[0]].of(start).id] for move, start in zip(moves, stayed, strict=True)
        )
        merged = settled(merged, homes, groups, group, taken)
    else:
        merged = merge(rows, group, turn.rows, turn.group, groups)
    edges = np.searchsorted(merged.group, np.arange(groups + 1)).tolist()
    buckets = tuple(
        (place, merged.rows[edges[place] : edges[place + 1]]) for place in np.flatnonzero(merged.changed).tolist()
    )
    return TurnResult(
        buckets, merged.outcome, merged.replaced, merged.replaced_by, _tallies(turn, merged.outcome), homes
    )


def _tallies(turn: Turn, outcome: Array) -> tuple[Tally, ...]:
    tallies: list[Tally] = []
    begin = 0
    for batch, end in zip(turn.batches, turn.ends.tolist(), strict=True):
        became, index = outcome[begin:end], turn.index[begin:end]
        if batch.deletions:
            became, index = became[index != NO_RECORD], index[index != NO_RECORD]
        counts = np.bincount(became, minlength=len(Outcome)).tolist()
        refused = batch.refused
        for refusal, code in REFUSALS.items():
            if counts[refusal]:
                refused = tuple(sorted((*refused, *((place, code) for place in index[became == refusal].tolist()))))
        tallies.append(
            Tally(
                counts[Outcome.STORED],
                counts[Outcome.DUPLICATE],
                counts[Outcome.CORRECTION],
                counts[Outcome.DELETED],
                refused,
            )
        )
        begin = end
    return tuple(tallies)


def too_dense(turn: Turn, result: TurnResult, sizes: Mapping[int, int], moves: Sequence[Move] = ()) -> Array:
    """Per row, whether it has no room: the last ones of a bucket that would hold more than `MAX_BUCKET_ROWS`.

    `sizes`: by the place of a bucket, how many rows would be in it. A correction that moves its sample there is one.
    """
    without_room = np.zeros(len(turn.rows), bool)
    too_large = {place: size for place, size in sizes.items() if size > MAX_BUCKET_ROWS}
    if not too_large:
        return without_room
    moving = np.zeros(len(turn.rows), bool)
    moving[[row for move in moves for row in move.rows]] = True
    came = np.isin(result.outcome, (Outcome.STORED, Outcome.DELETED))
    # A tombstone of a sample that is there takes its place.
    came[result.replaced_by] = False
    came |= moving & (result.outcome == Outcome.CORRECTION)
    for place, size in too_large.items():
        without_room[np.flatnonzero(came & (turn.group == place))[MAX_BUCKET_ROWS - size :]] = True
    return without_room


def without(turn: Turn, rows: Array, code: Code) -> list[CheckedBatch]:
    """The turn's batches without those rows (a mask), which are refused with that code."""
    left: list[CheckedBatch] = []
    begin = 0
    for batch in turn.batches:
        series: list[CheckedSeries] = []
        refused = list(batch.refused)
        for one in batch.series:
            gone = rows[begin : begin + len(one.rows)]
            begin += len(one.rows)
            refused.extend((place, code) for place in one.index[gone].tolist() if place != NO_RECORD)
            series.append(CheckedSeries(one.metric, one.rows[~gone], one.index[~gone]) if gone.any() else one)
        kept = tuple(one for one in series if len(one.rows))
        left.append(replace(batch, series=kept, refused=tuple(sorted(refused))))
    return left
