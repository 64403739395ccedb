"""The stack's supervisor with some of its parts exchanged: `python -m tests.faults.supervisor '{…}'`.

Services can run with planted faults. Nothing but this folder knows of it.
"""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra.local import stack
from infra.local.instance import SERVICES, Instance, kind_of
from infra.local.parts import Part, all_parts
from tests.faults.planted import PAGE_LIMIT_FILE


@dataclass(frozen=True)
class Exchanged:
    """`planted`: names of planted faults by service."""

    planted: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def program(self) -> list[str]:
        """What `control.launch` runs."""
        return ["tests.faults.supervisor", json.dumps(asdict(self))]

    def command(self, service: str) -> list[str]:
        """How the service is started."""
        names, module = self.planted.get(service), f"services.{service}.app"
        started = ["-m", "tests.faults.planted", ",".join(names), module] if names else ["-m", module]
        return [sys.executable, *started]

    def environment(self, instance: Instance) -> dict[str, str]:
        """What services get on top of `service_environment`."""
        return {PAGE_LIMIT_FILE: str(page_limit_file(instance))}


def page_limit_file(instance: Instance) -> Path:
    """While it exists, ingest's database may not grow."""
    return instance.run / "page-limit"


def parts(instance: Instance, exchanged: Exchanged) -> list[Part]:
    """The stack's parts, exchanged."""
    found: list[Part] = []
    for part in all_parts(instance):
        service = kind_of(part.name)
        if service in SERVICES:
            env = {**part.env, **exchanged.environment(instance)}
            part = replace(part, command=exchanged.command(service), env=env)
        found.append(part)
    return found


def main() -> None:
    """Supervise the instance of the environment, exchanged as the argument says."""
    exchanged = Exchanged(**json.loads(sys.argv[1]))
    stack.main(lambda instance: parts(instance, exchanged))


if __name__ == "__main__":
    main()
