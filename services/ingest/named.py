"""Sparse samples that their source names: where each lies, and which of them a turn moves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from services.ingest.metrics import METRICS
from services.ingest.moving import Move
from services.ingest.removals import place_id
from services.ingest.turn import BucketKey, Turn, TurnResult


@dataclass(frozen=True)
class Home:
    """Where the sample `key` (place id, metric) lies: in the bucket of that hour, or where move `move` ends."""

    user_id: str
    hour: int
    move: int | None = None


Homes = dict[tuple[str, str], Home]


def find_moves(turn: Turn, places: Mapping[str, Mapping[str, int]]) -> tuple[Turn, list[Move], Homes]:
    """The turn with the buckets its samples may leave, the moves, and the homes of its named sparse samples.

    `places`: bucket hours by metric by place id, as stored.
    """
    rows = _named_sparse(turn)
    if not len(rows):
        return turn, [], {}
    by_sample: dict[tuple[str, str], list[int]] = {}
    groups: list[int] = turn.group[rows].tolist()
    pairs = np.stack((turn.rows["id_hi"], turn.rows["id_lo"]), axis=1)[rows].tobytes()
    for number, (row, group) in enumerate(zip(rows.tolist(), groups, strict=True)):
        key, identity = turn.keys[group], pairs[16 * number : 16 * number + 16]
        by_sample.setdefault((place_id(key.user_id, key.device_id, identity), key.metric), []).append(row)
    keys = list(turn.keys)
    numbers = {key.id: number for number, key in enumerate(keys)}
    moves: list[Move] = []
    homes: Homes = {}
    for (place, metric), mine in by_sample.items():
        first = keys[int(turn.group[mine[0]])]
        held = places.get(place, {}).get(metric, first.hour)
        buckets = list(dict.fromkeys([_number(first, held, keys, numbers), *turn.group[mine].tolist()]))
        homes[place, metric] = Home(first.user_id, first.hour, None if len(buckets) == 1 else len(moves))
        if len(buckets) > 1:
            one = turn.rows[mine[0]]
            moves.append(Move(int(one["id_hi"]), int(one["id_lo"]), tuple(mine), tuple(buckets)))
    return replace(turn, keys=tuple(keys)), moves, homes


def hours_of(homes: Homes, turn: Turn, result: TurnResult) -> dict[str, tuple[str, dict[str, int]]]:
    """By place id the user and the bucket hours by metric, after the turn."""
    found: dict[str, tuple[str, dict[str, int]]] = {}
    for (place, metric), home in homes.items():
        hour = home.hour if home.move is None else turn.keys[result.homes[home.move]].hour
        found.setdefault(place, (home.user_id, {}))[1][metric] = hour
    return found


def _named_sparse(turn: Turn) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sparse = np.array([not METRICS[key.metric].dense for key in turn.keys], bool)
    if not sparse.any():
        return np.empty(0, "i8")
    rows = turn.rows
    named = (rows["id_hi"] != rows["start"].view("<u8")) | (rows["id_lo"] != rows["end"].view("<u8"))
    return np.flatnonzero(sparse[turn.group] & named)


def _number(beside: BucketKey, hour: int, keys: list[BucketKey], numbers: dict[str, int]) -> int:
    """The place of the bucket of that hour, which joins the keys if it is new."""
    key = replace(beside, hour=hour)
    if key.id not in numbers:
        numbers[key.id] = len(keys)
        keys.append(key)
    return numbers[key.id]
