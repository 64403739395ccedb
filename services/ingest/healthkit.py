"""Apple HealthKit: what its type names, units, sleep values and workout activities are here.

The numbers are the raw values of HealthKit's enums. A percentage in HealthKit is a fraction from 0 to 1, in its unit
`%` too, and HealthKit's heart rate variability is SDNN.
"""

from services.ingest.metrics import Source, Stage

# Every identifier of HealthKit's object types begins so.
PREFIXES = ("HKQuantityType", "HKCategoryType", "HKCorrelationType", "HKDataType", "HKDocumentType", "HKWorkout")

_QUANTITY = "HKQuantityTypeIdentifier"
_ACTIVITY = "HKWorkoutActivityType"
_VALUE = "HKCategoryValueSleepAnalysis"
_SLEEP = "HKCategoryTypeIdentifierSleepAnalysis"
_FRACTION = {"%": "fraction"}

STAGES: dict[int, Stage] = {
    0: Stage.IN_BED,
    1: Stage.ASLEEP,
    2: Stage.AWAKE,
    3: Stage.LIGHT,
    4: Stage.DEEP,
    5: Stage.REM,
}
# "Asleep" is what "AsleepUnspecified" was called before iOS 16; "AsleepCore" is light sleep.
STAGE_NAMES: dict[str, Stage] = {
    f"{_VALUE}InBed": Stage.IN_BED,
    f"{_VALUE}Asleep": Stage.ASLEEP,
    f"{_VALUE}AsleepUnspecified": Stage.ASLEEP,
    f"{_VALUE}Awake": Stage.AWAKE,
    f"{_VALUE}AsleepCore": Stage.LIGHT,
    f"{_VALUE}AsleepDeep": Stage.DEEP,
    f"{_VALUE}AsleepREM": Stage.REM,
}

# (raw value, name, our sport); all others are `other`. Indoors or outdoors, pool or open water stands in HealthKit's
# metadata: an app that knows it sends our own name instead.
_ACTIVITIES: tuple[tuple[int, str, str], ...] = (
    (13, "Cycling", "ride"),
    (74, "HandCycling", "ride"),
    (16, "Elliptical", "elliptical"),
    (20, "FunctionalStrengthTraining", "strength"),
    (50, "TraditionalStrengthTraining", "strength"),
    (24, "Hiking", "hike"),
    (35, "Rowing", "row"),
    (37, "Running", "run"),
    (46, "Swimming", "swim_pool"),
    (52, "Walking", "walk"),
    (57, "Yoga", "yoga"),
    (60, "CrossCountrySkiing", "ski"),
    (61, "DownhillSkiing", "ski"),
    (63, "HighIntensityIntervalTraining", "hiit"),
)
SPORTS: dict[int, str] = {number: sport for number, _, sport in _ACTIVITIES}
SPORT_NAMES: dict[str, str] = {f"{_ACTIVITY}{name}": sport for _, name, sport in _ACTIVITIES}


def _quantity(name: str, metric: str, unit: str = "", units: dict[str, str] | None = None, note: str = "") -> Source:
    return Source(_QUANTITY + name, metric, unit, units or {}, note=note)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _quantity("StepCount", "steps", "count"),
        _quantity("DistanceWalkingRunning", "distance", "m"),
        _quantity("DistanceCycling", "distance", "m"),
        _quantity("DistanceSwimming", "distance", "m"),
        _quantity("DistanceWheelchair", "distance", "m"),
        _quantity("DistanceDownhillSnowSports", "distance", "m"),
        _quantity("DistanceCrossCountrySkiing", "distance", "m"),
        _quantity("DistancePaddleSports", "distance", "m"),
        _quantity("DistanceRowing", "distance", "m"),
        _quantity("DistanceSkatingSports", "distance", "m"),
        _quantity("FlightsClimbed", "floors_climbed", "count"),
        _quantity("ActiveEnergyBurned", "energy_active", "kcal"),
        _quantity("BasalEnergyBurned", "energy_basal", "kcal"),
        _quantity(
            "AppleExerciseTime",
            "active_time_moderate",
            "min",
            note="minutes of a brisk walk or harder; HealthKit does not tell vigorous ones apart",
        ),
        _quantity("HeartRate", "heart_rate", "count/min"),
        _quantity("RestingHeartRate", "heart_rate_resting", "count/min"),
        _quantity("HeartRateVariabilitySDNN", "hrv_sdnn", "ms"),
        _quantity("RespiratoryRate", "respiratory_rate", "count/min"),
        _quantity("OxygenSaturation", "oxygen_saturation", "fraction", _FRACTION),
        _quantity("VO2Max", "vo2_max", "mL/min·kg"),
        _quantity("BodyTemperature", "body_temperature", "degC"),
        _quantity("BasalBodyTemperature", "body_temperature", "degC"),
        _quantity("BodyMass", "body_mass", "kg"),
        _quantity("BodyFatPercentage", "body_fat_percentage", "fraction", _FRACTION),
        _quantity("LeanBodyMass", "lean_body_mass", "kg"),
        _quantity("BodyMassIndex", "body_mass_index", "kg/m2", {"count": "kg/m2"}),
        _quantity("Height", "height", "m"),
        _quantity("BloodPressureSystolic", "blood_pressure_systolic", "mmHg"),
        _quantity("BloodPressureDiastolic", "blood_pressure_diastolic", "mmHg"),
        _quantity("BloodGlucose", "blood_glucose", "mg/dL"),
        _quantity("AppleSleepingWristTemperature", "", note="an absolute temperature without the user's baseline"),
        _quantity("WalkingHeartRateAverage", "", note="neither one reading nor a resting rate"),
        Source("HKCorrelationTypeIdentifierBloodPressure", "", note="send its two quantities"),
        Source(_SLEEP, "sleep", stages=STAGES, note="one sample a stretch, or a session with stages"),
        Source("HKWorkoutTypeIdentifier", "workout", sports=SPORTS, sampled=False, note="a session"),
        Source("HKWorkoutType", "workout", sports=SPORTS, sampled=False, note="a session"),
        Source("HKWorkout", "workout", sports=SPORTS, sampled=False, note="a session"),
    )
}
