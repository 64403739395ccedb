"""The metrics we keep: what kind of number each is, its UCUM unit and the range one sample may have."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["instant", "interval", "daily", "session"]


@dataclass(frozen=True)
class Metric:
    """One canonical metric. `lowest` and `highest` bound one sample's value, both included.

    An instant is a reading at a time; an interval is a total over [start, end); a daily is one value for a local day;
    a session has a start, an end and parts. `dense` metrics may come every second and are kept by the hour, the others
    by the UTC day, with an exact index from id to bucket.
    """

    name: str
    kind: Kind
    unit: str
    lowest: float
    highest: float
    dense: bool
    about: str

    @property
    def bucket_hours(self) -> int:
        """How many UTC hours one bucket holds; it starts at a multiple of them."""
        return 1 if self.dense else 24


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("heart_rate", "instant", "/min", 20, 300, True, "Heart rate"),
        Metric("steps", "interval", "{steps}", 0, 100_000, True, "Steps walked or run"),
        Metric("energy_active", "interval", "kcal", 0, 20_000, True, "Energy spent by moving, above rest"),
        Metric("body_mass", "instant", "kg", 0.2, 700, False, "Body weight"),
        Metric("sleep", "session", "s", 0, 172_800, False, "Sleep, with its stages"),
        Metric("workout", "session", "s", 0, 172_800, False, "A workout, with its streams"),
    )
}

# When several devices report the same time, the first kind listed wins; kinds not listed come last.
DEVICE_PRIORITY: tuple[str, ...] = ("workout", "watch", "ring", "phone", "scale")


def priority(device_kind: str) -> int:
    """The rank of a device kind, 0 first."""
    return DEVICE_PRIORITY.index(device_kind) if device_kind in DEVICE_PRIORITY else len(DEVICE_PRIORITY)
