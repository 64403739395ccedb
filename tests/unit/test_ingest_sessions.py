"""Sleeps, workouts and deletions, each judged as a whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ingest.deletions import FINAL_VERSION, CheckedDeletion, check_deletion
from services.ingest.metrics import STREAMS, TOTALS, Stage
from services.ingest.refusals import CODES
from services.ingest.sessions import CheckedSession, Taken, check_session
from services.ingest.zones import zone_of
from shared.events.gateway import UNKNOWN_OFFSET, DeletionSubmitted, SessionSubmitted, StageColumns, StreamColumns

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECOND = 1_000_000
HOUR = 3_600 * SECOND
# 2026-03-01 23:00 in Berlin, for eight hours.
BEGIN = 1_772_402_400 * SECOND
END = BEGIN + 8 * HOUR
TAKEN = Taken(latest_us=END + 24 * HOUR, arrived=END // SECOND // 60, zone=None)
NAMELESS = bytes(16)


def stages(*spells: tuple[str, int, int]) -> StageColumns:
    """(name, start, end) in microseconds after `BEGIN`."""
    return StageColumns(
        start_us=np.array([BEGIN + start for _, start, _ in spells], "<i8").tobytes(),
        end_us=np.array([BEGIN + end for _, _, end in spells], "<i8").tobytes(),
        stage=tuple(name for name, _, _ in spells),
    )


def stream(name: str, *points: tuple[int, float]) -> StreamColumns:
    """(microseconds after `BEGIN`, value)."""
    return StreamColumns(
        name=name,
        at_us=np.array([BEGIN + at for at, _ in points], "<i8").tobytes(),
        value=np.array([value for _, value in points], "<f8").tobytes(),
    )


def sleep(*spells: tuple[str, int, int], **changed: Any) -> SessionSubmitted:
    values: dict[str, Any] = {
        "index": 7,
        "type": "sleep",
        "start_us": BEGIN,
        "end_us": END,
        "offset_minutes": 60,
        "identity": b"i" * 16,
        "stages": stages(*spells) if spells else None,
    }
    return SessionSubmitted(**(values | changed))


def workout(*streams: StreamColumns, **changed: Any) -> SessionSubmitted:
    return sleep(**({"type": "workout", "sport": "run", "streams": streams} | changed))


def passed(sent: SessionSubmitted, taken: Taken = TAKEN) -> CheckedSession:
    session = check_session(sent, taken)
    assert isinstance(session, CheckedSession)
    return session


def spells(sent: SessionSubmitted) -> list[tuple[Stage, int, int]]:
    found = passed(sent).stages
    assert found is not None
    columns = (found.stage.tolist(), found.start.tolist(), found.end.tolist())
    return [(Stage(stage), start - BEGIN, end - BEGIN) for stage, start, end in zip(*columns, strict=True)]


def test_a_night_keeps_its_stages_in_order_of_time() -> None:
    night = sleep(("rem", 2 * HOUR, 3 * HOUR), ("light", 0, HOUR), ("deep", HOUR, 2 * HOUR))
    assert spells(night) == [
        (Stage.LIGHT, 0, HOUR),
        (Stage.DEEP, HOUR, 2 * HOUR),
        (Stage.REM, 2 * HOUR, 3 * HOUR),
    ]
    session = passed(night)
    assert (session.type, session.index, session.named, session.identity) == ("sleep", 7, True, b"i" * 16)
    assert (session.sport, session.sport_sent, session.streams) == ("", "", ())
    assert session.arrived == TAKEN.arrived


def test_stages_may_be_the_platforms_numbers() -> None:
    assert spells(sleep(("5", 0, HOUR), type="SleepSessionRecord"))[0][0] is Stage.DEEP
    assert spells(sleep(("5", 0, HOUR), type="HKCategoryTypeIdentifierSleepAnalysis"))[0][0] is Stage.REM


def test_time_in_bed_may_lie_over_all_others() -> None:
    night = sleep(("in_bed", 0, 8 * HOUR), ("asleep", HOUR, 7 * HOUR), ("awake", 7 * HOUR, 8 * HOUR))
    assert [stage for stage, _, _ in spells(night)] == [Stage.IN_BED, Stage.ASLEEP, Stage.AWAKE]


def test_what_overlaps_or_sticks_out_by_a_second_is_cut_off() -> None:
    night = sleep(
        ("light", -SECOND, HOUR + SECOND), ("deep", HOUR, 2 * HOUR), ("rem", 7 * HOUR, 8 * HOUR + SECOND // 2)
    )
    assert spells(night) == [
        (Stage.LIGHT, 0, HOUR),
        (Stage.DEEP, HOUR, 2 * HOUR),
        (Stage.REM, 7 * HOUR, 8 * HOUR),
    ]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (sleep(("light", 0, HOUR), ("deep", HOUR - 2 * SECOND, 2 * HOUR)), "bad-stages"),
        (sleep(("light", 0, 4 * HOUR), ("deep", HOUR, 2 * HOUR), ("rem", 3 * HOUR, 5 * HOUR)), "bad-stages"),
        (sleep(("light", -2 * SECOND, HOUR)), "bad-stages"),
        (sleep(("light", 0, 8 * HOUR + 2 * SECOND)), "bad-stages"),
        (sleep(("light", HOUR, HOUR)), "bad-stages"),
        (sleep(("light", 2 * HOUR, HOUR)), "bad-stages"),
        (sleep(stages=StageColumns(start_us=bytes(8), end_us=bytes(16), stage=("deep",))), "bad-stages"),
        (sleep(("dozing", 0, HOUR)), "unknown-stage"),
        (workout(stages=stages(("deep", 0, HOUR))), "bad-stages"),
        (workout(stream("heart_rate", (0, 120)), stream("heart_rate", (1, 121))), "bad-stream"),
        (sleep(streams=(stream("heart_rate", (0, 60)),)), "bad-stream"),
        (workout(StreamColumns(name="power", at_us=bytes(16), value=bytes(8))), "bad-stream"),
        (workout(StreamColumns(name="power", at_us=bytes(7), value=bytes(7))), "bad-stream"),
        (workout(stream("power", (-61 * SECOND, 200))), "bad-stream"),
        (workout(stream("power", (8 * HOUR + 61 * SECOND, 200))), "bad-stream"),
        (workout(stream("power", (0, float("nan")))), "out-of-range"),
        (workout(stream("latitude", (0, 91))), "out-of-range"),
        (workout(stream("torque", (0, 1))), "unknown-stream"),
        (workout(totals={"karma": 1}), "unknown-total"),
        (workout(totals={"steps": -1}), "out-of-range"),
        (workout(totals={"steps": float("nan")}), "out-of-range"),
        (sleep(type="nap"), "unknown-metric"),
        (sleep(type="steps"), "unknown-metric"),
        (sleep(type="HKCategoryTypeIdentifierMindfulSession"), "unsupported-type"),
        (sleep(start_us=-1), "before-1970"),
        (sleep(end_us=BEGIN), "end-before-start"),
        (sleep(end_us=BEGIN - 1), "end-before-start"),
        (sleep(start_us=TAKEN.latest_us + 1, end_us=TAKEN.latest_us + 2), "in-future"),
        (sleep(end_us=BEGIN + 48 * HOUR + 1), "too-long"),
        (sleep(offset_minutes=15 * 60), "bad-offset"),
        (sleep(version=FINAL_VERSION), "bad-version"),
        (sleep(version=-1), "bad-version"),
    ],
)
def test_a_session_that_cannot_be_is_refused_as_a_whole(sent: SessionSubmitted, code: str) -> None:
    assert check_session(sent, TAKEN) == code


def test_a_workout_keeps_sport_totals_and_streams() -> None:
    session = passed(
        workout(
            stream("heart_rate", (2 * SECOND, 122), (0, 120), (8 * HOUR + 30 * SECOND, 140)),
            stream("latitude", (0, 52.5)),
            type="HKWorkoutTypeIdentifier",
            sport="HKWorkoutActivityTypePickleball",
            totals={"distance_m": 5_200, "energy_active_kcal": 301.5},
        )
    )
    assert (session.type, session.sport, session.sport_sent) == ("workout", "other", "HKWorkoutActivityTypePickleball")
    assert session.totals == {"distance_m": 5_200, "energy_active_kcal": 301.5}
    heart, latitude = session.streams
    assert (heart.name, latitude.name) == ("heart_rate", "latitude")
    assert heart.value.tolist() == [120, 122, 140]
    assert heart.at.tolist() == [BEGIN, BEGIN + 2 * SECOND, BEGIN + 8 * HOUR + 30 * SECOND]


def test_a_session_without_an_id_is_its_start_and_end() -> None:
    session = passed(sleep(identity=NAMELESS))
    assert not session.named
    assert np.frombuffer(session.identity, "<i8").tolist() == [BEGIN, END]


def test_an_unknown_offset_is_that_of_the_batchs_zone() -> None:
    berlin = Taken(TAKEN.latest_us, TAKEN.arrived, zone_of("Europe/Berlin"))
    assert passed(sleep(offset_minutes=UNKNOWN_OFFSET)).offset_minutes == UNKNOWN_OFFSET
    assert passed(sleep(offset_minutes=UNKNOWN_OFFSET), berlin).offset_minutes == 60
    assert passed(sleep(offset_minutes=0), berlin).offset_minutes == 0


def deletion(**changed: Any) -> DeletionSubmitted:
    return DeletionSubmitted(**({"index": 3, "identity": NAMELESS} | changed))


def named(sent: DeletionSubmitted) -> CheckedDeletion:
    found = check_deletion(sent, TAKEN.latest_us)
    assert isinstance(found, CheckedDeletion)
    return found


def test_a_deletion_by_id_is_final_unless_it_names_a_version() -> None:
    one = named(deletion(identity=b"x" * 16))
    assert (one.identity, one.metric, one.start_us) == (b"x" * 16, "", None)
    assert one.version == FINAL_VERSION
    assert named(deletion(identity=b"x" * 16, version=4)).version == 4
    assert one.row_identity == b"x" * 16


@pytest.mark.parametrize(
    ("metric", "end", "stored_end"),
    [
        ("HKQuantityTypeIdentifierHeartRate", None, BEGIN),
        ("heart_rate", END, END),
        ("steps", None, BEGIN + 60 * SECOND),
        ("steps", BEGIN, BEGIN + 60 * SECOND),
        ("StepsRecord", END, END),
        ("heart_rate_resting", None, BEGIN),
        ("workout", END, END),
    ],
)
def test_a_deletion_without_id_names_the_times_the_record_is_stored_under(
    metric: str, end: int | None, stored_end: int
) -> None:
    one = named(deletion(metric=metric, start_us=BEGIN, end_us=end))
    assert (one.identity, one.start_us, one.end_us) == (None, BEGIN, stored_end)
    assert np.frombuffer(one.row_identity, "<i8").tolist() == [BEGIN, stored_end]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (deletion(), "bad-deletion"),
        (deletion(metric="steps"), "bad-deletion"),
        (deletion(start_us=BEGIN), "bad-deletion"),
        (deletion(metric="sleep", start_us=BEGIN), "bad-deletion"),
        (deletion(metric="steps", start_us=-1), "before-1970"),
        (deletion(metric="steps", start_us=END, end_us=BEGIN), "end-before-start"),
        # A tombstone that lasts for ever would touch each of its days.
        (deletion(metric="steps", start_us=BEGIN, end_us=BEGIN + 26 * HOUR + 1), "too-long"),
        (deletion(metric="workout", start_us=BEGIN, end_us=BEGIN + 48 * HOUR + 1), "too-long"),
        (deletion(metric="steps", start_us=TAKEN.latest_us + 1), "in-future"),
        (deletion(identity=b"x" * 16, metric="steps", start_us=-1), "before-1970"),
        (deletion(identity=b"x" * 16, metric="steps", start_us=END, end_us=BEGIN), "end-before-start"),
        (deletion(identity=b"x" * 16, metric="steps", start_us=BEGIN, end_us=2**62), "too-long"),
        (deletion(metric="karma", start_us=BEGIN), "unknown-metric"),
        (deletion(metric="HKQuantityTypeIdentifierDietaryWater", identity=b"x" * 16), "unsupported-type"),
        (deletion(identity=b"x" * 16, version=FINAL_VERSION), "bad-version"),
        (deletion(identity=b"x" * 16, version=-1), "bad-version"),
    ],
)
def test_a_deletion_that_names_nothing_is_refused(sent: DeletionSubmitted, code: str) -> None:
    assert check_deletion(sent, TAKEN.latest_us) == code


moments = st.integers(-2 * SECOND, 9 * HOUR)


@calm
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["deep", "light", "in_bed", "3", "?"]), moments, moments), min_size=1, max_size=6
    ),
    points=st.lists(st.tuples(moments, st.floats()), max_size=5),
    totals=st.dictionaries(st.sampled_from([*TOTALS, "?"]), st.floats(), max_size=3),
    kind=st.sampled_from(["sleep", "workout", "SleepSessionRecord"]),
    name=st.sampled_from([*STREAMS, "?"]),
)
def test_any_session_is_kept_whole_or_refused_with_a_listed_reason(
    parts: Sequence[tuple[str, int, int]],
    points: Sequence[tuple[int, float]],
    totals: dict[str, float],
    kind: str,
    name: str,
) -> None:
    sent = replace(sleep(*parts), type=kind, totals=totals, streams=(stream(name, *points),) if points else ())
    for one in (sent, replace(sent, streams=(), totals={}), replace(sent, stages=None)):
        found = check_session(one, TAKEN)
        if isinstance(found, str):
            assert found in CODES
        elif found.stages is not None:
            told = found.stages.stage != Stage.IN_BED
            start, end = found.stages.start[told], found.stages.end[told]
            assert (found.stages.start >= BEGIN).all()
            assert (found.stages.end <= END).all()
            assert (end > start).all()
            assert (start[1:] >= end[:-1]).all()
