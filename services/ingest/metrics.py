"""The metrics we keep: what kind of number each is, its UCUM unit and the range one sample may have.

Beside them what sleeps and workouts are made of: stages, sports, streams and totals.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Kind = Literal["instant", "interval", "daily", "session"]
# Units convert within a dimension only. A difference of temperatures has no zero point to shift.
Dimension = Literal[
    "count",
    "length",
    "energy",
    "time",
    "rate",
    "percentage",
    "temperature",
    "temperature difference",
    "mass",
    "body mass index",
    "pressure",
    "glucose",
    "oxygen uptake",
]


@dataclass(frozen=True)
class Metric:
    """One canonical metric. `lowest` and `highest` bound one sample's value, both included.

    An instant is a reading at a time; an interval is a total over [start, end); a daily is one value for a local day;
    a session has a start, an end and parts. `dense` metrics may come every few minutes or oftener and are kept by the
    hour, the others by the UTC day, with an exact index from id to bucket. `decimals` are those that mean something;
    sums and means are rounded to them, samples never. `loinc`: codes seen in use, "" where none is.
    """

    name: str
    kind: Kind
    unit: str
    lowest: float
    highest: float
    dense: bool
    about: str
    dimension: Dimension
    decimals: int
    loinc: str = ""

    @property
    def bucket_hours(self) -> int:
        """How many UTC hours one bucket holds; it starts at a multiple of them."""
        return 1 if self.dense else 24


# Bounds are generous: an interval may be a whole day of a record holder (24 h: 319 km on foot, 1,026 km by bicycle,
# 21,700 m climbed). Dense is what devices measure by themselves all day or all night, glucose sensors included; sparse
# is what a person measures, what comes once a day, and sleep's stages, some hundred a night.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("steps", "interval", "{steps}", 0, 300_000, True, "Steps walked or run", "count", 0, "55423-8"),
        Metric("distance", "interval", "m", 0, 1_500_000, True, "Distance moved, of all sports", "length", 1),
        Metric("floors_climbed", "interval", "{floors}", 0, 10_000, True, "Floors climbed", "count", 0, "100304-5"),
        Metric("elevation_gain", "interval", "m", 0, 30_000, True, "Height climbed", "length", 1),
        Metric("energy_active", "interval", "kcal", 0, 20_000, True, "Energy spent above rest", "energy", 3, "41981-2"),
        Metric("energy_basal", "interval", "kcal", 0, 10_000, True, "Energy spent at rest", "energy", 3),
        Metric("energy_total", "interval", "kcal", 0, 30_000, True, "Energy spent in all", "energy", 3, "41981-2"),
        Metric(
            "active_time_moderate",
            "interval",
            "min",
            0,
            1_560,
            True,
            "Time of moderate activity",
            "time",
            2,
            "77592-4",
        ),
        Metric(
            "active_time_vigorous",
            "interval",
            "min",
            0,
            1_560,
            True,
            "Time of vigorous activity",
            "time",
            2,
            "77593-2",
        ),
        Metric("heart_rate", "instant", "/min", 20, 300, True, "Heart rate", "rate", 3, "8867-4"),
        Metric("heart_rate_resting", "daily", "/min", 20, 200, False, "Resting heart rate", "rate", 3, "40443-4"),
        Metric("hrv_rmssd", "instant", "ms", 0, 1_000, True, "Heart rate variability, RMSSD", "time", 3),
        Metric("hrv_sdnn", "instant", "ms", 0, 1_000, True, "Heart rate variability, SDNN", "time", 3, "80404-7"),
        Metric("respiratory_rate", "instant", "/min", 1, 120, True, "Breaths a minute", "rate", 3, "9279-1"),
        Metric(
            "oxygen_saturation", "instant", "%", 40, 100, True, "Oxygen saturation of blood", "percentage", 2, "59408-5"
        ),
        Metric("vo2_max", "daily", "mL/(kg.min)", 5, 110, False, "Largest oxygen uptake", "oxygen uptake", 2),
        Metric("body_temperature", "instant", "Cel", 25, 45, False, "Body temperature", "temperature", 2, "8310-5"),
        Metric(
            "skin_temperature_deviation",
            "daily",
            "Cel",
            -15,
            15,
            False,
            "Skin temperature against the user's own baseline",
            "temperature difference",
            2,
        ),
        Metric("body_mass", "instant", "kg", 0.2, 700, False, "Body weight", "mass", 3, "29463-7"),
        Metric("body_fat_percentage", "instant", "%", 1, 85, False, "Body fat", "percentage", 2, "41982-0"),
        Metric("lean_body_mass", "instant", "kg", 0.2, 500, False, "Body weight without fat", "mass", 3, "91557-9"),
        Metric("muscle_mass", "instant", "kg", 0.1, 300, False, "Muscle", "mass", 3),
        Metric(
            "body_mass_index", "instant", "kg/m2", 5, 200, False, "Body mass index", "body mass index", 2, "39156-5"
        ),
        Metric("height", "instant", "m", 0.2, 2.8, False, "Body height", "length", 3, "8302-2"),
        Metric(
            "blood_pressure_systolic",
            "instant",
            "mm[Hg]",
            30,
            370,
            False,
            "Blood pressure, upper; sent with the lower one at the same start",
            "pressure",
            1,
            "8480-6",
        ),
        Metric(
            "blood_pressure_diastolic",
            "instant",
            "mm[Hg]",
            10,
            300,
            False,
            "Blood pressure, lower; sent with the upper one at the same start",
            "pressure",
            1,
            "8462-4",
        ),
        Metric("blood_glucose", "instant", "mg/dL", 5, 1_500, True, "Glucose in blood", "glucose", 2, "41653-7"),
        Metric("sleep", "session", "s", 0, 172_800, False, "Sleep, with its stages", "time", 0),
        Metric("workout", "session", "s", 0, 172_800, False, "A workout, with its streams", "time", 0, "73985-4"),
    )
}

# A day's total covers 25 hours where clocks go back, 26 at one station in Antarctica.
LONGEST_SAMPLE_US = 26 * 3_600_000_000
LONGEST_SESSION_US = 48 * 3_600_000_000
# An interval sent without an end; it needs a length to be resolved against other devices.
SHORTEST_INTERVAL_US = 60_000_000


class Stage(IntEnum):
    """What a stretch of a sleep was; stored as this number, so numbers never change.

    `ASLEEP` is sleep of no known stage; `IN_BED` may overlap all others; out of bed is `AWAKE`.
    """

    UNKNOWN = 0
    AWAKE = 1
    LIGHT = 2
    DEEP = 3
    REM = 4
    ASLEEP = 5
    IN_BED = 6

    @property
    def label(self) -> str:
        """The stage's name in the API."""
        return self.name.lower()


