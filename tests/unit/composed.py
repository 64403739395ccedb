"""docker-compose.yml as data, and what its containers are given."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from infra.local.settings import ROOT
from shared.settings import DEFAULT_PORTS, ServiceSettings

SERVICES = tuple(DEFAULT_PORTS)
SECRETS = "/run/secrets/"
# Where images of others listen, as their documentation has it.
ENGINE_PORTS = {
    "kafka": {9092},
    "mongo": {27017},
    "objects": {8333},
    "redis": {6379},
    "triton": {8000, 8001, 8002},
    "collector": {4318, 8888},
    "jaeger": {4317, 13133, 16686},
    "prometheus": {9090},
    "grafana": {3000},
}
PORTS = ENGINE_PORTS | {service: {port} for service, port in DEFAULT_PORTS.items()}
# Which of an engine's ports the machine may have.
PUBLISHED = {"jaeger": 16686, "grafana": 3000}
# Where a setting leads; a container's other ports speak something else.
LEADS_TO = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "OBJECTS_S3_ENDPOINT": "objects:8333",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318",
    "INFERENCE_TRITON_URL": "triton:8001",  # gRPC
} | {f"GATEWAY_{service.upper()}_URL": f"{service}:{port}" for service, port in DEFAULT_PORTS.items()}
# What the health checks of others' images ask on loopback, themselves or in a script that is mounted, as their
# documentation has it; Redis's leaves the address to its client.
ASKED = {
    "kafka": "127.0.0.1:9092",
    "mongo": "127.0.0.1:27017/admin",
    "objects": "127.0.0.1:8333/healthz",
    "jaeger": "127.0.0.1:13133/status",
    "prometheus": "127.0.0.1:9090/-/healthy",
    "grafana": "127.0.0.1:3000/api/health",
}
# Paths of the images themselves.
IN_IMAGES = {
    "kafka": {"/opt/kafka/bin/kafka-broker-api-versions.sh"},
    "triton": {"/models"},
    "triton-gpu": {"/models"},
    "mongo": {"/tmp"},  # noqa: S108 - a HOME that can be written to
}
# Shared settings that not every service looks at.
OF_SOME = {"database_url", "internal_jwks_path", "secrets_key_path"}
ADDRESS = re.compile(r"(?:^|[\s,@/=])([a-z][a-z-]*):(\d{2,5})\b")
LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost):\d+(?:/[\w./-]*)?")
FILE = re.compile(r"(?<![\w./:-])/[\w./-]+")
LISTENER = re.compile(r"([A-Z]+)://[^,:]*:(\d+)")
# Compose's own form of a variable with a default.
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")


def composed() -> dict[str, Any]:
    """The file, a fresh copy each time."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def settings_of(service: str) -> type[ServiceSettings]:
    """The settings class of one of our services."""
    found: type[ServiceSettings] = importlib.import_module(f"services.{service}.settings").Settings
    return found


def value(text: str) -> str:
    """What Compose makes of a value where nobody sets a variable."""
    while (made := VARIABLE.sub(lambda match: match[2] or "", text)) != text:
        text = made
    return text


def environment(compose: dict[str, Any], container: str) -> dict[str, str]:
    """A container's variables as it sees them."""
    return {name: value(str(text)) for name, text in compose["services"][container].get("environment", {}).items()}


def networks(compose: dict[str, Any], container: str) -> set[str]:
    """The networks a container is on."""
    return set(compose["services"][container].get("networks", []))


def volumes(compose: dict[str, Any], container: str) -> dict[str, str]:
    """Target → source of what is mounted into a container."""
    found: dict[str, str] = {}
    for mount in compose["services"][container].get("volumes", []):
        source, target = (mount["source"], mount["target"]) if isinstance(mount, dict) else mount.split(":")[:2]
        found[target] = source
    return found


def faults(compose: dict[str, Any], secrets: dict[str, dict[str, str]]) -> list[str]:
    """What the file names and the code does not know, or the other way about; `secrets` are the files of containers."""
    if missing := [name for name in (*SERVICES, *ENGINE_PORTS) if name not in compose["services"]]:
        return [f"{name} is no container" for name in missing]
    found: list[str] = []
    for container in compose["services"]:
        own = _unreachable(compose, container) + _elsewhere(compose, container) + _published(compose, container)
        own += _health(compose, container) + _files(compose, container, secrets)
        found += [f"{container}: {fault}" for fault in own]
    for service in SERVICES:
        found += [f"{service}: {fault}" for fault in _settings(compose, service, secrets[service])]
    return found + [f"kafka: {fault}" for fault in _listeners(environment(compose, "kafka"))]


def _words(compose: dict[str, Any], container: str) -> list[str]:
    one = compose["services"][container]
    run = _listed(one.get("entrypoint", [])) + _listed(one.get("command", []))
    return [*environment(compose, container).values(), *run]


def _check(compose: dict[str, Any], container: str) -> list[str]:
    return _listed(compose["services"][container].get("healthcheck", {}).get("test", []))


