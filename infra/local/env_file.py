"""`.env`: how settings of services that stand in it reach the local stack and operators' commands."""

import difflib
import importlib
import os
from collections.abc import Collection, Mapping, MutableMapping
from functools import cache
from pathlib import Path

from dotenv import dotenv_values

from infra.local.settings import PREFIX, StackSettings
from shared.settings import DEFAULT_PORTS, ServiceSettings

# Tells the supervisor which settings stand in .env: those it does not replace by its own.
NAMED = "MYMACRO_NAMED"
# Read by commands and by ./mymacro itself, and no settings of the stack.
OF_COMMANDS = frozenset({"MYMACRO_API_URL", "MYMACRO_PARTNER_KEY"})
# The supervisor must know where its own parts listen, so these have one name each.
INSTEAD = {
    "HOST": "MYMACRO_HOST",
    "GATEWAY_PORT": "MYMACRO_GATEWAY_PORT",
    **{f"{service.upper()}_PORT": f"{PREFIX}{service.upper()}_PORT" for service in DEFAULT_PORTS},
}


def load(path: Path, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Put what `path` sets into `environment`, unless it is there already; returns warnings, one sentence each.

    Nothing happens where there is no such file, or where a command above has read it (`NAMED` is set). Names that no
    setting has stay out.
    """
    if NAMED in environment:
        return []
    found = {name: value for name, value in dotenv_values(path).items() if value is not None}
    own = stack_settings()
    others = set(found) - own
    known = others and service_settings() | OF_COMMANDS
    for name in sorted((others & known) - set(INSTEAD)):
        environment.setdefault(name, found[name])
    environment[NAMED] = ",".join(sorted((others & known) - set(INSTEAD)))
    return [_useless(name) for name in sorted(others & set(INSTEAD))] + [
        _unknown(name, known | own) for name in sorted(others - known)
    ]


def named(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The services' settings that stand in .env."""
    return frozenset(name for name in environment.get(NAMED, "").split(",") if name)


def stack_settings() -> set[str]:
    """Names of the local stack's own settings, which it reads from .env itself."""
    return {f"{PREFIX}{name.upper()}" for name in StackSettings.model_fields}


@cache
def service_settings() -> frozenset[str]:
    """Names of every service's settings; takes 0.7 s at the first call."""
    fields = set(ServiceSettings.model_fields)
    for service in DEFAULT_PORTS:
        fields |= set(importlib.import_module(f"services.{service}.settings").Settings.model_fields)
    return frozenset(name.upper() for name in fields)


def _useless(name: str) -> str:
    return f".env: {name} does nothing in the local stack; set {INSTEAD[name]}."


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.upper(), sorted(known), n=1)
    return f".env: there is no setting {name}" + (f"; {near[0]} is the nearest." if near else ".")
