"""docker-compose.yml as data, and what its containers are given."""

import importlib
import re
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
ADDRESS = re.compile(r"(?:^|[\s,@/=])([a-z][a-z-]*):(\d{2,5})\b")
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
    found = [f"{name} is no container" for name in (*SERVICES, *ENGINE_PORTS) if name not in compose["services"]]
    for container in compose["services"]:
        found += [f"{container}: {fault}" for fault in _unreachable(compose, container)]
    for service in SERVICES:
        found += [f"{service}: {fault}" for fault in _settings(compose, service, secrets[service])]
    return found


def _unreachable(compose: dict[str, Any], container: str) -> list[str]:
    words = [*environment(compose, container).values(), *map(str, compose["services"][container].get("command", []))]
    found: list[str] = []
    for host, port in (pair for word in words for pair in ADDRESS.findall(word)):
        if int(port) not in PORTS.get(host, set()):
            found.append(f"nobody listens at {host}:{port}")
        elif not networks(compose, container) & networks(compose, host):
            found.append(f"{host} is on none of its networks")
    return found


def _settings(compose: dict[str, Any], service: str, files: dict[str, str]) -> list[str]:
    fields = settings_of(service).model_fields
    given = environment(compose, service)
    found = [f"there is no setting {name}" for name in given if name.lower() not in fields]
    found += [
        f"{name} names a file that is not made"
        for name, text in given.items()
        if text.startswith(SECRETS) and text.removeprefix(SECRETS) not in files
    ]
    if given.get(f"{service.upper()}_PORT") != str(DEFAULT_PORTS[service]):
        found.append("its health check does not know its port")
    local = {name for name, field in fields.items() if re.search(r"127\.0\.0\.1|\.mymacro", str(field.default))}
    needed = local - {"host"} - _unused(service)
    return found + [f"{name.upper()} is not given" for name in sorted(needed - {*map(str.lower, given), *files})]


def _unused(service: str) -> set[str]:
    """Shared settings that a service does not look at."""
    app = (ROOT / "services" / service / "app.py").read_text()
    words = {"database_url": "settings.database_url", "secrets_key_path": "open_secrets("}
    unused = {name for name, word in words.items() if word not in app}
    return unused | ({"internal_jwks_path"} if "internal_jwks_path" not in app else set[str]())