STAGES: dict[str, Stage] = {stage.label: stage for stage in Stage}

SPORTS: tuple[str, ...] = (
    "walk",
    "run",
    "trail_run",
    "treadmill_run",
    "ride",
    "indoor_ride",
    "swim_pool",
    "swim_open",
    "hike",
    "row",
    "elliptical",
    "strength",
    "hiit",
    "yoga",
    "ski",
    "other",
)


@dataclass(frozen=True)
class Bounded:
    """A number inside a session: a workout's stream or a session's total, with the range of one value."""

    name: str
    unit: str
    lowest: float
    highest: float
    about: str


STREAMS: dict[str, Bounded] = {
    stream.name: stream
    for stream in (
        Bounded("heart_rate", "/min", 20, 300, "Heart rate"),
        Bounded("speed", "m/s", 0, 150, "Speed"),
        Bounded("power", "W", 0, 5_000, "Power"),
        Bounded("cadence", "/min", 0, 500, "Steps, turns or strokes a minute"),
        Bounded("altitude", "m", -500, 12_000, "Height above sea level"),
        Bounded("distance", "m", 0, 1_500_000, "Distance since the start"),
        Bounded("latitude", "deg", -90, 90, "Where, north of the equator"),
        Bounded("longitude", "deg", -180, 180, "Where, east of Greenwich"),
        Bounded("temperature", "Cel", -70, 70, "Temperature of the air"),
    )
}

# A session may last 48 h, hence twice a day's bounds.
TOTALS: dict[str, Bounded] = {
    total.name: total
    for total in (
        Bounded("energy_active_kcal", "kcal", 0, 40_000, "Energy spent above rest"),
        Bounded("energy_basal_kcal", "kcal", 0, 20_000, "Energy spent at rest"),
        Bounded("energy_total_kcal", "kcal", 0, 60_000, "Energy spent in all"),
        Bounded("distance_m", "m", 0, 3_000_000, "Distance moved"),
        Bounded("steps", "{steps}", 0, 600_000, "Steps"),
        Bounded("floors_climbed", "{floors}", 0, 20_000, "Floors climbed"),
        Bounded("elevation_gain_m", "m", 0, 60_000, "Height climbed"),
        Bounded("active_time_moderate_min", "min", 0, 2_880, "Time of moderate activity"),
        Bounded("active_time_vigorous_min", "min", 0, 2_880, "Time of vigorous activity"),
        Bounded("moving_s", "s", 0, 172_800, "Time without pauses"),
        Bounded("heart_rate_mean_per_min", "/min", 20, 300, "Mean heart rate"),
        Bounded("heart_rate_min_per_min", "/min", 20, 300, "Lowest heart rate"),
        Bounded("heart_rate_max_per_min", "/min", 20, 300, "Highest heart rate"),
        Bounded("awake_s", "s", 0, 172_800, "Time awake"),
        Bounded("light_s", "s", 0, 172_800, "Light sleep"),
        Bounded("deep_s", "s", 0, 172_800, "Deep sleep"),
        Bounded("rem_s", "s", 0, 172_800, "REM sleep"),
        Bounded("asleep_s", "s", 0, 172_800, "Sleep of all stages"),
        Bounded("in_bed_s", "s", 0, 172_800, "Time in bed"),
    )
}


@dataclass(frozen=True)
class Source:
    """A name under which records come, ours or a platform's, and what its values mean.

    `metric` is "" where we keep no such thing. `unit` is what a value without a unit is in; `units` says which unit
    the platform means by a spelling that elsewhere means another. `stages` and `sports` are the platform's numbers for
    the stages of a sleep and for the sports of a workout. `sampled` is False for what comes as a session only.
    """

    name: str
    metric: str
    unit: str = ""
    units: dict[str, str] = field(default_factory=dict[str, str])
    stages: dict[int, Stage] = field(default_factory=dict[int, Stage])
    sports: dict[int, str] = field(default_factory=dict[int, str])
    sampled: bool = True
    note: str = ""


# When several devices report the same time, the first kind listed wins; kinds not listed come last.
DEVICE_PRIORITY: tuple[str, ...] = ("workout", "watch", "ring", "phone", "scale")


def priority(device_kind: str) -> int:
    """The rank of a device kind, 0 first."""
    return DEVICE_PRIORITY.index(device_kind) if device_kind in DEVICE_PRIORITY else len(DEVICE_PRIORITY)
