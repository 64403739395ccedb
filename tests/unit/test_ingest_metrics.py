"""The table of metrics, and the names HealthKit and Health Connect have for them."""

import pytest

from services.ingest import health_connect, healthkit
from services.ingest.metrics import METRICS, SPORTS, STREAMS, TOTALS, Metric, Source, Stage
from services.ingest.names import SOURCES, SPORT_NAMES, source_of, sport_of, stage_of
from services.ingest.units import conversion_to

EVERY = METRICS.values()


def source(name: str) -> Source:
    found = source_of(name)
    assert isinstance(found, Source)
    return found


def test_there_are_28_metrics_one_of_them_a_pair() -> None:
    pair = {"blood_pressure_systolic", "blood_pressure_diastolic"}
    assert len(set(METRICS) - pair) == 27
    assert pair < set(METRICS)


@pytest.mark.parametrize("metric", EVERY, ids=METRICS)
def test_a_metric_has_a_unit_of_its_own_dimension_and_a_range(metric: Metric) -> None:
    own = conversion_to(metric, metric.unit)
    assert own is not None
    assert own.is_identity
    assert metric.lowest < metric.highest
    # An id is found exactly in sparse metrics only, and nothing but a session is neither number nor total.
    assert (metric.kind == "session") == (metric.name in ("sleep", "workout"))
    assert metric.kind != "daily" or not metric.dense


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("steps", 60_000, True),
        ("steps", -1, False),
        ("heart_rate", 5, False),
        ("heart_rate", 28, True),
        ("heart_rate", 240, True),
        ("energy_active", 9_000, True),
        ("active_time_vigorous", 1_440, True),
        ("oxygen_saturation", 0.98, False),
        ("body_fat_percentage", 0.225, False),
        ("body_temperature", 98.6, False),
        ("body_temperature", 41.5, True),
        ("height", 178, False),
        ("body_mass", 2.4, True),
        ("blood_glucose", 600, True),
        ("skin_temperature_deviation", -0.4, True),
    ],
)
def test_a_range_holds_every_body_and_no_wrong_unit(name: str, value: float, passes: bool) -> None:
    assert (METRICS[name].lowest <= value <= METRICS[name].highest) is passes


@pytest.mark.parametrize("one", SOURCES.values(), ids=SOURCES)
def test_every_name_stands_for_a_metric_in_a_unit_of_its_or_for_nothing(one: Source) -> None:
    if not one.metric:
        assert one.note
        return
    metric = METRICS[one.metric]
    for unit in (one.unit, *one.units.values()):
        assert conversion_to(metric, unit) is not None
    assert bool(one.stages) == (metric.name == "sleep")
    assert set(one.sports.values()) <= set(SPORTS)
    assert metric.name != "workout" or not one.sampled


def test_every_metric_a_phone_can_know_has_a_name_on_one_of_the_platforms() -> None:
    platforms = {one.metric for table in (healthkit.SOURCES, health_connect.SOURCES) for one in table.values()}
    # Neither platform has muscle, and neither tells vigorous minutes apart.
    assert set(METRICS) - platforms == {"muscle_mass", "active_time_vigorous"}


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("HKQuantityTypeIdentifierStepCount", "steps"),
        ("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", "hrv_sdnn"),
        ("HeartRateVariabilityRmssdRecord", "hrv_rmssd"),
        ("androidx.health.connect.client.records.StepsRecord", "steps"),
        ("androidx.health.connect.client.records.HeartRateVariabilityRmssdRecord", "hrv_rmssd"),
        ("BloodPressureRecord.systolic", "blood_pressure_systolic"),
        ("blood_pressure_diastolic", "blood_pressure_diastolic"),
        ("HKCategoryTypeIdentifierSleepAnalysis", "sleep"),
        ("ExerciseSessionRecord", "workout"),
    ],
)
def test_names_are_taken_as_the_platform_spells_them(name: str, metric: str) -> None:
    assert source(name).metric == metric


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("HKQuantityTypeIdentifierDietaryWater", "unsupported-type"),
        ("HKCorrelationTypeIdentifierBloodPressure", "unsupported-type"),
        ("HKCategoryTypeIdentifierMenstrualFlow", "unsupported-type"),
        ("BasalMetabolicRateRecord", "unsupported-type"),
        ("androidx.health.connect.client.records.NutritionRecord", "unsupported-type"),
        ("BloodPressureRecord", "unsupported-type"),
        ("Steps", "unknown-metric"),
        ("readiness", "unknown-metric"),
        ("", "unknown-metric"),
    ],
)
def test_what_a_platform_has_and_we_do_not_is_told_from_what_nobody_has(name: str, code: str) -> None:
    assert source_of(name) == code


@pytest.mark.parametrize(
    ("type_name", "sent", "stage"),
    [
        ("sleep", "deep", Stage.DEEP),
        ("HKCategoryTypeIdentifierSleepAnalysis", "3", Stage.LIGHT),
        ("HKCategoryTypeIdentifierSleepAnalysis", "HKCategoryValueSleepAnalysisAsleepREM", Stage.REM),
        ("HKCategoryTypeIdentifierSleepAnalysis", "0", Stage.IN_BED),
        ("SleepSessionRecord", "3", Stage.AWAKE),
        ("SleepSessionRecord", "2", Stage.ASLEEP),
        ("SleepSessionRecord", "6", Stage.REM),
        ("SleepSessionRecord", "STAGE_TYPE_AWAKE_IN_BED", Stage.AWAKE),
        ("SleepSessionRecord", "8", None),
        ("SleepSessionRecord", "9" * 5_000, None),
        ("SleepSessionRecord", "", None),
        ("sleep", "core", None),
    ],
)
def test_a_stage_is_a_name_or_the_number_of_the_platform_that_speaks(
    type_name: str, sent: str, stage: Stage | None
) -> None:
    assert stage_of(source(type_name), sent) == stage


@pytest.mark.parametrize(
    ("type_name", "sent", "sport"),
    [
        ("workout", "trail_run", "trail_run"),
        ("workout", "HKWorkoutActivityTypeRunning", "run"),
        ("workout", "37", "other"),
        ("HKWorkoutTypeIdentifier", "37", "run"),
        ("HKWorkoutTypeIdentifier", "swim_open", "swim_open"),
        ("ExerciseSessionRecord", "37", "hike"),
        ("ExerciseSessionRecord", "EXERCISE_TYPE_RUNNING_TREADMILL", "treadmill_run"),
        ("ExerciseSessionRecord", "rowing_machine", "row"),
        ("ExerciseSessionRecord", "padel", "other"),
        ("workout", "", "other"),
    ],
)
def test_a_sport_is_a_name_or_the_number_of_the_platform_that_speaks(type_name: str, sent: str, sport: str) -> None:
    assert sport_of(source(type_name), sent) == sport


def test_streams_and_totals_have_ranges_and_sports_are_16() -> None:
    assert len(SPORTS) == 16
    assert set(SPORT_NAMES.values()) == set(SPORTS)
    for one in (*STREAMS.values(), *TOTALS.values()):
        assert one.lowest < one.highest
