"""The batch decoder: columns out of JSON, bad records by index, and nothing but problems for the rest."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.gateway.batches import MAX_POINTS, MAX_RECORDS, MAX_SERIES, read_batch
from services.gateway.samples import Sample, few_series, many_series, series_keys
from services.gateway.times import parse_time, parse_times
from shared.errors import Problem
from shared.events.gateway import UNKNOWN_OFFSET, BatchSubmitted, SeriesColumns

AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
DEVICE = {"id": "watch-1", "kind": "watch"}


def decoded(body: bytes | dict[str, Any]) -> BatchSubmitted:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_batch(data, user_id="usr_1", receipt_id="rcp_1", event_id="e", occurred_at=AT)


def batch(*samples: Any, **changed: Any) -> dict[str, Any]:
    return {"device": DEVICE, "app": "test/1", "samples": list(samples)} | changed


def sample(**changed: Any) -> dict[str, Any]:
    return {"metric": "heart_rate", "start": "2026-03-01T08:00:00+01:00", "value": 61} | changed


def column(series: SeriesColumns, name: str, kind: str) -> list[Any]:
    return np.frombuffer(getattr(series, name), kind).tolist()


def places(made: BatchSubmitted) -> list[int]:
    """Where every record of the batch went."""
    others = [one.index for one in (*made.refused, *made.sessions, *made.deletions)]
    return others + [place for series in made.series for place in column(series, "index", "<u4")]


def refusal(body: bytes | dict[str, Any]) -> Problem:
    with pytest.raises(Problem) as refused:
        decoded(body)
    return refused.value


def test_samples_become_columns() -> None:
    made = decoded(
        batch(
            sample(),
            sample(metric="steps", end="2026-03-01T08:01:00.250+01:00", value=90.5, id="a", version=7),
            sample(start="2026-03-01T07:00:01Z", value=62),
            zone="Europe/Berlin",
        )
    )
    rate, steps = made.series
    eight = int(datetime(2026, 3, 1, 7, tzinfo=UTC).timestamp() * 1_000_000)
    assert (made.received, made.refused, made.zone, made.device_kind) == (3, (), "Europe/Berlin", "watch")
    assert (rate.metric, steps.metric) == ("heart_rate", "steps")
    assert column(rate, "start_us", "<i8") == [eight, eight + 1_000_000]
    assert column(rate, "end_us", "<i8") == column(rate, "start_us", "<i8")
    assert column(rate, "offset_minutes", "<i2") == [60, UNKNOWN_OFFSET]
    assert column(rate, "index", "<u4") == [0, 2]
    assert column(rate, "value", "<f8") == [61.0, 62.0]
    assert rate.identity == bytes(32)
    assert column(steps, "end_us", "<i8") == [eight + 60_250_000]
    assert len(steps.identity) == 16
    assert steps.identity != bytes(16)
    assert column(steps, "version", "<i8") == [7]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        "text",
        None,
        {"metric": "steps"},
        sample(value="61"),
        sample(value=True),
        sample(start="yesterday"),
        sample(start="2026-03-01T08:00:00"),
        sample(start="2026-02-30T08:00:00Z"),
        sample(start=1772348400),
        sample(end="yesterday"),
        sample(unit="x" * 65),
        sample(unit=1),
        sample(metric=""),
        sample(metric="x" * 129),
        sample(version=-1),
        sample(version=2**63),
        sample(version=1.5),
        sample(id=""),
    ],
)
@pytest.mark.parametrize("others", [2, 100])
def test_a_bad_record_travels_by_index_and_the_rest_is_kept(bad: Any, others: int) -> None:
    made = decoded(batch(sample(), bad, *(sample() for _ in range(others - 1))))
    assert [one.index for one in made.refused] == [1]
    assert column(made.series[0], "index", "<u4") == [0, *range(2, others + 1)]
    assert made.received == others + 1


def test_a_batch_of_bad_records_alone_is_a_batch() -> None:
    made = decoded(batch({}, 1))
    assert (made.series, made.received, len(made.refused)) == ((), 2, 2)


def test_an_unknown_metric_and_a_mad_value_pass_on() -> None:
    made = decoded(batch(sample(metric="mood", value=-1e300)))
    assert made.series[0].metric == "mood"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not-json"),
        (b"{", 400, "not-json"),
        (b"\xff\xfe", 400, "not-json"),
        (b"[" * 100_000, 422, "invalid-batch"),
        (b'{"samples":' + b"[" * 100_000, 400, "not-json"),
        (b'{"device":{"id":"\xff","kind":"watch"},"app":"a","samples":[]}', 400, "not-json"),
        (b"[]", 422, "invalid-batch"),
        (b"null", 422, "invalid-batch"),
        (batch(), 422, "invalid-batch"),
        (batch(sample(), device=None), 422, "invalid-batch"),
        (batch(sample(), device={"id": "", "kind": "watch"}), 422, "invalid-batch"),
        (batch(sample(), device={"id": "w", "kind": "toaster"}), 422, "invalid-batch"),
        (batch(sample()) | {"samples": {}}, 422, "invalid-batch"),
        (batch(sample(), zone="Europe/Nowhere"), 422, "unknown-zone"),
        (batch(sample(), zone="../../etc/passwd"), 422, "unknown-zone"),
        (batch(sample(), zone="Europe"), 422, "unknown-zone"),
        (batch(*[sample()] * (MAX_RECORDS + 1)), 413, "too-many-records"),
        (batch(*[1] * (MAX_RECORDS + 1)), 413, "too-many-records"),
        (batch(*[1] * MAX_RECORDS, deletions=[{"id": "a"}]), 413, "too-many-records"),
        (batch(sessions=[], deletions=[]), 422, "invalid-batch"),
        (batch(sample(), sessions={}), 422, "invalid-batch"),
        (batch(sample(), app="x" * 10**6), 422, "invalid-batch"),
        (batch(*(sample(metric=f"m{n}") for n in range(MAX_SERIES + 1))), 422, "too-many-metrics"),
    ],
)
def test_a_broken_envelope_is_a_problem(body: Any, status: int, code: str) -> None:
    problem = refusal(body)
    assert (problem.status, problem.code) == (status, code)
    assert problem.detail


def test_a_wrong_kind_is_told_the_right_ones_and_never_quoted() -> None:
    detail = refusal(batch(sample(), device={"id": "w", "kind": "SECRET - at `x`"})).detail
    assert "SECRET" not in detail
    assert "watch, phone" in detail
    assert "`$.device.kind`" in detail


def session(**changed: Any) -> dict[str, Any]:
    return {
        "type": "sleep",
        "start": "2026-03-01T23:00:00+01:00",
        "end": "2026-03-02T07:00:00+01:00",
        "id": "night",
    } | changed


STAGE = {"stage": "deep", "start": "2026-03-01T23:10:00+01:00", "end": "2026-03-01T23:40:00+01:00"}
STREAM = {"name": "heart_rate", "start": "2026-03-01T23:00:00Z", "offsets_s": [0, 0.5], "values": [60, 61]}
TEN = int(datetime(2026, 3, 1, 22, tzinfo=UTC).timestamp() * 1_000_000)
MINUTE = 60_000_000


def test_the_example_for_client_apps_is_a_good_batch() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "apps.md").read_text()
    made = decoded(guide.split("```json\n")[1].split("```")[0].encode())
    assert (made.received, made.refused) == (7, ())
    assert sorted(places(made)) == list(range(7))


def test_samples_are_grouped_by_metric_and_unit() -> None:
    made = decoded(
        batch(
            sample(metric="body_mass", unit="kg"),
            sample(metric="body_mass", unit="lb"),
            sample(metric="body_mass"),
            sample(metric="body_mass", unit="kg"),
            sample(metric="body_mass", unit=""),
            sample(metric="body_mass", unit=None),
        )
    )
    assert [(series.metric, series.unit, column(series, "index", "<u4")) for series in made.series] == [
        ("body_mass", "kg", [0, 3]),
        ("body_mass", "lb", [1]),
        ("body_mass", "", [2, 4, 5]),
    ]


def test_one_unit_for_all_is_kept() -> None:
    (series,) = decoded(batch(sample(unit="mmol/L"), sample(unit="mmol/L"))).series
    assert (series.unit, column(series, "index", "<u4")) == ("mmol/L", [0, 1])


def test_an_end_before_its_start_is_for_ingest_to_judge() -> None:
    made = decoded(batch(sample(end="2026-03-01T07:59:59+01:00")))
    assert made.refused == ()
    assert column(made.series[0], "end_us", "<i8") < column(made.series[0], "start_us", "<i8")


def test_sessions_travel_with_stages_and_streams() -> None:
    totals = {"energy_active_kcal": 310.5, "distance_m": 8000}
    run = session(type="workout", sport="running", totals=totals, streams=[STREAM], id=None, version=3)
    made = decoded(batch(sample(), sessions=[session(stages=[STAGE]), run]))
    night, workout = made.sessions
    assert (made.received, made.refused, night.index, workout.index) == (3, (), 1, 2)
    assert (night.type, night.start_us, night.end_us, night.offset_minutes) == ("sleep", TEN, TEN + 480 * MINUTE, 60)
    assert night.stages is not None
    assert night.stages.stage == ("deep",)
    assert column(night.stages, "start_us", "<i8") == [TEN + 10 * MINUTE]
    assert column(night.stages, "end_us", "<i8") == [TEN + 40 * MINUTE]
    assert (workout.sport, workout.totals, workout.version, workout.identity) == ("running", totals, 3, bytes(16))
    (stream,) = workout.streams
    assert column(stream, "at_us", "<i8") == [TEN + 60 * MINUTE, TEN + 60 * MINUTE + 500_000]
    assert (stream.name, column(stream, "value", "<f8")) == ("heart_rate", [60.0, 61.0])


@pytest.mark.parametrize(
    "bad",
    [
        {},
        1,
        session(start="tonight"),
        session(end=None),
        session(type=""),
        session(stages=[STAGE | {"end": "x"}]),
        session(stages=[STAGE, {"stage": "deep"}]),
        session(stages="none"),
        session(streams=[STREAM | {"start": "x"}]),
        session(streams=[STREAM | {"values": [1]}]),
        session(streams=[STREAM | {"offsets_s": [0, 1e300]}]),
        session(streams=[STREAM] * 33),
        session(totals={"distance_m": "far"}),
        session(totals={f"total_{number}": 1 for number in range(65)}),
    ],
)
def test_a_bad_session_travels_by_index(bad: Any) -> None:
    made = decoded(batch(sample(), sessions=[session(), bad, session()], deletions=[{"id": "a"}]))
    assert [one.index for one in made.refused] == [2]
    assert ([one.index for one in made.sessions], made.deletions[0].index) == ([1, 3], 4)
    assert sorted(places(made)) == list(range(5))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"metric": "steps"}, "missing-field"),
        (sample(ende="2026-03-01T23:01:00+01:00"), "unknown-field"),
        (sample(start="yesterday"), "bad-time"),
        (sample(start="2026-03-01T23:00:00"), "bad-time"),
        (sample(version=-1), "bad-version"),
        (sample(version=2**63), "bad-version"),
        (sample(value="61"), "invalid-record"),
        ([], "invalid-record"),
    ],
)
def test_the_code_says_what_is_wrong_with_a_record(bad: Any, code: str) -> None:
    made = decoded(batch(sample(), bad))
    assert [(one.index, one.code) for one in made.refused] == [(1, code)]


@pytest.mark.parametrize("misspelt", [{"session": []}, {"device": DEVICE | {"name": "Watch"}}, {"x" * 100_000: 1}])
def test_a_misspelt_field_of_the_envelope_is_told_and_nothing_is_dropped_silently(misspelt: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        decoded(batch(sample()) | misspelt)
    assert refused.value.status == 422
    assert "unknown field" in refused.value.detail
    assert len(refused.value.detail) < 300


def test_deletions_name_a_record_by_id_or_by_place() -> None:
    by_place = {"metric": "steps", "start": "2026-03-01T23:00:00+01:00", "end": "2026-03-01T23:01:00+01:00"}
    made = decoded(batch(sample(id="a"), deletions=[{"id": "a", "version": 2}, by_place, by_place | {"end": None}]))
    by_id, placed, instant = made.deletions
    assert (by_id.index, by_id.metric, by_id.start_us, by_id.end_us, by_id.version) == (1, "", None, None, 2)
    assert by_id.identity == made.series[0].identity
    assert (placed.identity, placed.metric, placed.start_us, placed.end_us) == (
        bytes(16),
        "steps",
        TEN,
        TEN + MINUTE,
    )
    assert (instant.start_us, instant.end_us) == (TEN, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": ""},
        {"version": -1},
        {"id": "a", "start": "x"},
        {"metric": "steps", "start": "2026-03-01T23:00:00Z", "end": "x"},
        [],
    ],
)
def test_a_bad_deletion_travels_by_index(bad: Any) -> None:
    made = decoded({"device": DEVICE, "app": "a", "deletions": [{"id": "a"}, bad]})
    assert [one.index for one in made.refused] == [1]
    assert made.received == 2


@pytest.mark.parametrize(
    "value", ["1e999", "-1e999", "1" + "0" * 400, '"NaN"', "null", "[[[]]]", '"' + "x" * 10**6 + '"']
)
def test_a_number_no_float_can_hold_is_one_bad_record(value: str) -> None:
    body = json.dumps(batch(sample(), sample(value="HERE"))).replace('"HERE"', value)
    assert [one.index for one in decoded(body.encode()).refused] == [1]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_know_is_told_so(value: str) -> None:
    problem = refusal(json.dumps(batch(sample(value="HERE"))).replace('"HERE"', value).encode())
    assert (problem.status, problem.code) == (400, "not-json")
    assert "NaN" in problem.detail


def test_stages_and_sports_may_be_numbers_of_their_platform() -> None:
    night, run = decoded(
        batch(sessions=[session(stages=[STAGE | {"stage": 3}]), session(type="workout", sport=37)])
    ).sessions
    assert night.stages is not None
    assert (night.stages.stage, night.sport, run.sport) == (("3",), "", "37")


def test_a_deletion_that_names_nothing_is_for_ingest_to_judge() -> None:
    made = decoded(batch(sample(), deletions=[{}, {"metric": "steps"}]))
    assert [(one.index, one.metric, one.start_us) for one in made.deletions] == [(1, "", None), (2, "steps", None)]


def test_points_are_bounded_over_all_sessions() -> None:
    half = STREAM | {"offsets_s": [0] * (MAX_POINTS // 2), "values": [1] * (MAX_POINTS // 2)}
    assert len(decoded(batch(sessions=[session(streams=[half]), session(streams=[half])])).sessions) == 2
    problem = refusal(batch(sessions=[session(streams=[half]), session(streams=[half], stages=[STAGE])]))
    assert (problem.status, problem.code) == (413, "too-many-points")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "metric": st.sampled_from(["steps", "heart_rate"]) | JSON,
        "start": st.sampled_from(["2026-03-01T08:00:00Z", "2026-13-01T08:00:00Z"]) | JSON,
        "end": st.just("2026-03-01T09:00:00Z") | JSON,
        "value": JSON,
        "id": JSON,
        "version": JSON,
    },
)


SESSION = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["sleep", "workout"]) | JSON,
        "start": st.just("2026-03-01T23:00:00Z") | JSON,
        "end": st.just("2026-03-02T07:00:00Z") | JSON,
        "stages": st.lists(st.just(STAGE) | JSON, max_size=3) | JSON,
        "streams": st.lists(st.just(STREAM) | JSON, max_size=3) | JSON,
        "totals": JSON,
    },
)
DELETION = st.fixed_dictionaries({}, optional={"id": JSON, "metric": JSON, "start": JSON})
BATCH = st.builds(
    lambda samples, sessions, deletions, zone: batch(*samples, sessions=sessions, deletions=deletions, zone=zone),
    st.lists(RECORD | JSON, max_size=60),
    st.lists(SESSION | JSON, max_size=4),
    st.lists(DELETION | JSON, max_size=4),
    st.none() | JSON,
)


@given(JSON | BATCH)
def test_any_json_is_a_batch_or_a_problem(value: Any) -> None:
    try:
        made = decoded(json.dumps(value).encode())
    except Problem as problem:
        assert problem.status in (400, 413, 422)  # noqa: PT017 (some of it is a batch)
        return
    assert sorted(places(made)) == list(range(made.received))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_problem(data: bytes) -> None:
    with pytest.raises(Problem):
        decoded(data)


TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001 (the offset is added below)
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)


def written(moment: datetime, offset: int, digits: int, utc: bool, west: bool) -> str:
    fraction = f".{moment.microsecond:06d}000"[: digits + 1] if digits else ""
    hours, minutes = divmod(abs(offset), 60)
    zone = "Z" if utc else f"{'-' if offset < 0 or (offset == 0 and west) else '+'}{hours:02d}:{minutes:02d}"
    year = f"{moment.year:04d}"
    return f"{year}{moment.strftime('-%m-%dT%H:%M:%S')}{fraction}{zone}"


ROWS = st.tuples(TIMES, OFFSETS | st.just(0), st.integers(0, 9), st.booleans(), st.booleans())


@given(st.lists(ROWS, min_size=48, max_size=60))
def test_columns_of_times_say_what_datetime_says(rows: list[tuple[datetime, int, int, bool, bool]]) -> None:
    micros, offsets, valid = parse_times([written(*row) for row in rows])
    assert valid.all()
    for (moment, offset, digits, utc, west), found, found_offset in zip(rows, micros, offsets, strict=True):
        unknown = utc or (offset == 0 and west)
        minutes = 0 if unknown else offset
        kept = moment.microsecond // 10 ** (6 - min(digits, 6)) * 10 ** (6 - min(digits, 6))
        exact = moment.replace(microsecond=kept, tzinfo=timezone(timedelta(minutes=minutes)))
        assert found_offset == (UNKNOWN_OFFSET if unknown else minutes)
        assert int(found) == (exact - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NEARLY = st.text("0123456789-:TtZz+. \0é", max_size=36) | st.from_regex(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{0,10})?(Z|z|[+-]\d\d:?\d\d)?", fullmatch=True
)


@given(st.lists(NEARLY, min_size=1, max_size=60))
@example(["0000-01-01T00:00:00Z"])
@example(["2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00+00:00"])
@example(["2026-03-01T24:00:00Z"])
@example(["2026-03-01T23:59:60Z"])
def test_one_by_one_and_in_columns_agree(texts: list[str]) -> None:
    padded = texts + ["2026-03-01T08:00:00Z"] * 48
    micros, offsets, valid = parse_times(padded)
    for text, found, offset, good in zip(padded, micros, offsets, valid, strict=True):
        single = parse_time(text)
        assert bool(good) == (single is not None)
        assert single is None or single == (int(found), int(offset))


ROW = st.builds(
    Sample,
    metric=st.sampled_from(["heart_rate", "steps", "mass"]),
    start=NEARLY | st.just("2026-03-01T08:00:00.5+01:00"),
    value=st.floats(allow_nan=False),
    end=st.none() | NEARLY | st.just("2026-03-01T08:01:00Z"),
    id=st.none() | st.text(min_size=1, max_size=8),
    version=st.integers(0, 2**63 - 1),
    unit=st.sampled_from([None, "", "kg"]),
)


@given(st.lists(ROW, min_size=1, max_size=60), st.integers(0, 9_000))
def test_row_by_row_and_in_columns_are_the_same_bytes(rows: list[Sample], first: int) -> None:
    places = range(first, first + len(rows))
    assert few_series(rows, places) == many_series(rows, places, series_keys(rows))
