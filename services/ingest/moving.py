"""Samples of sparse metrics that a correction moves to another bucket: gone there and stored here in one merge.

A moving sample's rows, those stored and those that came, are merged in a group of their own; the row that stays then
goes to the bucket of its start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.ingest.buckets import Array, Merged


@dataclass(frozen=True)
class Move:
    """One identity (as `id_hi`, `id_lo`) that may lie in several buckets.

    `rows`: the places of its rows in the turn. `buckets`: the places of the buckets that may hold it.
    """

    id_hi: int
    id_lo: int
    rows: tuple[int, ...]
    buckets: tuple[int, ...]


def with_moves(
    moves: Sequence[Move], groups: int, stored: Array, stored_group: Array, incoming_group: Array
) -> tuple[Array, Array]:
    """The groups of stored and of incoming rows, where move n has group `groups` + n."""
    taken, arriving = stored_group.copy(), incoming_group.copy()
    for number, move in enumerate(moves):
        mine = (stored["id_hi"] == np.uint64(move.id_hi)) & (stored["id_lo"] == np.uint64(move.id_lo))
        taken[mine & np.isin(stored_group, move.buckets)] = groups + number
        arriving[list(move.rows)] = groups + number
    return taken, arriving


def settled(merged: Merged, homes: Sequence[int], groups: int, stored_group: Array, taken: Array) -> Merged:
    """The merge with every moved row in the bucket of its start; buckets that it left or came to are changed.

    `homes`: by move, the place of that bucket; `stored_group` and `taken`: the groups of stored rows, as they lie and
    as they were merged.
    """
    group, changed = merged.group.copy(), merged.changed[:groups].copy()
    for number, home in enumerate(homes):
        group[merged.group == groups + number] = home
        before = set(stored_group[taken == groups + number].tolist())
        changed[list(before - {home})] = True
        changed[home] |= home not in before or bool(merged.changed[groups + number])
    order = np.lexsort((merged.rows["start"], group))
    return replace(merged, rows=merged.rows[order], group=group[order], changed=changed)
