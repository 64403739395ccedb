"""Traces, logs and metrics: what is kept, what travels, and what must never be written down."""

import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic import BaseModel, ValidationError

from shared import logs, spans, telemetry
from shared.metrics import METRICS
from shared.settings import ServiceSettings
from shared.spans import Sampler, parsed
from shared.telemetry import TraceMiddleware, bind, current_kept, current_trace_id, current_traceparent, span

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEPT, NOT_KEPT = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Collected(SpanExporter):
    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._spans.extend(spans)
        return SpanExportResult.SUCCESS

    def spans(self) -> list[ReadableSpan]:
        telemetry.flush()
        return self._spans

    def one(self) -> ReadableSpan:
        (only,) = self.spans()
        return only


@pytest.fixture
def collected() -> Collected:
    collected = Collected()
    telemetry.configure("ingest", ServiceSettings(), exporter=collected)
    return collected


@pytest.fixture
def edge() -> Collected:
    collected = Collected()
    settings = ServiceSettings(trace_budget_per_s=2, trace_force=True)
    telemetry.configure("gateway", settings, tail=0, exporter=collected)
    return collected


def hex_ids(made: ReadableSpan) -> tuple[str, str | None]:
    assert made.context is not None
    return f"{made.context.trace_id:032x}", f"{made.parent.span_id:016x}" if made.parent else None


# the sampler


def test_everything_within_the_budget_is_kept_and_then_a_share() -> None:
    now = [0.0]
    sampler = Sampler(50, 0.0, clock=lambda: now[0])
    assert sum(sampler.keep() for _ in range(200)) == 50
    now[0] += 0.5
    assert sum(sampler.keep() for _ in range(200)) == 25
    now[0] += 3600
    assert sum(sampler.keep() for _ in range(200)) == 50


def test_beyond_the_budget_one_in_a_hundred() -> None:
    sampler = Sampler(0, 0.01, clock=lambda: 0.0)
    kept = sum(sampler.keep() for _ in range(20_000))
    assert 100 < kept < 320  # 200 ± 8.5 standard deviations


# propagation


def test_a_child_of_a_kept_trace_is_kept(collected: Collected) -> None:
    with span("work", parent=KEPT, kind="consumer", attributes={"rows": 3}) as it:
        it.set("more", "text")
        assert current_trace_id() == TRACE
        inside = current_traceparent()
    assert current_traceparent() is None
    made = collected.one()
    assert hex_ids(made) == (TRACE, SPAN)
    assert inside == f"00-{TRACE}-{made.context.span_id:016x}-01"
    assert made.attributes == {"rows": 3, "more": "text"}
    assert made.resource.attributes["service.name"] == "ingest"


def test_a_child_of_a_trace_not_kept_travels_on_and_is_not_stored(collected: Collected) -> None:
    with span("work", parent=NOT_KEPT), span("inside"):
        assert current_traceparent() == NOT_KEPT
        assert not current_kept()
    assert collected.spans() == []


def test_spans_nest_and_link(collected: Collected) -> None:
    other = f"00-{'4' * 32}-{'5' * 16}-01"
    with span("outer", parent=KEPT), span("inner", links=[other, None, "junk"]):
        pass
    inner, outer = collected.spans()
    assert outer.context is not None
    assert hex_ids(inner) == (TRACE, f"{outer.context.span_id:016x}")
    assert [f"{link.context.trace_id:032x}" for link in inner.links] == ["4" * 32]


def test_without_a_parent_a_service_begins_a_trace_that_is_not_kept(collected: Collected) -> None:
    with span("scan") as it:
        trace_id = current_trace_id()
        assert trace_id is not None
        assert not it.kept
    assert collected.spans() == []


def test_an_exception_marks_the_span_without_its_message(collected: Collected) -> None:
    with pytest.raises(KeyError), span("work", parent=KEPT):
        raise KeyError("me@example.com")
    made = collected.one()
    assert not made.status.is_ok
    assert dict(made.attributes or {}) == {"error.type": "KeyError"}
    assert "example" not in made.to_json()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "junk",
        KEPT[:-1],
        KEPT.upper(),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        KEPT + "-more",
        KEPT + "\n",
    ],
)
def test_a_malformed_traceparent_is_none(text: str | None) -> None:
    assert parsed(text) is None