def _listed(words: str | list[Any]) -> list[str]:
    """A command in either of Compose's forms, as its container gets it."""
    return [value(str(word)).replace("$$", "$") for word in ([words] if isinstance(words, str) else words)]


def _unreachable(compose: dict[str, Any], container: str) -> list[str]:
    found: list[str] = []
    for host, port in (pair for word in _words(compose, container) for pair in ADDRESS.findall(word)):
        if int(port) not in PORTS.get(host, set()):
            found.append(f"nobody listens at {host}:{port}")
        elif not networks(compose, container) & networks(compose, host):
            found.append(f"{host} is on none of its networks")
    return found


def _elsewhere(compose: dict[str, Any], container: str) -> list[str]:
    given = environment(compose, container)
    led = {name: [":".join(pair) for pair in ADDRESS.findall(given[name])] for name in given if name in LEADS_TO}
    return [f"{name} does not lead to {LEADS_TO[name]}" for name, places in led.items() if places != [LEADS_TO[name]]]


def _published(compose: dict[str, Any], container: str) -> list[str]:
    own = environment(compose, container).get(f"{container.upper()}_PORT", str(PUBLISHED.get(container)))
    ports = [
        str(port["target"]) if isinstance(port, dict) else value(str(port)).rsplit(":", 1)[-1].removesuffix("/tcp")
        for port in compose["services"][container].get("ports", [])
    ]
    return [f"it publishes {port}, where it does not listen" for port in ports if port != own]


def _listeners(given: dict[str, str]) -> list[str]:
    ports, told = (dict(LISTENER.findall(given[f"KAFKA_{name}"])) for name in ("LISTENERS", "ADVERTISED_LISTENERS"))
    found = [
        f"it does not listen at {port}, which it tells of" for name, port in told.items() if ports.get(name) != port
    ]
    controller = ports.get(given["KAFKA_CONTROLLER_LISTENER_NAMES"])
    if given["KAFKA_CONTROLLER_QUORUM_VOTERS"] != f"{given['KAFKA_NODE_ID']}@127.0.0.1:{controller}":
        found.append("its voter is not its controller")
    return found


def _health(compose: dict[str, Any], container: str) -> list[str]:
    words = _check(compose, container)
    mounted = volumes(compose, container)
    scripts = [ROOT / mounted[path] for word in words for path in FILE.findall(word) if path in mounted]
    texts = [*words, *(script.read_text() for script in scripts if script.is_file())]
    asked = [place for text in texts for place in LOOPBACK.findall(text)]
    expected = [ASKED[container]] if container in ASKED else []
    return [] if asked == expected else [f"its health check asks {asked}, not {expected}"]


def _files(compose: dict[str, Any], container: str, secrets: dict[str, dict[str, str]]) -> list[str]:
    words = _words(compose, container) + _check(compose, container)
    named = {path for word in words for path in FILE.findall(word)}
    others = IN_IMAGES.get(container, set[str]()) | {"/dev/null"}
    if container not in SERVICES:  # what ours name has to last
        others |= {entry.split(":")[0] for entry in compose["services"][container].get("tmpfs", [])}
    mounted = volumes(compose, container)
    return [f"it has no {path}" for path in sorted(named - others) if not _is_there(path, mounted, secrets)]


def _is_there(path: str, mounted: dict[str, str], secrets: dict[str, dict[str, str]]) -> bool:
    """Whether a path lies in a volume; and where what is in it is known beforehand, whether the file is among that."""
    for target, source in mounted.items():
        if PurePosixPath(path).is_relative_to(target):
            inside = PurePosixPath(path).relative_to(target)
            if source.startswith("."):
                return (ROOT / source / inside).exists()
            owner = source.removesuffix("-secrets")
            return path == target or owner == source or str(inside) in secrets.get(owner, {})
    return False


def _settings(compose: dict[str, Any], service: str, files: dict[str, str]) -> list[str]:
    fields = settings_of(service).model_fields
    given = environment(compose, service)
    found = [f"there is no setting {name}" for name in given if name.lower() not in fields]
    if given.get(f"{service.upper()}_PORT") != str(DEFAULT_PORTS[service]):
        found.append("its health check does not know its port")
    local = {name for name, field in fields.items() if re.search(r"127\.0\.0\.1|\.mymacro", str(field.default))}
    needed = local - {"host"} - (OF_SOME - read_by(service))
    return found + [f"{name.upper()} is not given" for name in sorted(needed - {*map(str.lower, given), *files})]


@cache
def read_by(service: str) -> frozenset[str]:
    """Attributes read in a service's modules, or in modules of shared/ that these import, themselves or through others.

    Not in shared/settings.py, whose rules look at what is given, used or not.
    """
    waiting = [*(ROOT / "services" / service).rglob("*.py")]
    seen = {ROOT / "shared" / "settings.py"}
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            waiting += _shared(node)
    return frozenset(found)


def _shared(node: ast.AST) -> list[Path]:
    """The modules of shared/ that an import names; the project's imports are absolute."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = [ROOT / name.replace(".", "/") for name in names if name.split(".")[0] == "shared"]
    return [path for one in paths for path in (one.with_suffix(".py"), one / "__init__.py") if path.is_file()]
