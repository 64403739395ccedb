"""Merging samples into buckets: identity, duplicates, corrections, and the same bucket whatever the order."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.buckets import HOUR_US, NO_ROWS, ROW, Array, Outcome, merge, pack, unpack

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BASE = 490_000 * HOUR_US
DEAD = -1.0
# (place of the sample in the hour, value or DEAD for a tombstone, version, whether the source names it)
Sample = tuple[int, float, int, bool]


def rows(samples: Sequence[Sample], arrived: int = 0) -> Array:
    made = np.zeros(len(samples), ROW)
    for place, (at, value, version, named) in enumerate(samples):
        start, end = BASE + at * 1_000_000, BASE + (at + 1) * 1_000_000
        hi, lo = (7, at + 1) if named else (start, end)
        made[place] = (start, end, value, 60, hi, lo, version, arrived, value == DEAD)
    return made


def merged(stored: Array, incoming: Array) -> tuple[Array, list[Outcome]]:
    zeros = np.zeros(len(stored), "i8")
    result = merge(stored, zeros, incoming, np.zeros(len(incoming), "i8"), 1)
    return result.rows, [Outcome(one) for one in result.outcome.tolist()]


def test_new_rows_are_stored_sorted_by_start() -> None:
    result, outcome = merged(NO_ROWS, rows([(5, 1, 0, False), (1, 2, 0, False)]))
    assert outcome == [Outcome.STORED, Outcome.STORED]
    assert result["value"].tolist() == [2, 1]


def test_an_equal_row_is_a_duplicate_and_a_different_one_a_correction() -> None:
    stored, _ = merged(NO_ROWS, rows([(1, 60, 0, False), (2, 61, 0, True)]))
    result, outcome = merged(stored, rows([(1, 60, 0, False), (2, 65, 0, True)]))
    assert outcome == [Outcome.DUPLICATE, Outcome.CORRECTION]
    assert sorted(result["value"].tolist()) == [60, 65]


def test_an_older_version_is_refused_and_a_newer_equal_one_is_remembered() -> None:
    stored, _ = merged(NO_ROWS, rows([(1, 60, 2, True)]))
    stored, outcome = merged(stored, rows([(1, 60, 5, True)]))
    assert outcome == [Outcome.DUPLICATE]
    assert stored["version"].tolist() == [5]
    stored, outcome = merged(stored, rows([(1, 99, 4, True)]))
    assert outcome == [Outcome.SUPERSEDED]
    assert stored["value"].tolist() == [60]


def test_within_one_batch_the_last_row_wins() -> None:
    result, outcome = merged(NO_ROWS, rows([(1, 60, 0, False), (1, 61, 0, False), (1, 62, 0, False)]))
    assert outcome == [Outcome.STORED, Outcome.CORRECTION, Outcome.CORRECTION]
    assert result["value"].tolist() == [62]


def test_a_duplicate_in_another_offset_keeps_the_day_it_was_stored_in() -> None:
    stored = rows([(1, 60, 0, True)])
    again = rows([(1, 60, 3, True)])
    again["offset"] = 540
    result, _ = merged(stored, again)
    assert result["offset"].tolist() == [60]


def test_a_tombstone_beats_its_own_version_and_loses_to_a_later_one() -> None:
    stored, _ = merged(NO_ROWS, rows([(1, 60, 2, True)]))
    stored, outcome = merged(stored, rows([(1, DEAD, 1, True), (1, DEAD, 2, True), (1, DEAD, 2, True)]))
    assert outcome == [Outcome.SUPERSEDED, Outcome.DELETED, Outcome.DUPLICATE]
    assert stored["deleted"].tolist() == [1]
    again, outcome = merged(stored, rows([(1, 60, 2, True), (1, 61, 3, True)]))
    assert outcome == [Outcome.REFUSED_DELETED, Outcome.STORED]
    assert (again["value"].tolist(), again["deleted"].tolist()) == ([61], [0])


def test_a_tombstone_of_an_unknown_sample_keeps_it_away() -> None:
    stored, outcome = merged(NO_ROWS, rows([(1, DEAD, 2**62, False)]))
    assert outcome == [Outcome.DELETED]
    stored, outcome = merged(stored, rows([(1, 60, 5, False)]))
    assert (outcome, stored["deleted"].tolist()) == ([Outcome.REFUSED_DELETED], [1])


def test_what_a_tombstone_puts_out_of_force_is_told_and_a_tombstone_is_not() -> None:
    stored = rows([(1, 60, 1, True), (2, DEAD, 1, True)])
    zeros = np.zeros(2, "i8")
    result = merge(stored, zeros, rows([(1, DEAD, 1, True), (2, 70, 2, True)]), zeros, 1)
    assert (result.replaced["value"].tolist(), result.replaced_by.tolist()) == ([60], [0])


def test_a_value_keeps_the_time_it_first_came_and_a_correction_brings_its_own() -> None:
    stored, _ = merged(NO_ROWS, rows([(1, 60, 0, False), (2, 60, 0, False)], arrived=5))
    stored, _ = merged(stored, rows([(1, 60, 3, False), (2, 61, 0, False)], arrived=9))
    assert stored["arrived"].tolist() == [5, 9]


def test_only_buckets_with_news_are_written() -> None:
    stored = rows([(1, 60, 0, False), (2, 60, 0, False)])
    incoming = rows([(1, 60, 0, False), (2, 61, 0, False)])
    result = merge(stored, np.array([0, 1]), incoming, np.array([0, 1]), 3)
    assert result.changed.tolist() == [False, True, False]
    assert result.replaced["value"].tolist() == [60]
    assert result.replaced_by.tolist() == [1]


samples = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([60.0, 61.0, 62.0, DEAD]), st.integers(0, 9), st.booleans()),
    max_size=20,
)


@calm
@given(samples)
def test_packing_gives_the_same_rows_back(given_samples: list[Sample]) -> None:
    kept, _ = merged(NO_ROWS, rows(given_samples))
    assert unpack(pack(kept)).tolist() == kept.tolist()


@calm
@given(st.lists(samples, max_size=5), st.randoms())
def test_batches_in_any_order_and_any_number_of_times_give_the_same_bucket(
    batches: list[list[Sample]], chance: object
) -> None:
    # One value per (sample, version), which is what a version means; a tombstone of the same version may stand beside.
    batches = [
        [(at, DEAD if value == DEAD else 60 + (at + version) % 3, version, named) for at, value, version, named in one]
        for one in batches
    ]
    expected = NO_ROWS
    for batch in batches:
        expected, _ = merged(expected, rows(batch))
    shuffled = [*batches, *batches]
    chance.shuffle(shuffled)
    result = NO_ROWS
    for batch in shuffled:
        result, _ = merged(result, rows(batch))
    assert sorted(result.tolist()) == sorted(expected.tolist())


@calm
@given(samples, samples)
def test_one_joint_merge_equals_one_merge_after_the_other(one: list[Sample], two: list[Sample]) -> None:
    stored, first = merged(NO_ROWS, rows(one))
    stored, second = merged(stored, rows(two))
    joint, outcome = merged(NO_ROWS, rows([*one, *two]))
    assert sorted(joint.tolist()) == sorted(stored.tolist())
    assert outcome == [*first, *second]


@calm
@given(samples, samples)
def test_merging_agrees_with_a_plain_loop(one: list[Sample], two: list[Sample]) -> None:
    stored, _ = merged(NO_ROWS, rows(one, arrived=1))
    result, outcome = merged(stored, rows(two, arrived=2))
    assert (sorted(result.tolist()), outcome) == plain(stored, rows(two, arrived=2))


def plain(stored: Array, incoming: Array) -> tuple[list[tuple[object, ...]], list[Outcome]]:
    """The rules once more, one row at a time."""
    known = {(row["id_hi"], row["id_lo"]): row.copy() for row in stored}
    outcome: list[Outcome] = []
    for row in incoming:
        identity = (row["id_hi"], row["id_lo"])
        current = known.get(identity)
        if current is None:
            known[identity] = row.copy()
            outcome.append(Outcome.DELETED if row["deleted"] else Outcome.STORED)
        elif says_the_same(current, row):
            current["version"] = max(current["version"], row["version"])
            outcome.append(Outcome.DUPLICATE)
        elif (row["version"], row["deleted"]) < (current["version"], current["deleted"]):
            kept_away = current["deleted"] and not row["deleted"]
            outcome.append(Outcome.REFUSED_DELETED if kept_away else Outcome.SUPERSEDED)
        else:
            known[identity] = row.copy()
            revived = Outcome.STORED if current["deleted"] else Outcome.CORRECTION
            outcome.append(Outcome.DELETED if row["deleted"] else revived)
    return sorted(row.item() for row in known.values()), outcome


def says_the_same(one: Array, other: Array) -> bool:
    if one["deleted"] or other["deleted"]:
        return bool(one["deleted"] and other["deleted"])
    return all(one[name] == other[name] for name in ("start", "end", "value"))


@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_minute_series_packs_small(count: int) -> None:
    made = minutes(np.arange(count))
    columns = pack(made)
    size = sum(len(part) for part in (columns.start, columns.duration, columns.value, columns.identity))
    assert size <= 8 * count + 24
    assert unpack(columns).tolist() == made.tolist()


@pytest.mark.parametrize(
    "values",
    [
        [0.1] * 9,
        [0.1, 0.5, 0.25],
        [1e300, 1.0, 2.0],
        [16_777_217.0, 1.0, 2.0],
        [1e-300, 1.0, 2.0],
        [60.0, 61.0],
        [60.0, 61.0, 62.0],
    ],
)
@pytest.mark.parametrize("apart_us", [1, 60_000_000, 2**31, 2**33])
def test_no_number_changes_when_it_is_packed(values: list[float], apart_us: int) -> None:
    made = minutes(np.array(values))
    made["start"] = BASE + np.arange(len(values)) * apart_us
    assert unpack(pack(made)).tolist() == made.tolist()


def minutes(values: Array) -> Array:
    made = np.zeros(len(values), ROW)
    made["start"] = BASE + np.arange(len(values)) * 60_000_000
    made["end"] = made["start"] + 60_000_000
    made["id_hi"], made["id_lo"] = made["start"], made["end"]
    made["value"] = values
    return made
