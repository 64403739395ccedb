"""Dead letters as operators see them: whatever stands in their bytes, and which of them a filter means."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from infra.local import dlq
from infra.local.dead_letters import (
    SHOWN_BYTES,
    TEXT_CHARS,
    Filter,
    Letter,
    Place,
    letter_of,
    parsed_place,
    parsed_time,
    payload_shown,
    printable,
    source_and_service,
)
from shared.events.gateway import BatchSubmitted, SeriesColumns
from shared.unresolved import Marks

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
PLACE = Place("gateway.batches.v1.ingest.dlq", 0, 17)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = (
    ("origin-topic", b"gateway.batches.v1"),
    ("origin-partition", b"4"),
    ("origin-offset", b"812"),
    ("service", b"ingest"),
    ("error", b"Undecodable"),
    ("reason", b"undecodable"),
    ("text", b"at: missing"),
    ("attempts", b"3"),
    ("traceparent", TRACEPARENT.encode()),
)
BATCH = BatchSubmitted(
    event_id="e-1",
    occurred_at=NOW,
    user_id="u-1",
    receipt_id="rcp_1",
    device_id="watch-1",
    device_kind="watch",
    app="demo/1",
    zone="UTC",
    received=2,
    series=(
        SeriesColumns(
            metric="heart_rate",
            start_us=bytes(16),
            end_us=bytes(16),
            value=bytes.fromhex("0000000000405f40") * 2,
            offset_minutes=bytes(4),
            index=bytes(8),
            identity=bytes(32),
            version=bytes(16),
        ),
    ),
)


def letter(
    value: bytes = b"{}", headers: tuple[tuple[str, bytes | None], ...] = HEADERS, place: Place = PLACE
) -> Letter:
    return letter_of(place, int(NOW.timestamp() * 1000), b"u-1", value, headers)


def test_a_dead_letter_says_where_it_came_from_and_why() -> None:
    found = letter(msgspec.msgpack.encode(BATCH))
    assert (found.source, found.service, found.died_at) == ("gateway.batches.v1", "ingest", NOW)
    assert found.origin == Place("gateway.batches.v1", 4, 812)
    assert (found.reason, found.error, found.text, found.attempts) == ("undecodable", "Undecodable", "at: missing", 3)
    assert (found.type, found.event_id, found.user_id, found.receipt_id) == ("batch.submitted", "e-1", "u-1", "rcp_1")
    assert found.traceparent == TRACEPARENT


def test_hostile_headers_become_short_printable_text_and_never_choose_the_topic() -> None:
    found = letter(
        b"\xff",
        (
            ("origin-topic", b"auth.users.v1\x1b[2J"),
            ("origin-partition", b"-1"),
            ("origin-offset", "٣".encode()),
            ("reason", b"\x1b]0;owned\x07[red]\xff\xfe\r\n"),
            ("reason", b"second"),
            ("error", None),
            ("text", b"x" * 5_000_000),
            ("attempts", b"9" * 4000),
            ("traceparent", b"00-zz"),
            ("service", b"gateway"),
        ),
    )
    assert (found.source, found.service) == ("gateway.batches.v1", "ingest")
    assert found.origin is None
    assert found.attempts is None
    assert found.traceparent is None
    assert found.error == ""
    assert found.reason == "�]0;owned�[red]����"
    assert len(found.text) == TEXT_CHARS + 1
    assert (found.type, found.event_id) == ("?", "")


@given(st.binary(max_size=300), st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=300))))
def test_no_bytes_break_it(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    found = letter_of(PLACE, -1, None, value, headers)
    shown = payload_shown(value)
    texts = (found.reason, found.error, found.text, found.type, found.event_id, found.user_id, *shown.split("\n"))
    assert all(char.isprintable() for text in texts for char in text)
    assert found.value == value


def test_a_batch_is_summarised_without_its_values() -> None:
    shown = json.loads(payload_shown(msgspec.msgpack.encode(BATCH)))
    assert shown["series"] == [{"metric": "heart_rate", "unit": "", "samples": 2}]
    assert (shown["user_id"], shown["device"], shown["received"]) == ("u-1", "watch-1 (watch)", 2)
    assert "125" not in json.dumps(shown["series"])


def test_json_is_indented_and_long_payloads_are_cut() -> None:
    assert payload_shown(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    shown = payload_shown(json.dumps({"a": "x" * 2 * SHOWN_BYTES}).encode())
    assert len(shown) < SHOWN_BYTES + 100
    assert "--raw" in shown
    assert payload_shown(b"[" * 100_000).startswith("100000 bytes that do not decode")


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Filter(), True),
        (Filter(topic="gateway.batches.v1"), True),
        (Filter(topic="gateway.batches.v1.ingest.dlq"), True),
        (Filter(topic="gateway.photos.v1"), False),
        (Filter(service="ingest", type="batch.submitted", reason="undecodable"), True),
        (Filter(service="insights"), False),
        (Filter(type="day.updated"), False),
        (Filter(reason="failed"), False),
        (Filter(id="e-1"), True),
        (Filter(id="rcp_1"), True),
        (Filter(id=str(PLACE)), True),
        (Filter(id="gateway.batches.v1/4/812"), True),
        (Filter(id="gateway.batches.v1/4/813"), False),
        (Filter(id="u-1"), False),
        (Filter(since=NOW, until=NOW + timedelta(seconds=1)), True),
        (Filter(since=NOW + timedelta(seconds=1)), False),
        (Filter(until=NOW), False),
    ],
)
def test_a_filter_means_what_all_its_parts_mean(wanted: Filter, takes: bool) -> None:
    assert wanted.takes(letter(msgspec.msgpack.encode(BATCH))) is takes


def test_an_empty_id_never_means_letters_that_have_none() -> None:
    assert not Filter(id="").takes(letter(b"\xff"))
    assert not Filter(id="?").takes(letter(b"\xff"))


def test_a_letter_without_a_readable_origin_is_found_by_its_place() -> None:
    bare = letter(b"\xff", ())
    assert Filter(id=str(PLACE)).takes(bare)
    assert not Filter(id=str(replace(PLACE, offset=18))).takes(bare)


def test_topics_that_were_never_read_are_skipped() -> None:
    assert Filter(id="ingest.days.v1/3/1").may_hold("ingest.days.v1.insights.dlq")
    assert not Filter(id="ingest.days.v1/3/1").may_hold("ingest.receipts.v1.webhooks.dlq")
    assert source_and_service("ingest.days.v1.insights.dlq") == ("ingest.days.v1", "insights")


def test_places_are_read_as_they_are_written() -> None:
    assert parsed_place(str(PLACE)) == PLACE
    for text in ("", "a/b/c", "topic/1", "topic/-1/2", "topic/1/٣", "to pic/1/2", f"t/1/{9**30}"):
        assert parsed_place(text) is None


def test_times_are_dates_instants_or_how_long_ago() -> None:
    assert parsed_time("2026-03-01", NOW) == datetime(2026, 3, 1, tzinfo=UTC)
    assert parsed_time("2026-03-01T08:00:00+02:00", NOW) == datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert parsed_time("90m", NOW) == NOW - timedelta(minutes=90)
    assert parsed_time("3d", NOW) == NOW - timedelta(days=3)
    for text in ("", "yesterday", "2026-13-01", "3w", "-1h"):
        with pytest.raises(ValueError, match=r"."):
            parsed_time(text, NOW)


def test_text_is_cut_where_it_is_long() -> None:
    assert printable("x" * 9, most=9) == "x" * 9
    assert printable("x" * 10, most=9) == "x" * 9 + "…"
    assert printable("a\u202eb") == "a�b"


@given(
    st.lists(st.integers(0, 400), max_size=60),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 120)), min_size=1, max_size=5),
)
def test_marks_count_what_a_set_counts(offsets: list[int], spans: list[tuple[int, int]]) -> None:
    marks, known = Marks(), set[int]()
    begin = end = 0
    for further, more in sorted(spans):
        begin, end = max(begin, further), max(end, further + more)
        marks.keep(begin, end)
        known = {offset for offset in known if offset >= begin}
        for offset in offsets:
            marks.add(offset)
            if begin <= offset < end:
                known.add(offset)
        assert marks.count(begin, end) == len(known)
        assert all((offset in marks) == (offset in known) for offset in range(begin, end))


def test_marks_of_a_topic_made_anew_are_forgotten_and_far_offsets_cost_nothing() -> None:
    marks = Marks()
    marks.keep(100, 200)
    marks.add(150)
    marks.add(2**60)
    marks.keep(0, 50)
    assert marks.count(0, 50) == 0
    marks.add(3)
    assert marks.count(0, 50) == 1


def test_a_filter_that_the_audit_log_cannot_apply_is_refused_rather_than_ignored() -> None:
    done = CliRunner().invoke(dlq.app, ["list", "--resolved", "--type", "batch.submitted"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "keeps no types" in done.output
