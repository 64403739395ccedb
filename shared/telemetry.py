"""Traces, metrics and logs of one process: set up once, then used through the functions below.

A service imports from here alone: `span`, `bind`, `current_traceparent`, `current_trace_id`, `METRICS`.
"""

import http.client
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi.telemetry import TelemetryConfig
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs, spans
from shared.metrics import METRICS
from shared.settings import ServiceSettings, reading
from shared.spans import (
    Place,
    Sampler,
    bind,
    current_kept,
    current_trace_id,
    current_traceparent,
    span,
    trace_id_of,
)

__all__ = [
    "FASTAPI_TELEMETRY",
    "METRICS",
    "TraceMiddleware",
    "bind",
    "configure",
    "current_kept",
    "current_trace_id",
    "current_traceparent",
    "flush",
    "http_server_span",
    "shutdown",
    "span",
    "trace_id_of",
]

EXPORT_DELAY_MS = 200
EXPORT_TIMEOUT_S = 2
MAX_WAITING_SPANS = 8192
MAX_SENT_SPANS = 512
TAIL = 0.01
# FastAPI has telemetry of its own: asking each time whether it is wanted costs 7 µs a request, and where wanted it
# records exception messages, which may hold personal data.
FASTAPI_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class OtlpExporter(SpanExporter):
    """Sends spans as OTLP protobuf over HTTP. What can't be delivered is counted and dropped; nothing is logged.

    Not the SDK's own: that one retries for 10 s, logs each failure, follows the environment's proxies even to the
    loopback address, and costs every process 65 ms at start for its HTTP client.
    """

    def __init__(self, endpoint: str) -> None:
        with reading("OTEL_EXPORTER_OTLP_ENDPOINT", "write an http or https address such as http://127.0.0.1:8130"):
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or parts.hostname is None:
                raise ValueError("no address")
            port = parts.port
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=EXPORT_TIMEOUT_S)
        self._path = parts.path.rstrip("/") + "/v1/traces"
        self._ends_at: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send once, and once more on a fresh connection when the kept one was closed."""
        body = encode_spans(spans).SerializeToString()
        for _ in range(2):
            if self._ends_at is not None and time.monotonic() > self._ends_at:
                break
            try:
                self._connection.request("POST", self._path, body, {"Content-Type": "application/x-protobuf"})
                response = self._connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                continue
            if response.status < 300:
                return SpanExportResult.SUCCESS
            break
        METRICS.spans_lost.inc(len(spans))
        return SpanExportResult.FAILURE

    def finish_within(self, seconds: float) -> None:
        """From now on only so long, for a process that ends."""
        self._ends_at = time.monotonic() + seconds

    def shutdown(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Process:
    """The one set-up of this process."""

    def __init__(self) -> None:
        self.service: str | None = None
        self.provider: TracerProvider | None = None
        self.exporter: SpanExporter | None = None
        self.sampler: Sampler | None = None
        self.force = False
        self.lock = threading.Lock()


_process = _Process()


def configure(
    service: str,
    settings: ServiceSettings,
    *,
    tail: float = TAIL,
    edge: bool | None = None,
    exporter: SpanExporter | None = None,
) -> None:
    """Set up logs and traces of this process; `serve` does it, a second call for the same service changes nothing.

    `edge` (the gateway): traces begin here, `settings.trace_budget_per_s` a second are kept and of the rest the
    share `tail`; elsewhere the caller's decision holds. `exporter` replaces the one of the settings, for tests.
    """
    with _process.lock:
        if _process.service == service and exporter is None:
            return
        _close()
        logs.configure(service, settings.log_level, settings.instance)
        if exporter is None and settings.otel_exporter_otlp_endpoint:
            exporter = OtlpExporter(settings.otel_exporter_otlp_endpoint)
        if service == "gateway" if edge is None else edge:
            exported = exporter is not None
            _process.sampler = Sampler(settings.trace_budget_per_s if exported else 0, tail if exported else 0)
        _process.force = settings.trace_force
        _process.service, _process.exporter = service, exporter
        if exporter is not None:
            _process.provider = _provider(service, settings.instance, exporter)
            spans.Tracing.tracer = _process.provider.get_tracer("mymacrotracker")


def flush() -> None:
    """Send what waits now; blocks."""
    if _process.provider is not None:
        _process.provider.force_flush()


def shutdown() -> None:
    """Send what waits, within 2 s, and stop; `serve` does it."""
    with _process.lock:
        _close()


def _close() -> None:
    if isinstance(_process.exporter, OtlpExporter):
        _process.exporter.finish_within(EXPORT_TIMEOUT_S)
    if _process.provider is not None:
        _process.provider.shutdown()
    spans.Tracing.tracer = None
    _process.service = _process.provider = _process.exporter = _process.sampler = None


def _provider(service: str, instance: str, exporter: SpanExporter) -> TracerProvider:
    resource = Resource({"service.name": service} | ({"service.instance.id": instance} if instance else {}))
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=MAX_WAITING_SPANS,
            schedule_delay_millis=EXPORT_DELAY_MS,
            max_export_batch_size=MAX_SENT_SPANS,
        )
    )
    return provider


class TraceMiddleware:
    """One span and one metric per HTTP request, and the header `trace-id` on its answer.

    Pure ASGI, without spans for receive and send. An event stream's span ends when the stream begins.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        place = _arrival(scope)
        request = _Request(scope, place, send)
        token = spans.entered(place)
        try:
            await self.app(scope, receive, request.send)
        except BaseException as error:
            request.error = type(error).__name__
            raise
        finally:
            spans.left(token)
            request.finish()


