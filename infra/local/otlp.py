"""OTLP trace requests, protobuf or JSON, as flat rows; bounded, because anybody on the machine may send them."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MAX_TEXT = 1024
MAX_ATTRIBUTES = 64
MAX_LINKS = 64
MAX_NS = 2**63 - 1
FAILED = 2  # STATUS_CODE_ERROR
VALUES = ("stringValue", "boolValue", "intValue", "doubleValue")


class SpanRow(NamedTuple):
    """One span: ids in lower-case hex (`parent_id` empty at a root), times in ns since 1970, JSON texts."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    failed: int
    attributes: str
    links: str


def from_protobuf(body: bytes) -> list[SpanRow]:
    """The spans of a protobuf request; spans without ids are left out.

    Raises:
        google.protobuf.message.DecodeError: not such a request.
    """
    rows: list[SpanRow] = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = str(_protobuf_attributes(resource.resource.attributes).get("service.name", "unknown"))
        for scope in resource.scope_spans:
            for span in scope.spans:
                row = _row(
                    ids=(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()),
                    texts=(service, span.name),
                    numbers=(span.kind, span.start_time_unix_nano, span.end_time_unix_nano, span.status.code),
                    attributes=_protobuf_attributes(span.attributes),
                    links=[link.trace_id.hex() for link in span.links],
                )
                rows.extend(row)
    return rows


def from_json(body: bytes) -> list[SpanRow]:
    """The spans of a JSON request (OTLP 1.0, both spellings of the ids: hex and base64).

    Raises:
        ValueError, TypeError, AttributeError, KeyError: not such a request.
    """
    rows: list[SpanRow] = []
    for resource in json.loads(body)["resourceSpans"]:
        attributes = _json_attributes(resource.get("resource", {}).get("attributes", []))
        service = str(attributes.get("service.name", "unknown"))
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                rows.extend(_json_row(service, span))
    return rows


def _json_row(service: str, span: Mapping[str, Any]) -> list[SpanRow]:
    return _row(
        ids=(_hex(span["traceId"], 16), _hex(span["spanId"], 8), _hex(span.get("parentSpanId") or "", 8)),
        texts=(service, str(span.get("name", ""))),
        numbers=(
            _kind(span.get("kind", 0)),
            int(span.get("startTimeUnixNano", 0)),
            int(span.get("endTimeUnixNano", 0)),
            FAILED if span.get("status", {}).get("code") in (FAILED, "STATUS_CODE_ERROR") else 0,
        ),
        attributes=_json_attributes(span.get("attributes", [])),
        links=[_hex(link["traceId"], 16) for link in span.get("links", [])],
    )


def _row(
    ids: tuple[str, str, str],
    texts: tuple[str, str],
    numbers: tuple[int, int, int, int],
    attributes: Mapping[str, object],
    links: list[str],
) -> list[SpanRow]:
    trace_id, span_id, parent_id = ids
    if len(trace_id) != 32 or len(span_id) != 16 or not trace_id.strip("0") or not span_id.strip("0"):
        return []
    service, name = texts
    kind, start_ns, end_ns, status = numbers
    return [
        SpanRow(
            trace_id,
            span_id,
            parent_id if parent_id.strip("0") else "",
            service[:MAX_TEXT],
            name[:MAX_TEXT],
            kind,
            min(max(start_ns, 0), MAX_NS),
            min(max(end_ns, start_ns, 0), MAX_NS),
            int(status == FAILED),
            json.dumps(dict(list(attributes.items())[:MAX_ATTRIBUTES])),
            json.dumps(links[:MAX_LINKS]),
        )
    ]


def _protobuf_attributes(attributes: Iterable[Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in attributes:
        kind = item.value.WhichOneof("value")
        value: object = getattr(item.value, kind) if kind is not None else None
        found[item.key[:MAX_TEXT]] = value if isinstance(value, bool | int | float) else str(value)[:MAX_TEXT]
    return found


def _json_attributes(attributes: Iterable[Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in attributes:
        value = cast(Mapping[str, object], item.get("value", {}))
        known = next((value[name] for name in VALUES if name in value), value)
        found[str(item["key"])[:MAX_TEXT]] = known if isinstance(known, bool | int | float) else str(known)[:MAX_TEXT]
    return found


def _hex(text: str, size: int) -> str:
    if len(text) in (0, size * 2):
        return bytes.fromhex(text).hex()
    return base64.b64decode(text, validate=True).hex()


def _kind(kind: object) -> int:
    if isinstance(kind, int):
        return min(max(kind, 0), 5)
    names = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
    name = str(kind).removeprefix("SPAN_KIND_")
    return names.index(name) if name in names else 0
