"""Samples in packed columns, one bucket per (user, metric, device, UTC hours), and how new rows merge into old ones.

A sample's identity is the source's own id (hashed), else (start, end). Within one identity rows follow one another
in order of arrival: an equal row is a duplicate, a different one a correction if its version is not older, else it is
superseded. A tombstone beats a sample of its own version and loses to a later one. Everything is vectorised over all
buckets of a joint write; per-row Python would cost ten times as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import msgspec
import numpy as np

from services.ingest.packing import Array, packed, packed_times, packed_unless_zero, packed_values, times_of, values_of

HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000

# Times in microseconds since 1970 UTC, `offset` in minutes local minus UTC or UNKNOWN_OFFSET, `arrived` in minutes
# since 1970, `deleted` 1 for a tombstone (its value means nothing). Where the source gives no id, `id_hi` and `id_lo`
# are start and end: 16 bytes that no BLAKE2b hash will meet by chance.
ROW = np.dtype(
    [
        ("start", "<i8"),
        ("end", "<i8"),
        ("value", "<f8"),
        ("offset", "<i2"),
        ("id_hi", "<u8"),
        ("id_lo", "<u8"),
        ("version", "<i8"),
        ("arrived", "<u4"),
        ("deleted", "u1"),
    ]
)
NO_ROWS: Array = np.empty(0, ROW)
_WHOLE = np.dtype((np.void, ROW.itemsize))


class Outcome(IntEnum):
    """What became of an incoming row; `DELETED` is a tombstone that took effect, known sample or not."""

    STORED = 0
    DUPLICATE = 1
    CORRECTION = 2
    SUPERSEDED = 3
    DELETED = 4
    # A sample that a tombstone keeps away.
    REFUSED_DELETED = 5


class Columns(msgspec.Struct, frozen=True):
    """Rows packed little-endian, sorted by start, each column as small as `packing` makes it.

    `identity` is empty where every row's identity is its (start, end), `arrived` and `deleted` where they are 0. A
    minute of steps so takes 8 bytes instead of 63.
    """

    count: int
    start: bytes
    duration: bytes
    value: bytes
    offset: bytes
    identity: bytes
    version: bytes
    arrived: bytes = b""
    deleted: bytes = b""


def pack(rows: Array) -> Columns:
    """`rows` (dtype ROW, sorted by start) as columns."""
    # Compared as bytes: a tenth of the time for a few rows, and no more for many.
    natural = rows["id_hi"].tobytes() == rows["start"].tobytes() and rows["id_lo"].tobytes() == rows["end"].tobytes()
    identity = b"" if natural else np.stack((rows["id_hi"], rows["id_lo"]), axis=1).tobytes()
    return Columns(
        count=len(rows),
        start=packed_times(rows["start"]),
        duration=packed(rows["end"] - rows["start"]),
        value=packed_values(rows["value"]),
        offset=packed(rows["offset"]),
        identity=identity,
        version=packed(rows["version"]),
        arrived=packed_unless_zero(rows["arrived"]),
        deleted=packed_unless_zero(rows["deleted"]),
    )


def unpack(columns: Columns) -> Array:
    """The rows of `columns`, dtype ROW."""
    count = columns.count
    rows = np.empty(count, ROW)
    # A column's one value is spread over the rows it is assigned to.
    rows["start"] = times_of(columns.start, count)
    rows["end"] = rows["start"] + np.frombuffer(columns.duration, "<i8")
    rows["value"] = values_of(columns.value, count)
    rows["offset"] = np.frombuffer(columns.offset, "<i2")
    rows["version"] = np.frombuffer(columns.version, "<i8")
    rows["arrived"] = np.frombuffer(columns.arrived, "<u4") if columns.arrived else 0
    rows["deleted"] = np.frombuffer(columns.deleted, "u1") if columns.deleted else 0
    if columns.identity:
        identity = np.frombuffer(columns.identity, "<u8").reshape(count, 2)
        rows["id_hi"], rows["id_lo"] = identity[:, 0], identity[:, 1]
    else:
        rows["id_hi"], rows["id_lo"] = rows["start"], rows["end"]
    return rows


def joined(parts: Sequence[Array]) -> Array:
    """All rows of `parts`, one after the other. As opaque bytes: numpy compares fields one by one, 30 µs a part."""
    return np.concatenate([one.view(_WHOLE) for one in (NO_ROWS, *parts)]).view(ROW)


def taken(rows: Array, places: Array) -> Array:
    """The rows at these places, copied as opaque bytes as well."""
    return rows.view(_WHOLE).take(places).view(ROW)


@dataclass(frozen=True)
class Merged:
    """What a merge made of its groups.

    `rows` and `group`: the rows now valid, sorted by (group, start), tombstones included. `outcome`: an `Outcome` per
    incoming row, in their order. `changed`: per group, whether it must be written. `replaced`: samples that
    corrections and tombstones put out of force, and `replaced_by` the incoming rows that did.
    """

    rows: Array
    group: Array
    outcome: Array
    changed: Array
    replaced: Array
    replaced_by: Array


def merge(stored: Array, stored_group: Array, incoming: Array, incoming_group: Array, groups: int) -> Merged:
    """Merge `incoming` rows, in order of arrival, into `stored` ones; groups are numbered 0 to `groups` - 1.

    The version that stays is the highest seen, so an older correction is refused whenever it comes. `arrived` is that
    of the first row of the value that stays.
    """
    if _are_new(stored, stored_group, incoming, incoming_group):
        return _appended(stored, stored_group, incoming, incoming_group, groups)
    count = len(stored)
    rows = joined((stored, incoming))
    group = np.concatenate((stored_group, incoming_group))
    order = np.lexsort((rows["id_lo"], rows["id_hi"], group))
    rows, group = taken(rows, order), group[order]
    position = np.arange(len(rows))
    first = np.ones(len(rows), bool)
    first[1:] = group[1:] != group[:-1]
    for name in ("id_hi", "id_lo"):
        first[1:] |= rows[name][1:] != rows[name][:-1]
    dead = rows["deleted"] != 0
    newest = _newest_so_far(_ranks(rows["version"], dead), first)
    # The row that was valid just before each row of the same identity.
    before = np.maximum.accumulate(np.where(newest, position, 0))
    before = np.concatenate((before[:1], before[:-1]))
    same = _same(rows, dead, before) & ~first
    changes = first | (newest & ~same)
    outcome = _outcomes(first, newest, same, dead, dead[before])

    last = np.flatnonzero(np.append(first[1:], True)) if len(rows) else position
    valid = taken(rows, np.maximum.accumulate(np.where(changes, position, 0))[last])
    valid["version"] = rows["version"][np.maximum.accumulate(np.where(newest, position, 0))[last]]
    valid_group = group[last]
    by_start = np.lexsort((valid["start"], valid_group))

    arrived = order >= count
    raised = newest & same & (rows["version"] > rows["version"][before])
    changed = np.zeros(groups, bool)
    changed[group[arrived & (changes | raised)]] = True
    replacing = np.flatnonzero(arrived & changes & ~first & ~dead[before])
    outcomes = np.empty(len(order), "u1")
    outcomes[order] = outcome
    return Merged(
        rows=taken(valid, by_start),
        group=valid_group[by_start],
        outcome=outcomes[count:],
        changed=changed,
        replaced=rows[before[replacing]],
        replaced_by=order[replacing] - count,
    )


def _are_new(stored: Array, stored_group: Array, incoming: Array, incoming_group: Array) -> bool:
    """Whether all incoming rows are samples of identities that nobody has: the usual case, worth a look of its own.

    Two of 2^64 hashes alike only send the rows the long way.
    """
    if incoming["deleted"].any():
        return False
    coming = _hashes(incoming, incoming_group)
    if len(np.unique(coming)) < len(coming):
        return False
    if not len(stored):
        return True
    known = _hashes(stored, stored_group)
    # Sixteen places for each stored row: about one incoming row in twenty meets a place taken by another identity.
    shift = np.uint64(64 - max(10, (len(known) * 16).bit_length()))
    coming = coming[_meet(coming >> shift, known >> shift, shift)]
    known = known[_meet(known >> shift, coming >> shift, shift)]
    return not len(np.intersect1d(known, coming))


def _hashes(rows: Array, group: Array) -> Array:
    """64 bits of (group, identity), the upper ones well mixed (multiplicative hashing, Knuth 6.4)."""
    mixed = (rows["id_hi"] ^ (group.astype("u8") * np.uint64(0xD6E8FEB86659FD93))) * np.uint64(0x9E3779B97F4A7C15)
    return (rows["id_lo"] ^ (mixed >> np.uint64(29)) ^ mixed) * np.uint64(0xBF58476D1CE4E5B9)


def _meet(places: Array, others: Array, shift: np.uint64) -> Array:
    """Per place, whether any of the others is the same."""
    taken = np.zeros(1 << (64 - int(shift)), bool)
    taken[others] = True
    return taken[places]


def _appended(stored: Array, stored_group: Array, incoming: Array, incoming_group: Array, groups: int) -> Merged:
    """What `merge` makes of rows that are all new."""
    group = np.concatenate((stored_group, incoming_group))
    order = np.argsort(group, kind="stable")
    rows, group = taken(joined((stored, incoming)), order), group[order]
    start = np.ascontiguousarray(rows["start"])
    if ((start[1:] <= start[:-1]) & (group[1:] == group[:-1])).any():
        rows = taken(rows, np.lexsort((rows["id_lo"], rows["id_hi"], start, group)))
    changed = np.zeros(groups, bool)
    changed[incoming_group] = True
    none = np.empty(0, "i8")
    return Merged(rows, group, np.full(len(incoming), Outcome.STORED, "u1"), changed, NO_ROWS, none)


def _ranks(version: Array, dead: Array) -> Array:
    """Numbers in the order of (version, tombstone or not)."""
    if not dead.any():
        return version
    return np.unique(version, return_inverse=True)[1] * 2 + dead


def _same(rows: Array, dead: Array, before: Array) -> Array:
    """Per row, whether it says what the row `before` it does; tombstones all say the same."""
    same = rows["start"] == rows["start"][before]
    for name in ("end", "value"):
        same &= rows[name] == rows[name][before]
    return same if not dead.any() else (dead & dead[before]) | (same & ~dead & ~dead[before])


def _outcomes(first: Array, newest: Array, same: Array, dead: Array, was_dead: Array) -> Array:
    outcome = np.where(same, Outcome.DUPLICATE, np.where(newest, Outcome.CORRECTION, Outcome.SUPERSEDED)).astype("u1")
    outcome[first] = Outcome.STORED
    if dead.any():
        # A tombstone holds no value, so a later version of its sample corrects nothing: it is stored anew.
        outcome[newest & ~dead & was_dead & ~first] = Outcome.STORED
        outcome[~newest & ~dead & was_dead] = Outcome.REFUSED_DELETED
        outcome[dead & (first | (newest & ~same))] = Outcome.DELETED
    return outcome


def _newest_so_far(version: Array, first: Array) -> Array:
    """Per row, whether no earlier row of its identity has a higher rank; `first` marks where identities begin."""
    if not len(version) or bool((version == version[0]).all()):
        return np.ones(len(version), bool)
    ranks = np.unique(version, return_inverse=True)[1]
    # Identities are numbered upwards, so one running maximum over (identity, rank) serves them all.
    key = np.cumsum(first) * (len(version) + 1) + ranks
    highest = np.maximum.accumulate(key)
    newest = np.ones(len(version), bool)
    newest[1:] = first[1:] | (key[1:] >= highest[:-1])
    return newest