http_server_span = TraceMiddleware


class _Request:
    """What is known of a request on its way."""

    __slots__ = ("_done", "_place", "_scope", "_send", "_since", "_status", "error")

    def __init__(self, scope: Scope, place: Place, send: Send) -> None:
        self._scope = scope
        self._place = place
        self._send = send
        self._since = time.perf_counter()
        self._status = 500
        self._done = False
        self.error: str | None = None

    async def send(self, message: Message) -> None:
        """Pass on, adding the trace's id to the answer's head."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers: list[tuple[bytes, bytes]] = message["headers"]
            message["headers"] = [*headers, (b"trace-id", self._place.trace_id.encode())]
            for name, value in headers:
                if name == b"content-type" and value.startswith(b"text/event-stream"):
                    self.finish()
        await self._send(message)

    def finish(self) -> None:
        """Close the span and count the request, once."""
        if self._done:
            return
        self._done = True
        scope, status = self._scope, self._status
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        _timer(method, route, status).observe(time.perf_counter() - self._since)
        made = self._place.span
        if made is None:
            return
        made.update_name(f"{method} {route}")
        made.set_attribute("http.request.method", method)
        made.set_attribute("http.route", route)
        made.set_attribute("http.response.status_code", status)
        if status >= 500 or self.error is not None:
            spans.failed(made, self.error or str(status))
        made.end()


def _arrival(scope: Scope) -> Place:
    caller, forced = None, False
    for name, value in scope["headers"]:
        if name == b"traceparent":
            caller = value
        elif name == b"trace-force":
            forced = _process.force
    if _process.sampler is None:
        parent = spans.parsed(caller.decode("latin-1")) if caller is not None else None
        parent = parent or spans.new_place(False)
        return spans.begun(scope["method"], parent, "server") if parent.kept else parent
    # The edge begins a trace of its own and only links to the caller's, whose ids it does not trust.
    if not (_process.sampler.keep() or forced):
        return spans.new_place(False)
    links = (caller.decode("latin-1"),) if caller is not None else ()
    return spans.begun(scope["method"], None, "server", links=links)


_timers: dict[tuple[str, str, int], Any] = {}


def _timer(method: str, route: str, status: int) -> Any:
    # labels() takes 1.5 µs; the keys are bounded by routes and statuses.
    timer = _timers.get((method, route, status))
    if timer is None:
        timer = _timers[(method, route, status)] = METRICS.http_seconds.labels(method, route, str(status))
    return timer
