"""The current trace: made at the gateway, carried in headers and documents as a W3C traceparent.

A trace that is not kept costs two random numbers and one context variable; only kept ones reach the SDK.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal, NamedTuple, Self

from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode

from shared.redaction import REFUSED, allowed, personal, scrubbed

Kind = Literal["internal", "server", "client", "producer", "consumer"]
KINDS: dict[str, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"  # W3C Trace Context §3.2
)


class Place(NamedTuple):
    """Where we are in a trace; `span` only in kept ones."""

    trace_id: str
    span_id: str
    kept: bool
    span: Span | None = None

    @property
    def traceparent(self) -> str:
        """As it travels."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.kept else '00'}"


class Tracing:
    """What `configure` sets for the process: where kept spans go."""

    tracer: Tracer | None = None


_place: ContextVar[Place | None] = ContextVar("place", default=None)
_bound: ContextVar[Mapping[str, object] | None] = ContextVar("bound", default=None)
_random = random.Random()  # noqa: S311 (ids, not secrets)


class Sampler:
    """Keeps `per_second` traces a second (a burst of one second's worth), and of the rest the share `tail`."""

    def __init__(self, per_second: float, tail: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._tail = tail
        self._clock = clock
        self._left = float(per_second)
        self._at = clock()

    def keep(self) -> bool:
        """Whether to keep a trace that begins now."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return True
        return _random.random() < self._tail


def new_place(kept: bool) -> Place:
    """The beginning of a trace."""
    ids = f"{_random.getrandbits(192):048x}"
    return Place(ids[:32], ids[32:], kept)


def parsed(traceparent: str | None) -> Place | None:
    """The place a W3C traceparent names; None when there is none or it is malformed."""
    found = TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (more is not None and version == "00"):
        return None
    return Place(trace_id, span_id, int(flags, 16) & 1 == 1)


def current_traceparent() -> str | None:
    """The current place as a W3C traceparent, None outside of any trace."""
    place = _place.get()
    return None if place is None else place.traceparent


def current_trace_id() -> str | None:
    """The current trace's 32 hex digits, None outside of any trace."""
    place = _place.get()
    return None if place is None else place.trace_id


def current_kept() -> bool:
    """Whether the current trace is kept."""
    place = _place.get()
    return place is not None and place.kept


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id inside a stored traceparent; None when it has none."""
    place = parsed(traceparent)
    return None if place is None else place.trace_id


def bind(**ids: object) -> None:
    """Add ids to every later log line of this task, until the enclosing span ends, and to that span."""
    values = allowed(ids)
    _bound.set({**(_bound.get() or {}), **values})
    place = _place.get()
    if place is not None and place.span is not None:
        for key, value in values.items():
            place.span.set_attribute(key, _attribute(value))


def bound_ids() -> Mapping[str, object]:
    """What `bind` has added here."""
    return _bound.get() or {}


class span:
    """A span around a block: `with span("write buckets", attributes={...}) as it: it.set("rows", 3)`.

    It is a child of `parent` (a traceparent) where given, else of the current span, else the beginning of a trace
    that is not kept. `links` are traceparents of other causes. An exception marks it as failed and goes on.
    """

    __slots__ = ("_attributes", "_bound_before", "_kind", "_links", "_name", "_parent", "_token", "place")

    def __init__(
        self,
        name: str,
        *,
        parent: str | None = None,
        links: Iterable[str | None] = (),
        kind: Kind = "internal",
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        self._name = name
        self._parent = parent
        self._links = links
        self._kind: Kind = kind
        self._attributes = attributes
        self._token: Token[Place | None] | None = None
        self._bound_before: Mapping[str, object] | None = None
        self.place: Place | None = None

    def __enter__(self) -> Self:
        parent = parsed(self._parent) if self._parent is not None else None
        if parent is None:
            parent = _place.get() or new_place(False)
        self.place = begun(self._name, parent, self._kind, self._attributes, self._links) if parent.kept else parent
        self._token = _place.set(self.place)
        self._bound_before = _bound.get()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _place.reset(self._token)
            _bound.set(self._bound_before)
        if self.place is not None and self.place.span is not None:
            if error is not None:
                failed(self.place.span, type(error).__name__)
            self.place.span.end()

    @property
    def kept(self) -> bool:
        """Whether what is set here is stored; expensive attributes may ask."""
        return self.place is not None and self.place.span is not None

    def set(self, key: str, value: object) -> None:
        """Add an attribute; personal keys are refused."""
        if self.place is not None and self.place.span is not None:
            self.place.span.set_attribute(key, REFUSED if personal(key) else _attribute(value))

    def fail(self, reason: str) -> None:
        """Mark the span as failed; `reason` is a code, not a message with values."""
        if self.place is not None and self.place.span is not None:
            failed(self.place.span, reason)


def begun(
    name: str,
    parent: Place | None,
    kind: Kind = "internal",
    attributes: Mapping[str, object] | None = None,
    links: Iterable[str | None] = (),
) -> Place:
    """A kept span, begun but not made current: under `parent`, or the root of a new trace."""
    if Tracing.tracer is None:
        return parent or new_place(True)
    around = set_span_in_context(NonRecordingSpan(_context(parent))) if parent is not None else None
    values = {key: _attribute(value) for key, value in allowed(attributes or {}).items()}
    others = [Link(_context(other)) for other in map(parsed, links) if other is not None]
    made = Tracing.tracer.start_span(name, around, KINDS[kind], values, others)
    context = made.get_span_context()
    return Place(f"{context.trace_id:032x}", f"{context.span_id:016x}", True, made)


def failed(span: Span, reason: str) -> None:
    """Mark `span` as failed."""
    span.set_status(Status(StatusCode.ERROR, scrubbed(reason)))
    span.set_attribute("error.type", reason)


def mark_failed(reason: str) -> None:
    """Mark the current span as failed; `reason` is a code."""
    place = _place.get()
    if place is not None and place.span is not None:
        failed(place.span, reason)


def entered(place: Place) -> Token[Place | None]:
    """Make `place` current; give the token to `left`."""
    return _place.set(place)


def left(token: Token[Place | None]) -> None:
    """Make the place before `entered` current again."""
    _place.reset(token)


def _context(place: Place) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.kept else TraceFlags.DEFAULT)
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), True, flags)


def _attribute(value: object) -> str | bool | int | float:
    if isinstance(value, bool | int | float):
        return value
    return scrubbed(str(value))
