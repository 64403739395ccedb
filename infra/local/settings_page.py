"""`docs/settings.md`: every setting of the services, where it may stand, and which must fit together."""

import importlib
from collections.abc import Iterator

from pydantic_core import PydanticUndefined

from shared.settings import DEFAULT_PORTS, ServiceSettings

HEAD = """\
# Settings of the services

Made by `./mymacro docs` from each service's `settings.py`. A setting is a variable of the environment; one that is not
there may lie in the folder `SETTINGS_DIR`, in a file named like the setting in small letters (`database_url`), as
containers are given secrets. What cannot be read, or cannot work with another setting, is refused at the start with
the names of all that are concerned, and never with a value. The local stack's own settings are in
[.env.example](../.env.example).
"""
TOGETHER = """\
## What must fit together

Looked at when a service starts. What several services must agree on no setting of one can tell: `TOKEN_ISSUER` and
`TOKEN_AUDIENCE` are the same at auth and at every gateway (one with another issuer never gets ready), `DRAIN_S` is the
same at all, and the key files are one set.
"""


def settings_page() -> str:
    """The page."""
    parts = [HEAD, "\n".join(_rules())]
    known: set[str] = set()
    for title, settings in _sections():
        rows = [_row(name, settings) for name in settings.model_fields if name not in known]
        known |= set(settings.model_fields)
        table = ["| setting | default | meaning |", "|---|---|---|", *rows]
        parts.append(f"## {title}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, type[ServiceSettings]]]:
    yield "Every service", ServiceSettings
    for service in DEFAULT_PORTS:
        yield service, importlib.import_module(f"services.{service}.settings").Settings


def _rules() -> Iterator[str]:
    yield TOGETHER
    said: set[str] = set()
    for _, settings in _sections():
        for rule in settings.rules:
            # Two services may not be at one address: one line for the many pairs of them.
            line = f"* `{'`, `'.join(rule.settings)}`: {rule.says}." if rule.says not in said else ""
            said.add(rule.says)
            if line:
                yield line
    yield ""


def _row(name: str, settings: type[ServiceSettings]) -> str:
    field = settings.model_fields[name]
    default = "" if field.default in (None, PydanticUndefined) else str(field.default)
    shown = f"`{default.lower() if isinstance(field.default, bool) else default}`" if default else ""
    if "Secret" in str(field.annotation):
        shown = ""
    meaning = (field.description or "").replace("|", "\\|").replace("<", "&lt;")
    return f"| `{name.upper()}` | {shown} | {meaning} |"
