"""Android Health Connect: what its record names, units, sleep stages and exercise types are here.

The numbers are the constants of `SleepSessionRecord` and `ExerciseSessionRecord`. Percentages run from 0 to 100, and
Health Connect's heart rate variability is RMSSD.
"""

from services.ingest.metrics import Source, Stage

PACKAGE = "androidx.health.connect.client.records."
SUFFIX = "Record"

# (number, name, our stage)
_STAGES: tuple[tuple[int, str, Stage], ...] = (
    (0, "UNKNOWN", Stage.UNKNOWN),
    (1, "AWAKE", Stage.AWAKE),
    (2, "SLEEPING", Stage.ASLEEP),
    (3, "OUT_OF_BED", Stage.AWAKE),
    (4, "LIGHT", Stage.LIGHT),
    (5, "DEEP", Stage.DEEP),
    (6, "REM", Stage.REM),
    (7, "AWAKE_IN_BED", Stage.AWAKE),
)
STAGES: dict[int, Stage] = {number: stage for number, _, stage in _STAGES}
STAGE_NAMES: dict[str, Stage] = {f"STAGE_TYPE_{name}": stage for _, name, stage in _STAGES}

# (number, name, our sport); all others are `other`.
_EXERCISES: tuple[tuple[int, str, str], ...] = (
    (8, "BIKING", "ride"),
    (9, "BIKING_STATIONARY", "indoor_ride"),
    (13, "CALISTHENICS", "strength"),
    (25, "ELLIPTICAL", "elliptical"),
    (36, "HIGH_INTENSITY_INTERVAL_TRAINING", "hiit"),
    (37, "HIKING", "hike"),
    (53, "ROWING", "row"),
    (54, "ROWING_MACHINE", "row"),
    (56, "RUNNING", "run"),
    (57, "RUNNING_TREADMILL", "treadmill_run"),
    (61, "SKIING", "ski"),
    (70, "STRENGTH_TRAINING", "strength"),
    (73, "SWIMMING_OPEN_WATER", "swim_open"),
    (74, "SWIMMING_POOL", "swim_pool"),
    (79, "WALKING", "walk"),
    (81, "WEIGHTLIFTING", "strength"),
    (83, "YOGA", "yoga"),
)
SPORTS: dict[int, str] = {number: sport for number, _, sport in _EXERCISES}
# Under the constant's name, and under the lower-case name Health Connect itself writes.
SPORT_NAMES: dict[str, str] = {
    spelling: sport for _, name, sport in _EXERCISES for spelling in (f"EXERCISE_TYPE_{name}", name.lower())
}

_RECORDS: tuple[Source, ...] = (
    Source("StepsRecord", "steps", "count"),
    Source("DistanceRecord", "distance", "m"),
    Source("FloorsClimbedRecord", "floors_climbed", "count"),
    Source("ElevationGainedRecord", "elevation_gain", "m"),
    Source("ActiveCaloriesBurnedRecord", "energy_active", "kcal"),
    Source("TotalCaloriesBurnedRecord", "energy_total", "kcal"),
    Source("HeartRateRecord", "heart_rate", "/min", note="one sample each of its `samples`"),
    Source("RestingHeartRateRecord", "heart_rate_resting", "/min"),
    Source("HeartRateVariabilityRmssdRecord", "hrv_rmssd", "ms"),
    Source("RespiratoryRateRecord", "respiratory_rate", "/min"),
    Source("OxygenSaturationRecord", "oxygen_saturation", "%"),
    Source("Vo2MaxRecord", "vo2_max", "mL/kg/min"),
    Source("BodyTemperatureRecord", "body_temperature", "Cel"),
    Source("BasalBodyTemperatureRecord", "body_temperature", "Cel"),
    Source("SkinTemperatureRecord", "skin_temperature_deviation", "Cel", note="its `deltas`, one value a day"),
    Source("WeightRecord", "body_mass", "kg"),
    Source("BodyFatRecord", "body_fat_percentage", "%"),
    Source("LeanBodyMassRecord", "lean_body_mass", "kg"),
    Source("HeightRecord", "height", "m"),
    Source("BloodPressureRecord.systolic", "blood_pressure_systolic", "mm[Hg]"),
    Source("BloodPressureRecord.diastolic", "blood_pressure_diastolic", "mm[Hg]"),
    Source("BloodGlucoseRecord", "blood_glucose", "mmol/L"),
    Source("BloodPressureRecord", "", note="two numbers; send `.systolic` and `.diastolic`"),
    # How long such a power held is not told, and most apps compute it from height and weight.
    Source("BasalMetabolicRateRecord", "", note="a power (kcal/day) at one moment, not the energy of a time span"),
    Source("SleepSessionRecord", "sleep", stages=STAGES, sampled=False, note="a session with stages"),
    Source("SleepSessionRecord.Stage", "sleep", stages=STAGES, note="one stage as a sample"),
    Source("ExerciseSessionRecord", "workout", sports=SPORTS, sampled=False, note="a session"),
)
# Short and with the package's name in front.
SOURCES: dict[str, Source] = {name: source for source in _RECORDS for name in (source.name, f"{PACKAGE}{source.name}")}
