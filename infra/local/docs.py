"""Files made from the code, such as `.env.example` and `docs/openapi.json`, and whether they still match.

`write()` makes them anew, `drift()` names those that differ; the same code gives the same bytes.
"""

import contextlib
import importlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from infra.grafana.dashboard import dashboard
from infra.local.metrics_page import metrics_page
from infra.local.settings import ROOT, StackSettings
from infra.local.settings_page import settings_page
from shared import events, topics
from shared.events.event import Event
from shared.events.gateway import BatchSubmitted
from shared.keys import generate_key_files
from shared.settings import DEFAULT_PORTS, ServiceSettings
from shared.topics import Topic

SERVICES = tuple(DEFAULT_PORTS)
SCHEMAS = "#/components/schemas/"
ENV_HEAD = """\
# Every setting with its default, made by `./mymacro docs`. Copy to .env and take the # away where you differ.
# The local stack reads .env, and variables of the environment go before it. It sets addresses, folders, keys and what
# suits one machine itself (so their defaults there differ from those here), unless .env names them. Ports and HOST of
# services are set by their MYMACRO_ names. In a cluster each container has an environment of its own.
"""
HEADERS = {
    "type": "object",
    "properties": {"traceparent": {"type": "string", "description": "W3C Trace Context of the cause"}},
}


def write(root: Path = ROOT) -> list[str]:
    """Write all files under `root`; the names of those that changed."""
    changed = drift(root)
    for name in changed:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name](), encoding="utf-8")
    return changed


def drift(root: Path = ROOT) -> list[str]:
    """The files that are missing or not what the code says."""
    return [name for name, made in FILES.items() if _text(root / name) != made()]


def env_example() -> str:
    """Every setting of the stack and of each service, with its meaning and default."""
    parts = [ENV_HEAD]
    parts += _section("The local stack", StackSettings, "MYMACRO_", set())
    parts += _section("Every service", ServiceSettings, "", set())
    common = set(ServiceSettings.model_fields)
    for service in SERVICES:
        settings = importlib.import_module(f"services.{service}.settings").Settings
        parts += _section(service, settings, "", common)
        # A setting that two services share is listed once.
        common |= set(settings.model_fields)
    return "\n".join(parts) + "\n"


def openapi() -> str:
    """The public API: what the gateway and the services say of themselves, merged."""
    from services.gateway.described import own_document
    from services.gateway.openapi import merge

    documents = {"gateway": own_document()}
    modules = {service: importlib.import_module(f"services.{service}.app") for service in SERVICES[1:]}
    with _bare_surroundings():
        for service, module in modules.items():
            documents[service] = module.create_app().openapi()
    return _json(merge(documents))


def asyncapi() -> str:
    """Every topic with its messages, readers and retention (AsyncAPI 3.0)."""
    return _json(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": "MyMacroTracker events",
                "version": "1",
                "description": inspect.cleandoc(events.__doc__ or ""),
            },
            "defaultContentType": "application/json",
            "servers": {"local": {"host": "127.0.0.1:19092", "protocol": "kafka"}},
            "channels": {topic.name: _channel(topic) for topic in topics.TOPICS},
            "operations": dict(_operations()),
            "components": {"messages": dict(_messages()), "schemas": _schemas()},
        }
    )


FILES: dict[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/openapi.json": openapi,
    "docs/asyncapi.json": asyncapi,
    "docs/metrics.md": metrics_page,
    "docs/settings.md": settings_page,
    "infra/grafana/dashboards/mymacrotracker.json": dashboard,
}


def _section(title: str, settings: type[BaseSettings], prefix: str, known: set[str]) -> list[str]:
    lines = [f"\n## {title}"]
    for name, field in settings.model_fields.items():
        if name not in known:
            lines.append(f"# {field.description}\n#{prefix}{name.upper()}={_default(field.default)}")
    return lines if len(lines) > 1 else []


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _channel(topic: Topic) -> dict[str, Any]:
    names = [_type_name(event) for event in topic.events] or ["batch.submitted"]
    without_group = ("gateway (without a group)",) if topic is topics.MESSAGES else ()
    readers = ", ".join((*topic.readers, *without_group)) or "nobody yet"
    days = topic.retention_ms // topics.DAY_MS
    kept = f"What happened, kept {days} days" if topic.kind == "log" else "The full state of each entity, newest kept"
    return {
        "address": topic.name,
        "title": topic.name,
        "description": f"{kept}; key `{topic.key}`. Written by {topic.writer}, read by {readers}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["compact"] if topic.kind == "state" else ["delete"],
                    "retention.ms": topic.retention_ms if topic.kind == "log" else -1,
                },
                "bindingVersion": "0.5.0",
            }
        },
        "x-dead-letters": {reader: topic.dead_letters(reader) for reader in topic.readers},
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for topic in topics.TOPICS:
        channel = {"$ref": f"#/channels/{topic.name}"}
        yield f"{topic.writer} sends {topic.name}", {"action": "send", "channel": channel}
        for reader in topic.readers:
            group = {"groupId": {"type": "string", "const": topic.group(reader)}, "bindingVersion": "0.5.0"}
            received = {"action": "receive", "channel": channel, "bindings": {"kafka": group}}
            yield f"{reader} receives {topic.name}", received


def _messages() -> Iterator[tuple[str, dict[str, Any]]]:
    for event in _events():
        name = _type_name(event)
        yield name, _message(name, event.__name__, event.__doc__, "application/json")
    batch = BatchSubmitted
    yield "batch.submitted", _message("batch.submitted", batch.__name__, batch.__doc__, "application/vnd.msgpack")


def _message(name: str, schema: str, about: str | None, content_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "contentType": content_type,
        "summary": inspect.cleandoc(about or ""),
        "headers": HEADERS,
        "payload": {"$ref": SCHEMAS + schema},
    }


def _schemas() -> dict[str, Any]:
    _, found = models_json_schema([(event, "serialization") for event in _events()], ref_template=SCHEMAS + "{model}")
    _, packed = msgspec.json.schema_components([BatchSubmitted], ref_template=SCHEMAS + "{name}")
    return dict(sorted({**found["$defs"], **_as_msgpack(packed)}.items()))


def _as_msgpack(node: Any) -> Any:
    # msgspec describes bytes as JSON would carry them; in MessagePack they are plain.
    if isinstance(node, dict):
        if node.get("contentEncoding") == "base64":
            return {"type": "string", "format": "binary"}
        return {
            key: inspect.cleandoc(value) if key == "description" else _as_msgpack(value) for key, value in node.items()
        }
    return [_as_msgpack(item) for item in node] if isinstance(node, list) else node


def _events() -> list[type[Event]]:
    return [event for topic in topics.TOPICS for event in topic.events]


def _type_name(event: type[Event]) -> str:
    return str(event.model_fields["type"].default)


@contextmanager
def _bare_surroundings() -> Iterator[None]:
    """A folder with fresh keys where the defaults look for them, and none of this shell's settings."""
    names = {name.upper() for service in SERVICES for name in _settings_of(service).model_fields}
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.upper() in names}
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            generate_key_files(Path(".mymacro/data/keys"))
            yield
    finally:
        os.environ.update(hidden)


def _settings_of(service: str) -> type[ServiceSettings]:
    return importlib.import_module(f"services.{service}.settings").Settings


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
