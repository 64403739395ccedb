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
# (place of the sample in the hour, value, version, whether the source names it)
Sample = tuple[int, float, int, bool]


def rows(samples: Sequence[Sample]) -> Array:
    made = np.zeros(len(samples), ROW)
    for place, (at, value, version, named) in enumerate(samples):
        start, end = BASE + at * 1_000_000, BASE + (at + 1) * 1_000_000
        hi, lo = (7, at + 1) if named else (start, end)
        made[place] = (start, end, value, 60, hi, lo, version, 0, 0)
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


def test_only_buckets_with_news_are_written() -> None:
    stored = rows([(1, 60, 0, False), (2, 60, 0, False)])
    incoming = rows([(1, 60, 0, False), (2, 61, 0, False)])
    result = merge(stored, np.array([0, 1]), incoming, np.array([0, 1]), 3)
    assert result.changed.tolist() == [False, True, False]
    assert result.replaced["value"].tolist() == [60]
    assert result.replaced_by.tolist() == [1]


samples = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([60.0, 61.0, 62.0]), st.integers(0, 9), st.booleans()), max_size=20
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
    # One value per (sample, version), which is what a version means.
    batches = [[(at, 60 + (at + version) % 3, version, named) for at, _, version, named in one] for one in batches]
    expected = NO_ROWS
    for batch in batches:
        expected, _ = merged(expected, rows(batch))
    shuffled = [*batches, *batches]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
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
    stored, _ = merged(NO_ROWS, rows(one))
    result, outcome = merged(stored, rows(two))
    assert (sorted(result.tolist()), outcome) == plain(stored, rows(two))


def plain(stored: Array, incoming: Array) -> tuple[list[tuple[object, ...]], list[Outcome]]:
    """The rules once more, one row at a time."""
    known = {(row["id_hi"], row["id_lo"]): row.copy() for row in stored}
    outcome: list[Outcome] = []
    for row in incoming:
        identity = (row["id_hi"], row["id_lo"])
        current = known.get(identity)
        if current is None:
            known[identity] = row.copy()
            outcome.append(Outcome.STORED)
        elif all(current[name] == row[name] for name in ("start", "end", "value")):
            current["version"] = max(current["version"], row["version"])
            outcome.append(Outcome.DUPLICATE)
        elif row["version"] >= current["version"]:
            known[identity] = row.copy()
            outcome.append(Outcome.CORRECTION)
        else:
            outcome.append(Outcome.SUPERSEDED)
    return sorted(row.item() for row in known.values()), outcome


@pytest.mark.parametrize("count", [1, 60])
def test_a_minute_series_packs_small(count: int) -> None:
    made = np.zeros(count, ROW)
    made["start"] = BASE + np.arange(count) * 60_000_000
    made["end"] = made["start"] + 60_000_000
    made["id_hi"], made["id_lo"] = made["start"], made["end"]
    made["value"] = np.arange(count)
    columns = pack(made)
    size = sum(len(part) for part in (columns.start, columns.duration, columns.value, columns.identity))
    assert size <= 16 * count + 8
