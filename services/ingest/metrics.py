"""The metrics we keep: what kind of number each is, its UCUM unit and the range one sample may have."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One canonical metric. `lowest` and `highest` bound one sample's value, both included.

    An instant is a reading at a time; an interval is a total over [start, end).
    """

    name: str
    kind: Literal["instant", "interval"]
    unit: str
    lowest: float
    highest: float


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("heart_rate", "instant", "/min", 20, 300),
        Metric("steps", "interval", "{steps}", 0, 20_000),
        Metric("energy_active", "interval", "kcal", 0, 5_000),
    )
}

# When several devices report the same time, the first kind listed wins; kinds not listed come last.
DEVICE_PRIORITY: tuple[str, ...] = ("workout", "watch", "ring", "phone", "scale")


def priority(device_kind: str) -> int:
    """The rank of a device kind, 0 first."""
    return DEVICE_PRIORITY.index(device_kind) if device_kind in DEVICE_PRIORITY else len(DEVICE_PRIORITY)
