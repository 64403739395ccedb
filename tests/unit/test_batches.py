"""The batch decoder: columns out of JSON, bad records by index, and nothing but problems for the rest."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.gateway.batches import MAX_METRICS, MAX_SAMPLES, read_batch
from services.gateway.times import parse_time, parse_times
from shared.errors import Problem
from shared.events import BatchSubmitted, SeriesColumns

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
    assert column(rate, "offset_minutes", "<i2") == [60, 0]
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
        sample(end="2026-03-01T07:59:59+01:00"),
        sample(metric=""),
        sample(metric="x" * 65),
        sample(version=-1),
        sample(version=2**63),
        sample(version=1.5),
        sample(id=""),
    ],
)
@pytest.mark.parametrize("others", [2, 100])
def test_a_bad_record_travels_by_index_and_the_rest_is_kept(bad: Any, others: int) -> None:
    made = decoded(batch(sample(), bad, *(sample() for _ in range(others - 1))))
    assert [(one.index, one.code) for one in made.refused] == [(1, "invalid-record")]
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
        (batch(*[sample()] * (MAX_SAMPLES + 1)), 413, "too-many-samples"),
        (batch(*[1] * (MAX_SAMPLES + 1)), 413, "too-many-samples"),
        (batch(*(sample(metric=f"m{n}") for n in range(MAX_METRICS + 1))), 422, "too-many-metrics"),
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


@given(JSON | st.builds(lambda samples, zone: batch(*samples, zone=zone), st.lists(RECORD | JSON, max_size=60), JSON))
def test_any_json_is_a_batch_or_a_problem(value: Any) -> None:
    try:
        made = decoded(json.dumps(value).encode())
    except Problem as problem:
        assert problem.status in (400, 413, 422)  # noqa: PT017
        return
    kept = sum(len(series.index) // 4 for series in made.series)
    assert kept + len(made.refused) == made.received


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_problem(data: bytes) -> None:
    with pytest.raises(Problem):
        decoded(data)


TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001 (the offset is added below)
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)


def written(moment: datetime, offset: int, digits: int, utc: bool) -> str:
    fraction = f".{moment.microsecond:06d}000"[: digits + 1] if digits else ""
    hours, minutes = divmod(abs(offset), 60)
    zone = "Z" if utc else f"{'-' if offset < 0 else '+'}{hours:02d}:{minutes:02d}"
    year = f"{moment.year:04d}"
    return f"{year}{moment.strftime('-%m-%dT%H:%M:%S')}{fraction}{zone}"


@given(st.lists(st.tuples(TIMES, OFFSETS, st.integers(0, 9), st.booleans()), min_size=48, max_size=60))
def test_columns_of_times_say_what_datetime_says(rows: list[tuple[datetime, int, int, bool]]) -> None:
    micros, offsets, valid = parse_times([written(*row) for row in rows])
    assert valid.all()
    for (moment, offset, digits, utc), found, found_offset in zip(rows, micros, offsets, strict=True):
        minutes = 0 if utc else offset
        kept = moment.microsecond // 10 ** (6 - min(digits, 6)) * 10 ** (6 - min(digits, 6))
        exact = moment.replace(microsecond=kept, tzinfo=timezone(timedelta(minutes=minutes)))
        assert found_offset == minutes
        assert int(found) == (exact - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NEARLY = st.text("0123456789-:TtZz+. \0é", max_size=36) | st.from_regex(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{0,10})?(Z|z|[+-]\d\d:?\d\d)?", fullmatch=True
)


@given(st.lists(NEARLY, min_size=1, max_size=60))
@example(["0000-01-01T00:00:00Z"])
@example(["2026-03-01T24:00:00Z"])
@example(["2026-03-01T23:59:60Z"])
def test_one_by_one_and_in_columns_agree(texts: list[str]) -> None:
    padded = texts + ["2026-03-01T08:00:00Z"] * 48
    micros, offsets, valid = parse_times(padded)
    for text, found, offset, good in zip(padded, micros, offsets, valid, strict=True):
        single = parse_time(text)
        assert bool(good) == (single is not None)
        assert single is None or single == (int(found), int(offset))
