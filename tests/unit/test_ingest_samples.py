"""A batch's records, each judged: names, units, times, ranges, and what becomes of their clocks."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ingest.deletions import FINAL_VERSION
from services.ingest.metrics import METRICS, Stage
from services.ingest.refusals import CODES
from services.ingest.samples import FEW_ROWS, CheckedBatch, CheckedSeries, check, decode, decode_head
from shared.errors import Rejected
from shared.events.gateway import UNKNOWN_OFFSET, DeletionSubmitted, SeriesColumns, SessionSubmitted, StageColumns
from tests.batches import batch, encoded, series

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CET = timezone(timedelta(hours=1))
EIGHT = datetime(2026, 3, 1, 8, tzinfo=CET)
TAKEN = datetime(2026, 3, 1, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def sent(
    metric: str,
    *values: float,
    unit: str = "",
    start: datetime = EIGHT,
    length: timedelta = MINUTE,
    first_index: int = 0,
    **columns: Any,
) -> SeriesColumns:
    """A sample a minute; `columns` take the place of those made."""
    begin = [start + place * MINUTE for place in range(len(values))]
    made = series(metric, [(one, one + length, value) for one, value in zip(begin, values, strict=True)], first_index)
    return replace(made, unit=unit, **columns)


def checked(*columns: SeriesColumns, **changed: Any) -> CheckedBatch:
    return check(batch("r", *columns, **changed))


def only(one: CheckedBatch) -> CheckedSeries:
    assert one.refused == ()
    (series,) = one.series
    return series


def codes(one: CheckedBatch) -> list[str]:
    assert one.series == ()
    return [code for _, code in one.refused]


def test_a_sample_under_healthkits_name_and_unit_is_our_metric_in_our_unit() -> None:
    found = only(checked(sent("HKQuantityTypeIdentifierBodyMass", 150, unit="lb", length=0 * MINUTE)))
    assert found.metric == "body_mass"
    assert found.rows["value"].tolist() == [68.0388555]


def test_percent_is_a_fraction_in_healthkit_and_percent_everywhere_else() -> None:
    for name in ("HKQuantityTypeIdentifierOxygenSaturation", "HKQuantityTypeIdentifierBodyFatPercentage"):
        for unit in ("%", ""):
            values = only(checked(sent(name, 0.5, 0.75, unit=unit))).rows["value"]
            assert values.tolist() == [50, 75]
    for name in ("oxygen_saturation", "OxygenSaturationRecord"):
        assert only(checked(sent(name, 97.5, unit="%"))).rows["value"].tolist() == [97.5]
    assert codes(checked(sent("HKQuantityTypeIdentifierOxygenSaturation", 97.5, unit="%"))) == ["out-of-range"]
    assert codes(checked(sent("oxygen_saturation", 0.97, unit="%"))) == ["out-of-range"]


def test_the_platforms_own_unit_holds_where_none_is_sent() -> None:
    assert only(checked(sent("BloodGlucoseRecord", 4))).rows["value"].tolist() == [72.06235200002164]
    assert only(checked(sent("HKQuantityTypeIdentifierBodyMassIndex", 22.5, unit="count"))).metric == "body_mass_index"
    assert codes(checked(sent("body_mass_index", 22.5, unit="count"))) == ["unknown-unit"]


@pytest.mark.parametrize(
    ("metric", "unit", "code"),
    [
        ("steps", "kcal", "unknown-unit"),
        ("energy_active", "kcal/day", "unknown-unit"),
        ("readiness", "", "unknown-metric"),
        ("HKQuantityTypeIdentifierDietaryWater", "mL", "unsupported-type"),
        ("BasalMetabolicRateRecord", "kcal/day", "unsupported-type"),
        ("workout", "", "not-a-sample"),
        ("HKWorkoutTypeIdentifier", "", "not-a-sample"),
        ("SleepSessionRecord", "", "not-a-sample"),
        ("sleep", "s", "unknown-unit"),
    ],
)
def test_a_name_or_unit_without_a_meaning_refuses_all_its_samples(metric: str, unit: str, code: str) -> None:
    assert checked(sent(metric, 1, 2, unit=unit, first_index=5)).refused == ((5, code), (6, code))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e308, -1e308, -1])
@pytest.mark.parametrize("unit", ["", "lb", "g"])
def test_a_value_that_no_body_has_is_refused(value: float, unit: str) -> None:
    assert codes(checked(sent("body_mass", value, unit=unit))) == ["out-of-range"]


@pytest.mark.parametrize("metric", [one for one in METRICS.values() if one.kind != "session"], ids=lambda one: one.name)
def test_both_bounds_of_a_range_are_in_it(metric: Any) -> None:
    bounds = (metric.lowest, metric.highest)
    assert only(checked(sent(metric.name, *bounds))).rows["value"].tolist() == list(bounds)
    beyond = (metric.lowest - 1e-3 * (abs(metric.lowest) + 1), metric.highest * 1.001)
    assert codes(checked(sent(metric.name, *beyond))) == ["out-of-range", "out-of-range"]


def test_a_bound_that_rounding_overstepped_is_in_it() -> None:
    above = np.nextafter(1.0, 2.0)
    assert len(only(checked(sent("HKQuantityTypeIdentifierOxygenSaturation", above))).rows) == 1


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        (sent("steps", 1, start=datetime(1969, 12, 31, tzinfo=UTC)), "before-1970"),
        (sent("steps", 1, start=datetime(1, 1, 2, tzinfo=UTC)), "before-1970"),
        (sent("steps", 1, start=TAKEN + 25 * HOUR), "in-future"),
        (sent("steps", 1, start=datetime(9999, 12, 30, tzinfo=UTC)), "in-future"),
        (sent("steps", 1, length=-MINUTE), "end-before-start"),
        (sent("steps", 1, length=27 * HOUR), "too-long"),
        (sent("heart_rate", 60, length=timedelta(days=3_650)), "too-long"),
        (sent("steps", 1, offset_minutes=np.array([15 * 60], "<i2").tobytes()), "bad-offset"),
        (sent("steps", 1, version=np.array([-1], "<i8").tobytes()), "bad-version"),
        (sent("steps", 1, version=np.array([FINAL_VERSION], "<i8").tobytes()), "bad-version"),
        (sent("HKCategoryTypeIdentifierSleepAnalysis", 6), "unknown-stage"),
        (sent("HKCategoryTypeIdentifierSleepAnalysis", 3.5), "unknown-stage"),
        (sent("sleep", float("nan")), "unknown-stage"),
        (sent("sleep", Stage.DEEP, length=0 * MINUTE), "end-before-start"),
    ],
)
def test_a_time_or_version_that_cannot_be_is_refused_with_its_reason(columns: SeriesColumns, code: str) -> None:
    assert codes(checked(columns)) == [code]


def test_what_is_just_possible_is_stored() -> None:
    for columns in (
        sent("steps", 1, start=TAKEN + 24 * HOUR),
        sent("steps", 1, start=datetime(1970, 1, 1, tzinfo=UTC)),
        sent("steps", 60_000, length=26 * HOUR),
        sent("steps", 1, offset_minutes=np.array([14 * 60], "<i2").tobytes()),
        sent("steps", 1, version=np.array([FINAL_VERSION - 1], "<i8").tobytes()),
        sent("heart_rate_resting", 52, length=25 * HOUR),
    ):
        assert len(only(checked(columns)).rows) == 1


def test_of_several_reasons_the_first_is_told_and_the_good_ones_stay() -> None:
    one = checked(sent("heart_rate", 60, 5, 61, float("nan")))
    assert one.refused == ((1, "out-of-range"), (3, "out-of-range"))
    assert one.series[0].rows["value"].tolist() == [60, 61]
    assert one.series[0].index.tolist() == [0, 2]
    assert codes(checked(sent("heart_rate", 5, start=TAKEN + 48 * HOUR, length=-MINUTE))) == ["end-before-start"]


def test_sleep_analysis_samples_become_our_stages() -> None:
    rows = only(checked(sent("HKCategoryTypeIdentifierSleepAnalysis", 0, 1, 2, 3, 4, 5))).rows
    stages = [Stage.IN_BED, Stage.ASLEEP, Stage.AWAKE, Stage.LIGHT, Stage.DEEP, Stage.REM]
    assert [Stage(int(value)) for value in rows["value"]] == stages
    rows = only(checked(sent("SleepSessionRecord.Stage", 3, 4))).rows
    assert [Stage(int(value)) for value in rows["value"]] == [Stage.AWAKE, Stage.LIGHT]
    rows = only(checked(sent("sleep", *Stage))).rows
    assert rows["value"].tolist() == list(Stage)


def test_an_unknown_offset_is_the_batchs_zones_if_it_names_one() -> None:
    offsets = np.array([UNKNOWN_OFFSET, 0, 120], "<i2").tobytes()
    columns = sent("heart_rate", 60, 61, 62, offset_minutes=offsets)
    assert only(checked(columns)).rows["offset"].tolist() == [UNKNOWN_OFFSET, 0, 120]
    # A time sent as +00:00 was meant so.
    assert only(checked(columns, zone="Europe/Berlin")).rows["offset"].tolist() == [60, 0, 120]
    nowhere = checked(columns, zone="Europe/Nowhere")
    assert nowhere.zone == ""
    assert only(nowhere).rows["offset"].tolist() == [UNKNOWN_OFFSET, 0, 120]


def test_a_row_knows_when_it_arrived_and_its_batch_which_app_sent_it() -> None:
    one = checked(sent("steps", 1), app="phone/7")
    assert only(one).rows["arrived"].tolist() == [int(TAKEN.timestamp()) // 60]
    assert not only(one).rows["deleted"].any()
    assert (one.app, one.occurred_at) == ("phone/7", TAKEN)


def test_a_row_without_an_id_has_its_times_as_identity_and_an_interval_a_length() -> None:
    row = only(checked(sent("steps", 1, length=0 * MINUTE))).rows[0]
    assert (row["id_hi"], row["id_lo"]) == (row["start"], row["end"])
    assert row["end"] - row["start"] == 60_000_000
    instant = only(checked(sent("heart_rate", 60, length=0 * MINUTE))).rows[0]
    assert instant["end"] == instant["start"]


def test_one_metric_under_several_names_is_one_series_in_the_order_sent() -> None:
    one = checked(
        sent("body_mass", 70.2, first_index=2),
        sent("HKQuantityTypeIdentifierBodyMass", 154, 155, unit="lb"),
        sent("WeightRecord", 70.4, first_index=3),
    )
    assert only(one).index.tolist() == [0, 1, 2, 3]
    assert only(one).rows["value"].tolist() == pytest.approx([69.853, 70.307, 70.2, 70.4], abs=1e-3)


def test_columns_of_different_length_are_a_dead_letter() -> None:
    with pytest.raises(Rejected, match="columns"):
        checked(sent("steps", 1, 2, value=b"12345678"))


def test_what_is_no_batch_is_a_dead_letter_whose_head_may_be_read() -> None:
    with pytest.raises(Rejected):
        decode(b"\x80")
    assert decode_head(b"nothing") is None
    head = decode_head(encoded(batch("r", sent("steps", 1, 2))))
    assert head is not None
    assert (head.receipt_id, head.received) == ("r", 2)


def test_an_empty_series_is_nothing() -> None:
    assert checked(sent("steps"), received=0).series == ()


VALUES = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 400) | st.integers(-1, 9).map(float)
NAMES = st.sampled_from(
    ["steps", "heart_rate", "sleep", "workout", "HKCategoryTypeIdentifierSleepAnalysis", "WeightRecord", "x", ""]
)


def _columns(name: str, unit: str, values: Sequence[float], start: int, length: int, spare: int) -> SeriesColumns:
    count = len(values)
    return SeriesColumns(
        metric=name,
        unit=unit,
        start_us=np.full(count, start, "<i8").tobytes(),
        end_us=np.full(count, start + length, "<i8").tobytes(),
        value=np.array(values, "<f8").tobytes(),
        offset_minutes=np.full(count, spare % 65_536 - 32_768, "<i2").tobytes(),
        index=np.arange(count, dtype="<u4").tobytes(),
        identity=bytes(16 * count),
        version=np.full(count, spare, "<i8").tobytes(),
    )


@calm
@given(
    name=NAMES,
    unit=st.sampled_from(["", "%", "lb", "count", "x"]),
    values=st.lists(VALUES, max_size=5),
    start=st.integers(-(2**61), 2**61) | st.integers(1_772_000_000, 1_772_400_000).map(lambda one: one * 10**6),
    length=st.integers(-(10**12), 10**15) | st.sampled_from([0, 60_000_000]),
    spare=st.integers(-(2**62), 2**62) | st.just(32_768),
    zone=st.sampled_from(["", "Europe/Berlin", "Nowhere"]),
)
def test_every_record_is_stored_or_refused_with_a_listed_reason(
    name: str, unit: str, values: list[float], start: int, length: int, spare: int, zone: str
) -> None:
    one = checked(_columns(name, unit, values, start, length, spare), zone=zone)
    stored = [place for each in one.series for place in each.index.tolist()]
    refused = [place for place, _ in one.refused]
    assert sorted(stored + refused) == list(range(len(values)))
    assert {code for _, code in one.refused} <= set(CODES)
    for each in one.series:
        metric = METRICS[each.metric]
        assert (each.rows["value"] >= metric.lowest).all()
        assert (each.rows["value"] <= metric.highest * (1 + 1e-9)).all()
        assert (each.rows["end"] >= each.rows["start"]).all()


@calm
@given(
    name=NAMES,
    value=VALUES,
    start=st.integers(-(2**61), 2**61) | st.integers(1_772_000_000, 1_772_400_000).map(lambda one: one * 10**6),
    length=st.integers(-(10**12), 10**15) | st.sampled_from([0, 1, 60_000_000, 2**61]),
    spare=st.integers(-(2**62), 2**62) | st.just(32_768),
)
@example(name="steps", value=10.0, start=1_772_000_000_000_000, length=60_000_000, spare=32_768)
def test_a_record_alone_is_judged_as_it_is_among_many(
    name: str, value: float, start: int, length: int, spare: int
) -> None:
    alone = checked(_columns(name, "", [value], start, length, spare))
    many = checked(_columns(name, "", [value] * (FEW_ROWS + 1), start, length, spare))
    assert [code for _, code in many.refused] == [code for _, code in alone.refused] * (FEW_ROWS + 1)
    assert len(many.series) == len(alone.series)


def test_sessions_and_deletions_are_judged_with_the_samples() -> None:
    start = round(EIGHT.timestamp() * 1_000_000)
    night = SessionSubmitted(
        index=1, type="sleep", start_us=start, end_us=start + 3_600_000_000, offset_minutes=60, identity=bytes(16)
    )
    bad = replace(night, index=2, stages=StageColumns(start_us=b"", end_us=b"", stage=("deep",)))
    gone = DeletionSubmitted(index=3, identity=b"1" * 16)
    nothing = DeletionSubmitted(index=4, identity=bytes(16))
    one = checked(sent("steps", 1), sessions=(night, bad), deletions=(gone, nothing), received=5)
    assert [session.index for session in one.sessions] == [1]
    assert [deletion.index for deletion in one.deletions] == [3]
    assert one.refused == ((2, "bad-stages"), (4, "bad-deletion"))
