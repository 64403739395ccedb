"""Workouts of several devices: what two of them recorded together counts once."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.ingest.buckets import MINUTE_US
from services.ingest.merging import DAY_US

SECOND_US = 1_000_000


@dataclass(frozen=True)
class Workout:
    """One workout as a device tells it: microseconds since 1970 UTC; the offset of its start."""

    device_id: str
    device_kind: str
    sport: str
    start_us: int
    end_us: int
    offset_minutes: int

    @property
    def seconds(self) -> int:
        """Its length, rounded."""
        return round((self.end_us - self.start_us) / SECOND_US)


@dataclass(frozen=True)
class WorkoutDay:
    """The workouts that begin in one local day, in order of time, each with those that were found to be the same."""

    workouts: tuple[tuple[Workout, tuple[Workout, ...]], ...]

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by sport."""
        parts: dict[str, float] = {}
        for one, _ in self.workouts:
            parts[one.sport or "other"] = parts.get(one.sport or "other", 0.0) + one.seconds
        return dict(sorted(parts.items()))


def workout_day(day_number: int, ranked: Sequence[Workout]) -> WorkoutDay:
    """The day's workouts; `ranked`: best device first.

    Two that overlap by more than half of the shorter one are one workout: the better device's, of one device the
    longer.
    """
    kept: list[tuple[Workout, list[Workout]]] = []
    place = {id(one): number for number, one in enumerate(ranked)}
    devices = {one.device_id: number for number, one in reversed(list(enumerate(ranked)))}
    for one in sorted(ranked, key=lambda each: (devices[each.device_id], -each.seconds, place[id(each)])):
        if (one.start_us + one.offset_minutes * MINUTE_US) // DAY_US != day_number:
            continue
        same = next((dropped for known, dropped in kept if _same(known, one)), None)
        if same is not None:
            same.append(one)
        else:
            kept.append((one, []))
    kept.sort(key=lambda each: each[0].start_us)
    return WorkoutDay(tuple((one, tuple(dropped)) for one, dropped in kept))


def _same(one: Workout, other: Workout) -> bool:
    together = min(one.end_us, other.end_us) - max(one.start_us, other.start_us)
    shorter = min(one.end_us - one.start_us, other.end_us - other.start_us)
    return together * 2 > shorter or (one.start_us, one.end_us) == (other.start_us, other.end_us)