def test_a_later_version_may_say_more() -> None:
    assert parsed(f"01-{TRACE}-{SPAN}-03-more") == parsed(KEPT)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    place = parsed(text)
    assert place is None or len(place.trace_id) == 32


# the middleware

App = Callable[..., Awaitable[None]]


class Route:
    path = "/v1/days/{date}"


async def asked(app: App, headers: dict[str, str] | None = None, path: str = "/v1/days/2026-03-01") -> dict[str, str]:
    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": given}
    await TraceMiddleware(app)(scope, None, send)
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def answering(status: int = 200, content_type: str = "application/json", seen: list[Any] | None = None) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = Route
        if seen is not None:
            seen.append(current_traceparent())
        headers = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


async def test_a_request_is_one_span_named_by_its_route(edge: Collected) -> None:
    seen: list[str] = []
    headers = await asked(answering(seen=seen))
    made = edge.one()
    assert made.name == "GET /v1/days/{date}"
    assert headers["trace-id"] == hex_ids(made)[0] == seen[0].split("-")[1]
    assert made.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/days/{date}",
        "http.response.status_code": 200,
    }


async def test_the_edge_begins_its_own_trace_and_links_to_the_callers(edge: Collected) -> None:
    headers = await asked(answering(), {"traceparent": NOT_KEPT})
    assert headers["trace-id"] != TRACE
    assert [f"{link.context.trace_id:032x}" for link in edge.one().links] == [TRACE]


async def test_beyond_the_budget_a_trace_has_an_id_and_nothing_else_unless_forced(edge: Collected) -> None:
    seen: list[str] = []
    for _ in range(5):
        await asked(answering(seen=seen))
    assert [parent[-2:] for parent in seen] == ["01", "01", "00", "00", "00"]
    assert len(set(seen)) == 5
    await asked(answering(), {"trace-force": "1"})
    assert len(edge.spans()) == 3


async def test_force_needs_the_operators_setting() -> None:
    collected = Collected()
    telemetry.configure("gateway", ServiceSettings(trace_budget_per_s=0), tail=0, exporter=collected)
    await asked(answering(), {"trace-force": "1"})
    assert collected.spans() == []


async def test_behind_the_edge_the_callers_decision_holds(collected: Collected) -> None:
    assert (await asked(answering(), {"traceparent": NOT_KEPT}))["trace-id"] == TRACE
    assert collected.spans() == []
    assert (await asked(answering(), {"traceparent": KEPT}))["trace-id"] == TRACE
    assert hex_ids(collected.one()) == (TRACE, SPAN)


async def test_a_failure_is_marked_and_raised_on(edge: Collected) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asked(app)
    assert (edge.one().attributes or {})["error.type"] == "ZeroDivisionError"
    assert edge.one().name == "GET unmatched"


async def test_an_event_streams_span_ends_when_the_stream_begins(edge: Collected) -> None:
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answering(content_type="text/event-stream")(scope, receive, send)
        ended.append(len(edge.spans()))

    await asked(app)
    assert ended == [1]


async def test_probes_are_not_traced(edge: Collected) -> None:
    assert "trace-id" not in await asked(answering(), path="/livez")
    assert edge.spans() == []


async def test_requests_are_counted_by_route(edge: Collected) -> None:
    labels = {"method": "GET", "route": "/v1/days/{date}", "status": "418"}
    before = METRICS.registry.get_sample_value("http_request_seconds_count", labels) or 0
    await asked(answering(418))
    assert METRICS.registry.get_sample_value("http_request_seconds_count", labels) == before + 1


# an exporter without anybody to send to


def test_a_dead_receiver_disturbs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("ingest", ServiceSettings(otel_exporter_otlp_endpoint="http://127.0.0.1:9"))
    before = METRICS.registry.get_sample_value("spans_lost_total") or 0
    for _ in range(20):
        with span("work", parent=KEPT):
            pass
    telemetry.shutdown()
    assert METRICS.registry.get_sample_value("spans_lost_total") == before + 20
    assert capsys.readouterr().out == ""


