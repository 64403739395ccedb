"""The span store: what it takes, what it refuses, and how a trace is put together again."""

import gzip
import http.client
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from infra.local.traces import Receiver, draw, prune, spans, tree, wait_for
from shared import telemetry
from shared.settings import ServiceSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROOT, CHILD, LOST = "b7ad6b7169203331", "00f067aa0ba902b7", "53995c3f42cd8ad8"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "traces.sqlite", port=0)
    receiver.start()
    yield receiver
    receiver.stop()


def post(receiver: Receiver, body: bytes, path: str = "/v1/traces", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=5)
    with closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        response.read()
        return response.status


def triton(*made: tuple[str, str, str, int], links: tuple[str, ...] = (), trace_id: str = TRACE) -> bytes:
    """A JSON request as Triton sends it; each span as (span id, parent id, name, ms after the first)."""
    now_ns = time.time_ns()
    listed = [
        {
            "traceId": trace_id,
            "spanId": span_id,
            "parentSpanId": parent_id,
            "name": name,
            "kind": 1,
            "startTimeUnixNano": str(now_ns + at_ms * 1_000_000),
            "endTimeUnixNano": str(now_ns + at_ms * 1_000_000 + 5_000_000),
            "attributes": [{"key": "triton.model_name", "value": {"stringValue": "label_ocr"}}],
            "links": [{"traceId": link, "spanId": ROOT} for link in links],
            "status": {},
        }
        for span_id, parent_id, name, at_ms in made
    ]
    attributes = [{"key": "service.name", "value": {"stringValue": "triton"}}]
    return json.dumps(
        {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": listed}]}]}
    ).encode()


def drawn(receiver: Receiver, trace_id: str = TRACE) -> str:
    console = Console(width=160, no_color=True)
    with console.capture() as text:
        console.print(draw(receiver.store_path, trace_id))
    return text.get()


def test_spans_of_our_services_and_of_triton_make_one_tree(receiver: Receiver) -> None:
    settings = ServiceSettings(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{receiver.port}")
    telemetry.configure("inference", settings)
    try:
        with telemetry.span("work", parent=f"00-{TRACE}-{ROOT}-01", attributes={"email": "a@example.com"}) as work:
            assert work.place is not None
            body = triton((CHILD, work.place.span_id, "InferRequest", 1))
        assert post(receiver, gzip.compress(body), Content_Encoding="gzip") == 200
    finally:
        telemetry.shutdown()

    found = wait_for(receiver.store_path, TRACE, {"inference", "triton"}, 5)

    assert {(span.service, span.name) for span in found} == {("inference", "work"), ("triton", "InferRequest")}
    root = tree(receiver.store_path, TRACE)
    assert root is not None
    assert [child.span.span_id for child in root.children] == [CHILD]
    assert root.span.attributes["email"] == "[refused]"
    assert "  InferRequest" in drawn(receiver)


def test_the_same_spans_twice_are_stored_once(receiver: Receiver) -> None:
    body = triton((ROOT, "", "first", 0))
    assert [post(receiver, body), post(receiver, body)] == [200, 200]
    assert len(wait_for(receiver.store_path, TRACE, {"triton"}, 5)) == 1


def test_a_span_without_its_cause_hangs_under_the_root_and_says_so(receiver: Receiver) -> None:
    post(receiver, triton((ROOT, "", "first", 0), (CHILD, LOST, "stray", 2)))
    wait_for(receiver.store_path, TRACE, {"triton"}, 5)
    root = tree(receiver.store_path, TRACE)
    assert root is not None
    assert [(node.span.name, node.orphan) for node in root.children] == [("stray", True)]
    assert "its cause has no span here" in drawn(receiver)


def test_a_circle_of_causes_is_drawn_once(receiver: Receiver) -> None:
    post(receiver, triton((ROOT, ROOT, "itself", 0), (CHILD, LOST, "one", 1), (LOST, CHILD, "two", 2)))
    wait_for(receiver.store_path, TRACE, {"triton"}, 5)
    text = drawn(receiver)
    assert [text.count(name) for name in ("itself", "one", "two")] == [1, 1, 1]


def test_links_are_notes(receiver: Receiver) -> None:
    other = "4bf92f3577b34da6a3ce929d0e0e4736"
    post(receiver, triton((ROOT, "", "joint write", 0), links=(other, TRACE)))
    wait_for(receiver.store_path, TRACE, {"triton"}, 5)
    assert f"also for trace {other}" in drawn(receiver)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"resourceSpans": 5}', {}, 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz", "spanId": "1"}]}]}]}', {}, 400),
        (b"\xff\xff\xff", {"Content_Type": "application/x-protobuf"}, 400),
        (b"not gzip", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b" " * 70_000_000), {"Content_Encoding": "gzip"}, 400),
        (b"{}", {"Content_Length": "99999999"}, 413),
        (b"{}", {"Content_Length": "-1"}, 411),
    ],
)
def test_junk_is_refused_and_the_next_request_is_taken(
    receiver: Receiver, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert post(receiver, body, **headers) == status
    assert post(receiver, triton((ROOT, "", "first", 0))) == 200


def test_other_paths_are_not_found(receiver: Receiver) -> None:
    assert post(receiver, b"{}", path="/v1/logs") == 404


def test_what_arrived_before_the_stop_is_stored(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "traces.sqlite", port=0)
    receiver.start()
    post(receiver, triton((ROOT, "", "first", 0)))
    receiver.stop()
    assert len(spans(receiver.store_path, TRACE)) == 1


def test_a_taken_port_is_an_os_error(receiver: Receiver, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        Receiver(tmp_path / "other.sqlite", port=receiver.port).start()


def test_an_unreadable_store_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite"
    path.write_bytes(b"this is no database, and long enough to have a header" * 20)
    receiver = Receiver(path, port=0)
    receiver.start()
    receiver.stop()
    assert path.with_name("traces.sqlite.broken").exists()
    assert spans(path, TRACE) == []


def test_the_store_is_bounded_in_age_and_size(receiver: Receiver) -> None:
    for number in range(1, 21):
        made = [(f"{number:08x}{item:08x}", "", "x" * 1000, item) for item in range(1, 101)]
        post(receiver, triton(*made, trace_id=f"{number:032x}"))
    wait_for(receiver.store_path, f"{20:032x}", {"triton"}, 10)
    with closing(sqlite3.connect(receiver.store_path)) as store:
        prune(store, 3600, 1_000_000)
        left = store.execute("SELECT COUNT(*) FROM spans").fetchone()[0]
        assert 100 < left < 1000
        prune(store, -10, 1_000_000)
        assert store.execute("SELECT COUNT(*) FROM spans").fetchone()[0] == 0


def test_an_unknown_trace_is_one_sentence(receiver: Receiver) -> None:
    assert "No spans of trace" in drawn(receiver)
    with pytest.raises(TimeoutError, match="no spans of triton"):
        wait_for(receiver.store_path, TRACE, {"triton"}, 0.1)
