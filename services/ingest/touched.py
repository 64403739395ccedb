"""Which local days a turn's samples touch."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from services.ingest.buckets import HOUR_US, Array, Outcome, joined
from services.ingest.days import date_of, day_numbers
from services.ingest.turn import Turn, TurnResult
from services.ingest.zones import ZoneHistory
from shared.events.gateway import UNKNOWN_OFFSET

_BITS = 32


@dataclass(frozen=True)
class DirtyMark:
    """A local day to compute again: `metrics` in the UTC hours [from_hour, to_hour), whose buckets touch it.

    `batch` is the place of the newest batch behind it; `reason` is late-data, correction or deletion. `early`: what it
    knew was put out of force, so that the day must be marked before the buckets change too.
    """

    user_id: str
    day: date
    from_hour: int
    to_hour: int
    metrics: tuple[str, ...]
    batch: int
    reason: str
    early: bool


def touched_days(turn: Turn, result: TurnResult, zones: Mapping[str, ZoneHistory]) -> tuple[DirtyMark, ...]:
    """The days that the turn's rows touch, and those that replaced rows touched.

    Duplicates count: after a crash between buckets and marks, the repeated batch holds nothing else. `zones`: by user,
    for rows without an offset.
    """
    if not len(turn.rows):
        return ()
    rows = joined((turn.rows, result.replaced))
    cause = np.concatenate((np.arange(len(turn.rows)), result.replaced_by))
    batch = turn.batch_of(cause)
    numbers: dict[str, int] = {}
    user_of_batch = np.array([numbers.setdefault(one.user_id, len(numbers)) for one in turn.batches])
    users = list(numbers)
    user = user_of_batch[batch]
    first, last = day_numbers(_with_offsets(rows, user, users, zones))
    names: dict[str, int] = {}
    metric = np.array([names.setdefault(key.metric, len(names)) for key in turn.keys])[turn.group[cause]]
    if "sleep" in names:
        # A sleep lies in the day it ends in, and a stage may tie parts of both days beside it into one sleep.
        asleep = metric == names["sleep"]
        first, last = first - asleep, last + asleep
    spread = np.concatenate((first, last)) if not (last - first > 1).any() else None
    doubled = np.tile(np.arange(len(rows)), 2)
    if spread is None:
        doubled = np.repeat(np.arange(len(rows)), last - first + 1)
        spread = first[doubled] + _within(last - first + 1)
    return _marks(
        _Spread(spread, user[doubled], batch[doubled], metric[doubled], rows["start"][doubled] // HOUR_US),
        result.outcome[cause][doubled],
        doubled >= len(turn.rows),
        users,
        list(names),
    )


@dataclass(frozen=True)
class _Spread:
    """A row for each day that a row touches."""

    day: Array
    user: Array
    batch: Array
    metric: Array
    hour: Array


def _marks(
    spread: _Spread, outcome: Array, replaced: Array, users: list[str], names: list[str]
) -> tuple[DirtyMark, ...]:
    # A day before 1970 in local time is possible, hence the one added.
    places, inverse = np.unique((spread.user << _BITS) + spread.day + 1, return_inverse=True)
    found: list[int] = places.tolist()
    count = len(found)
    from_hour, to_hour, newest = np.full(count, 1 << _BITS), np.zeros(count, "i8"), np.zeros(count, "i8")
    has_new, has_corrected, early = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, bool)
    np.minimum.at(from_hour, inverse, spread.hour)
    np.maximum.at(to_hour, inverse, spread.hour + 1)
    np.maximum.at(newest, inverse, spread.batch)
    has_new[inverse[outcome == Outcome.STORED]] = True
    has_corrected[inverse[outcome != Outcome.DELETED]] = True
    early[inverse[replaced]] = True
    metrics: list[list[str]] = [[] for _ in found]
    touching: list[int] = np.unique(inverse * len(names) + spread.metric).tolist()
    for one in touching:
        metrics[one // len(names)].append(names[one % len(names)])
    return tuple(
        DirtyMark(
            user_id=users[place >> _BITS],
            day=date_of((place & ((1 << _BITS) - 1)) - 1),
            from_hour=int(from_hour[one]),
            to_hour=int(to_hour[one]),
            metrics=tuple(metrics[one]),
            batch=int(newest[one]),
            reason="late-data" if has_new[one] else "correction" if has_corrected[one] else "deletion",
            early=bool(early[one]),
        )
        for one, place in enumerate(found)
    )


def _within(counts: Array) -> Array:
    """0, 1, …, n - 1 for each n of `counts`, one after the other."""
    begins: Array = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(len(begins)) - begins


def _with_offsets(rows: Array, user: Array, users: list[str], zones: Mapping[str, ZoneHistory]) -> Array:
    """`rows`, each without an offset given that of its user's zone at its start."""
    unknown = rows["offset"] == UNKNOWN_OFFSET
    if not unknown.any():
        return rows
    rows = rows.copy()
    found: list[int] = np.unique(user[unknown]).tolist()
    for number in found:
        mine = unknown & (user == number)
        rows[mine] = zones.get(users[number], ZoneHistory()).with_offsets(rows[mine])
    return rows