def test_a_malformed_endpoint_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry.configure("ingest", ServiceSettings(otel_exporter_otlp_endpoint="127.0.0.1:8130"))


# logs


@pytest.fixture
def written() -> Iterator[Callable[[], dict[str, Any]]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("ingest"))
    logger = logging.getLogger("test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: json.loads(stream.getvalue().splitlines()[-1])
    logger.removeHandler(handler)


def log(message: str, *arguments: object, **extra: object) -> None:
    logging.getLogger("test").info(message, *arguments, extra=extra)


def test_a_line_carries_trace_and_bound_ids(written: Callable[[], dict[str, Any]]) -> None:
    with span("work", parent=NOT_KEPT):
        bind(user_id="u-1", receipt_id="rcp_1")
        log("stored %s rows", 5, rows=5)
    line = written()
    line.pop("time")
    assert line == {
        "level": "info",
        "service": "ingest",
        "logger": "test",
        "message": "stored 5 rows",
        "trace_id": TRACE,
        "user_id": "u-1",
        "receipt_id": "rcp_1",
        "rows": 5,
    }


def test_bound_ids_end_with_their_span(written: Callable[[], dict[str, Any]]) -> None:
    with span("work"):
        bind(user_id="u-1")
    log("next")
    assert "user_id" not in written()


@pytest.mark.parametrize(
    "key", ["email", "user_email", "password", "access_token", "Authorization", "api_key", "birth_date", "weight"]
)
def test_personal_keys_are_refused_in_logs_and_spans(
    key: str, written: Callable[[], dict[str, Any]], collected: Collected
) -> None:
    with span("work", parent=KEPT, attributes={key: "private"}) as it:
        it.set(key, "private")
        bind(**{key: "private"})
        log("hello", **{key: "private"})
    assert written()[key] == "[refused]"
    assert "private" not in collected.one().to_json()


@pytest.mark.parametrize("key", ["user_id", "message_id", "topic", "partition", "offset", "ship", "zip_size"])
def test_ids_are_not(key: str, written: Callable[[], dict[str, Any]]) -> None:
    log("hello", **{key: "fine"})
    assert written()[key] == "fine"


@pytest.mark.parametrize(
    "text",
    [
        "no user me.too+x@example.co.uk here",
        "Authorization: Bearer abcdefghijkl",
        "key mmt_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        "token mmr_AbCdEfGhIjKlMnOpQrStUvWxYz-_0123456789",
        "code mmc_AbCdEfGhIjKlMnOpQrStUvWxYz-_0123456789",
        "secret mms_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        "secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "token eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiJ1In0.c2lnbmF0dXJl",
    ],
)
def test_secrets_in_the_text_are_refused(text: str, written: Callable[[], dict[str, Any]]) -> None:
    log("%s", text)
    assert "[refused]" in written()["message"]
    for word in text.split():
        assert len(word) <= 14 or word not in written()["message"]


def test_a_validation_error_is_logged_without_its_input(written: Callable[[], dict[str, Any]]) -> None:
    class Body(BaseModel):
        grams: int

    def fail() -> None:
        try:
            Body.model_validate({"grams": " ".join(["private", "words"])})
        except ValidationError as error:
            raise RuntimeError("could not read") from error

    try:
        fail()
    except RuntimeError:
        logging.getLogger("test").exception("failed")
    line = written()
    assert "private words" not in line["error"]
    assert "grams: int_parsing" in line["error"]
    assert "RuntimeError: could not read" in line["error"]


def test_a_value_json_does_not_know_is_text(written: Callable[[], dict[str, Any]]) -> None:
    log("hello", when={1, 2}, raw=b"x")
    assert written()["raw"] == "b'x'"


def test_chatty_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("ingest", "INFO")
    logging.getLogger("aiokafka.consumer").warning("rebalancing")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("opentelemetry.sdk").error("queue full")
    assert capsys.readouterr().out == ""
    logging.getLogger("services.ingest").info("mine")
    assert json.loads(capsys.readouterr().out)["message"] == "mine"


def test_configured_twice_is_configured_once(collected: Collected) -> None:
    tracer = spans.Tracing.tracer
    telemetry.configure("ingest", ServiceSettings())
    assert spans.Tracing.tracer is tracer
