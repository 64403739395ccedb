"""Sleep as nights: stages of several devices along time, and the local day each sleep ends in.

A better device's stages cover the others'; within one device told stages cover a plain "asleep". Time in bed is never
sleep and covers nothing. Stages no more than 90 minutes apart are one sleep, and all of it belongs to the local day in
which it ends: a night, a nap, the day's sleep after a night shift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from services.ingest.buckets import MINUTE_US, Array
from services.ingest.merging import DAY_US, Cover, Dropped, Segment, layers, shares, shown
from services.ingest.metrics import STAGES, Stage

SPELL = np.dtype([("start", "<i8"), ("end", "<i8"), ("offset", "<i2"), ("stage", "u1")])
NO_SPELLS: Array = np.empty(0, SPELL)
ASLEEP: tuple[Stage, ...] = (Stage.DEEP, Stage.REM, Stage.LIGHT, Stage.ASLEEP)
# What a device tells in detail stands before what it tells in a word; the rest says nothing about sleep.
_DETAIL: tuple[tuple[Stage, ...], ...] = ((Stage.DEEP, Stage.REM, Stage.LIGHT, Stage.AWAKE), (Stage.ASLEEP,))
APART_US = 90 * MINUTE_US
SECOND_US = 1_000_000


@dataclass(frozen=True)
class Sleep:
    """What one device says of sleep: `spells` (dtype SPELL), from sessions and from single stages."""

    device_id: str
    device_kind: str
    spells: Array


class SleepTold(msgspec.Struct, frozen=True):
    """One sleep: from falling asleep to the last stage told, and whole seconds by stage, awake ones included."""

    start_us: int
    end_us: int
    stages: dict[str, float]


@dataclass(frozen=True)
class SleepDay:
    """The sleeps that end in one local day.

    `parts`: seconds by stage of what was asleep; `segments` in order of time, those awake with value 0; `not_counted`:
    seconds awake, and in bed as the best device that tells of it has them.
    """

    parts: dict[str, float]
    sleeps: tuple[SleepTold, ...]
    segments: tuple[tuple[str, Segment], ...]
    not_counted: dict[str, float]

    @property
    def sum(self) -> float:
        """Seconds asleep."""
        return sum(self.parts.values())


def of_session(start_us: int, end_us: int, offset_minutes: int, stages: Sequence[tuple[int, int, str]]) -> Array:
    """A session as dtype SPELL: its stages (start, end, name), or as a whole asleep when it has none."""
    told = stages or ((start_us, end_us, Stage.ASLEEP.label),)
    made = np.zeros(len(told), SPELL)
    for place, (start, end, name) in enumerate(told):
        made[place] = (start, end, offset_minutes, STAGES.get(name, Stage.UNKNOWN))
    return made


def of_samples(rows: Array) -> Array:
    """Samples of the metric `sleep` (dtype ROW, the value a `Stage`) as dtype SPELL."""
    made = np.zeros(len(rows), SPELL)
    for name in ("start", "end", "offset"):
        made[name] = rows[name]
    made["stage"] = rows["value"]
    return made


def sleep_day(day_number: int, ranked: Sequence[Sleep]) -> SleepDay:
    """The sleeps that end in that local day (days since 1970); `ranked`: one per device, best first."""
    found = _pieces(ranked)
    chosen: list[Array] = []
    for night in _nights(found):
        last = night[-1]
        local_end = int(last["end"]) + int(last["offset"]) * MINUTE_US
        # A sleep that ends at midnight sharp ends in the day before.
        if (local_end - 1) // DAY_US == day_number and np.isin(night["stage"], ASLEEP).any():
            chosen.append(night)
    return _told(chosen, ranked) if chosen else SleepDay({}, (), (), _in_bed(day_number, ranked))


PIECE = np.dtype([*((name, SPELL[name]) for name in SPELL.names or ()), ("place", "<i8")])


def _pieces(ranked: Sequence[Sleep]) -> Array:
    """Who tells which stage when, in order of time, without overlap."""
    covered = Cover()
    found = [np.empty(0, PIECE)]
    for place, one in enumerate(ranked):
        for stages in _DETAIL:
            told = one.spells[np.isin(one.spells["stage"], stages) & (one.spells["end"] > one.spells["start"])]
            for rows in layers(told):
                start, end, of = covered.pieces(rows["start"], rows["end"])
                made = np.empty(len(of), PIECE)
                made["start"], made["end"], made["place"] = start, end, place
                made["offset"], made["stage"] = rows["offset"][of], rows["stage"][of]
                found.append(made)
                covered = covered.with_intervals(rows["start"], rows["end"])
    pieces = np.concatenate(found)
    return pieces[np.argsort(pieces["start"])]


def _nights(pieces: Array) -> list[Array]:
    if not len(pieces):
        return []
    return np.split(pieces, np.flatnonzero(pieces["start"][1:] - pieces["end"][:-1] > APART_US) + 1)


def _told(nights: Sequence[Array], ranked: Sequence[Sleep]) -> SleepDay:
    pieces = np.concatenate(nights)
    seconds = np.zeros(len(pieces), "i8")
    for code in np.unique(pieces["stage"]).tolist():
        of_stage = pieces["stage"] == code
        seconds[of_stage] = shares((pieces["end"] - pieces["start"])[of_stage] / SECOND_US, 0)
    sums = _by_stage(pieces, seconds)
    edges = np.cumsum([0, *(len(night) for night in nights)])
    sleeps = tuple(
        SleepTold(
            int(night["start"][0]),
            int(night["end"].max()),
            _by_stage(night, seconds[edges[place] : edges[place + 1]]),
        )
        for place, night in enumerate(nights)
    )
    not_counted = {"awake": sums["awake"]} if "awake" in sums else {}
    # Between two sleeps less than twice as far apart, time in bed counts once.
    since = [0, *(one.end_us + APART_US for one in sleeps)]
    in_bed = [
        _bed_seconds(ranked, max(before, one.start_us - APART_US), one.end_us + APART_US)
        for before, one in zip(since, sleeps, strict=False)
    ]
    return SleepDay(
        {one.label: sums[one.label] for one in ASLEEP if one.label in sums},
        sleeps,
        _segments(pieces, seconds, ranked),
        not_counted | ({"in_bed": sum(in_bed)} if any(in_bed) else {}),
    )


def _by_stage(pieces: Array, seconds: Array) -> dict[str, float]:
    codes: list[int] = np.unique(pieces["stage"]).tolist()
    return {Stage(code).label: shown(seconds[pieces["stage"] == code].sum(), 0) for code in codes}


def _segments(pieces: Array, seconds: Array, ranked: Sequence[Sleep]) -> tuple[tuple[str, Segment], ...]:
    """(stage, segment) with equal neighbours joined; what worse devices call asleep meanwhile is dropped."""
    opens = np.ones(len(pieces), bool)
    for name in ("stage", "place"):
        opens[1:] &= pieces[name][1:] == pieces[name][:-1]
    opens[1:] = ~(opens[1:] & (pieces["start"][1:] == pieces["end"][:-1]))
    first = np.flatnonzero(opens)
    start, end = pieces["start"][first], pieces["end"][np.append(first[1:] - 1, len(pieces) - 1)]
    value = np.add.reduceat(seconds, first)
    made: list[tuple[str, Segment]] = []
    for place, one in enumerate(first.tolist()):
        taker, stage = int(pieces["place"][one]), Stage(int(pieces["stage"][one]))
        dropped = _dropped(ranked, taker, int(start[place]), int(end[place]))
        counted = shown(value[place], 0) if stage in ASLEEP else 0.0
        device = ranked[taker].device_id
        made.append((stage.label, Segment(device, int(start[place]), int(end[place]), counted, dropped)))
    return tuple(made)


def _dropped(ranked: Sequence[Sleep], taker: int, start: int, end: int) -> tuple[Dropped, ...]:
    why = f"covered-by {ranked[taker].device_id}"
    found = ((one.device_id, _seconds(one.spells, ASLEEP, start, end)) for one in ranked[taker + 1 :])
    return tuple(Dropped(device, seconds, why) for device, seconds in found if seconds)


def _seconds(spelled: Array, stages: Sequence[Stage], start: int, end: int) -> float:
    """Whole seconds of those stages inside [start, end), overlaps once."""
    chosen = spelled[np.isin(spelled["stage"], stages)]
    lengths = Cover().with_intervals(np.clip(chosen["start"], start, end), np.clip(chosen["end"], start, end))
    return float(round(lengths.length / SECOND_US))


def _bed_seconds(ranked: Sequence[Sleep], start: int, end: int) -> float:
    told = (_seconds(one.spells, (Stage.IN_BED,), start, end) for one in ranked)
    return next((seconds for seconds in told if seconds), 0.0)


def _in_bed(day_number: int, ranked: Sequence[Sleep]) -> dict[str, float]:
    """Time in bed that ends in the day, where nobody tells of sleep."""
    for one in ranked:
        local_end = one.spells["end"] + one.spells["offset"].astype("i8") * MINUTE_US
        bed = one.spells[((local_end - 1) // DAY_US == day_number) & (one.spells["stage"] == Stage.IN_BED)]
        if len(bed):
            return {"in_bed": _seconds(bed, (Stage.IN_BED,), int(bed["start"].min()), int(bed["end"].max()))}
    return {}
