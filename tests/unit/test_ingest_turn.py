"""A turn over many buckets: sparse samples that move, days touched, and what a device's remembered deletions bar."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.buckets import HOUR_US, NO_ROWS, ROW, Array, Outcome
from services.ingest.deletions import FINAL_VERSION, CheckedDeletion
from services.ingest.named import find_moves, hours_of
from services.ingest.removals import MAX_REMEMBERED, Remembered, packed
from services.ingest.samples import CheckedBatch, CheckedSeries
from services.ingest.touched import touched_days
from services.ingest.turn import Tally, gather, merge_turn
from services.ingest.zones import ZoneChange, ZoneHistory
from shared.events.gateway import UNKNOWN_OFFSET

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DAY_US = 24 * HOUR_US
BASE = 20_000 * DAY_US
# (id, day, value, version, tombstone)
Weight = tuple[int, int, float, int, bool]


def rows_of(weights: list[Weight]) -> Array:
    rows = np.zeros(len(weights), ROW)
    for place, (of, day, value, version, dead) in enumerate(weights):
        start = BASE + day * DAY_US + of * 1_000_000
        rows[place] = (start, start, value, 0, 7, of, version, 0, dead)
    return rows


def batch(rows: Array, metric: str = "body_mass", number: int = 0) -> CheckedBatch:
    return CheckedBatch(
        user_id="u",
        receipt_id=f"r{number}",
        device_id="d",
        device_kind="scale",
        zone="",
        received=len(rows),
        series=(CheckedSeries(metric, rows, np.arange(len(rows), dtype="<u4")),) if len(rows) else (),
        refused=(),
        app="a",
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


class Kept:
    """Buckets and places in memory."""

    def __init__(self) -> None:
        self.buckets: dict[str, Array] = {}
        self.places: dict[str, dict[str, int]] = {}

    def take(self, *batches: CheckedBatch) -> tuple[Tally, ...]:
        turn, moves, homes = find_moves(gather(batches), self.places)
        result = merge_turn(turn, [self.buckets.get(key.id) for key in turn.keys], moves)
        for place, rows in result.buckets:
            self.buckets[turn.keys[place].id] = rows
        for id, (_, hours) in hours_of(homes, turn, result).items():
            self.places[id] = self.places.get(id, {}) | hours
        return result.tallies

    def rows(self) -> list[Any]:
        return sorted(row.item() for rows in self.buckets.values() for row in rows)


dead = st.sampled_from([False, False, False, True])
weights = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from([80.0, 81.0]), st.integers(0, 4), dead), max_size=12
)


@calm
@given(st.lists(weights, max_size=5))
def test_a_sparse_sample_lies_in_one_bucket_wherever_corrections_move_it(batches: list[list[Weight]]) -> None:
    kept = Kept()
    expected: dict[int, Weight] = {}
    for number, one in enumerate(batches):
        (tally,) = kept.take(batch(rows_of(one), number=number))
        counted = tally.stored + tally.duplicates + tally.corrections + tally.deleted + len(tally.refused)
        assert counted == len(one)
        for weight in one:
            held = expected.get(weight[0])
            if held is None or weight[3:] > held[3:] or (weight[3:] == held[3:] and not weight[4]):
                expected[weight[0]] = weight
    live = [row for row in kept.rows() if not row[8]]
    wanted = [weight for weight in expected.values() if not weight[4]]
    assert [row[:4] for row in live] == sorted(row[:4] for row in map(np.void.item, rows_of(wanted)))
    assert [row[6] for row in live] == [row["version"] for row in np.sort(rows_of(wanted), order="start")]
    for id, rows in kept.buckets.items():
        assert {int(start) // DAY_US * 24 for start in rows["start"]} <= {int(id.split("/")[2])}


@calm
@given(weights, weights)
def test_two_batches_in_one_turn_equal_two_turns(one: list[Weight], two: list[Weight]) -> None:
    apart, joint = Kept(), Kept()
    tallies = (*apart.take(batch(rows_of(one))), *apart.take(batch(rows_of(two), number=1)))
    assert joint.take(batch(rows_of(one)), batch(rows_of(two), number=1)) == tallies
    assert joint.rows() == apart.rows()
    assert joint.places == apart.places


def touched(rows: Array, metric: str, stored: Array | None = None, history: ZoneHistory | None = None) -> Any:
    turn = gather([batch(rows, metric)])
    result = merge_turn(turn, [stored] * len(turn.keys))
    return {str(one.day): one for one in touched_days(turn, result, {"u": history or ZoneHistory()})}


def test_a_correction_touches_the_day_it_leaves_early_and_both_in_the_end() -> None:
    before, after = rows_of([(1, 0, 80, 1, False)]), rows_of([(1, 0, 80, 2, False)])
    before["offset"], after["offset"] = -60, 60
    after["value"] = 81
    days = touched(after, "body_mass", before)
    assert {day: (one.early, one.reason, one.metrics) for day, one in days.items()} == {
        "2024-10-03": (True, "correction", ("body_mass",)),
        "2024-10-04": (False, "correction", ("body_mass",)),
    }


def test_a_time_without_offset_touches_the_day_of_the_zone_then() -> None:
    rows = rows_of([(1, 0, 80, 1, False), (2, 9, 80, 1, False)])
    rows["offset"] = UNKNOWN_OFFSET
    history = ZoneHistory("America/New_York", (ZoneChange(BASE + 5 * DAY_US, "Asia/Tokyo"),))
    assert set(touched(rows, "body_mass", history=history)) == {"2024-10-03", "2024-10-13"}


def test_a_part_of_a_night_touches_the_days_beside_it_too() -> None:
    rows = rows_of([(1, 0, 2, 1, False)])
    rows["start"] += 20 * HOUR_US
    rows["end"] = rows["start"] + HOUR_US
    assert set(touched(rows, "sleep")) == {"2024-10-03", "2024-10-04", "2024-10-05"}
    assert set(touched(rows, "heart_rate")) == {"2024-10-04"}


def test_a_long_record_touches_every_day_between() -> None:
    rows = rows_of([(1, 0, 2, 1, False)])
    rows["end"] = rows["start"] + 49 * HOUR_US
    assert set(touched(rows, "steps")) == {"2024-10-04", "2024-10-05", "2024-10-06"}


def test_the_deletion_of_an_unknown_sample_says_deletion() -> None:
    days = touched(rows_of([(1, 0, 0, 5, True)]), "body_mass")
    assert [(one.reason, one.early) for one in days.values()] == [("deletion", False)]


def deletion(number: int, version: int = FINAL_VERSION) -> CheckedDeletion:
    return CheckedDeletion(0, number.to_bytes(16, "little"), "", None, None, version)


def test_remembered_deletions_bar_their_ids_up_to_their_version() -> None:
    known = Remembered.of(*packed((b"", b""), [deletion(1), deletion(2**64, 5), deletion(2**64 + 1)]))
    hi, lo = np.array([1, 0, 0, 0, 1], "<u8"), np.array([0, 1, 1, 2, 1], "<u8")
    version = np.array([99, 5, 6, 0, 0])
    assert known.bars(hi, lo, version).tolist() == [True, True, False, False, True]


def test_of_one_device_the_newest_deletions_are_remembered() -> None:
    columns = packed((b"", b""), [deletion(number) for number in range(1, MAX_REMEMBERED + 2)])
    columns = packed(columns, [deletion(2, 3), deletion(MAX_REMEMBERED + 2)])
    assert len(columns[0]) == 16 * MAX_REMEMBERED
    known = Remembered.of(*columns)
    asked = np.array([1, 2, 3, MAX_REMEMBERED + 2], "<u8")
    assert known.bars(asked, np.zeros(4, "<u8"), np.zeros(4, "i8")).tolist() == [False, True, False, True]
    # The version that was final stays so.
    assert known.bars(asked[1:2], np.zeros(1, "<u8"), np.array([4])).tolist() == [True]


def test_an_empty_turn_touches_nothing() -> None:
    turn = gather([batch(NO_ROWS)])
    result = merge_turn(turn, [])
    assert (touched_days(turn, result, {}), result.tallies, list(map(Outcome, result.outcome))) == ((), (Tally(),), [])
