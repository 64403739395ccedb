"""The stack's supervisor with some of its parts exchanged: `python -m tests.faults.supervisor '{…}'`.

Services can run with planted faults, and the one broker can be three. Nothing but this folder knows of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra.local import jars, kafka, stack
from infra.local.instance import SERVICES, Instance
from infra.local.parts import Part, all_parts, node_part
from tests.faults.planted import PAGE_LIMIT_FILE

NODE_HEAP_MB = 256


@dataclass(frozen=True)
class Exchanged:
    """`planted`: names of planted faults by service. `nodes`: client and controller port of further brokers."""

    planted: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    nodes: tuple[tuple[int, int], ...] = ()

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
        own = instance.settings.kafka_port
        brokers = ",".join(f"127.0.0.1:{port}" for port in (own, *(port for port, _ in self.nodes)))
        return {"KAFKA_BOOTSTRAP_SERVERS": brokers, PAGE_LIMIT_FILE: str(page_limit_file(instance))}


def page_limit_file(instance: Instance) -> Path:
    """While it exists, ingest's database may not grow."""
    return instance.run / "page-limit"


def parts(instance: Instance, exchanged: Exchanged) -> list[Part]:
    """The stack's parts, exchanged."""
    found: list[Part] = []
    for part in all_parts(instance):
        if part.name in SERVICES:
            env = {**part.env, **exchanged.environment(instance)}
            found.append(replace(part, command=exchanged.command(part.name), env=env))
        elif part.name == "kafka" and exchanged.nodes:
            found += [node_part(instance, name, node) for name, node in nodes(instance, exchanged).items()]
        else:
            found.append(part)
    return found


def nodes(instance: Instance, exchanged: Exchanged) -> dict[str, kafka.Node]:
    """The brokers by the names of their parts; the first is where the only one would be."""
    settings = instance.settings
    ports = ((settings.kafka_port, settings.kafka_controller_port), *exchanged.nodes)
    names = ["kafka", *(f"kafka-{number}" for number in range(2, len(ports) + 1))]
    made = (
        kafka.Node(instance.data / name, jars.folder(instance.tools), NODE_HEAP_MB, ports, place)
        for place, name in enumerate(names)
    )
    return dict(zip(names, made, strict=True))


def format_nodes(several: Sequence[kafka.Node], instance: Instance) -> None:
    """Prepare the log folders side by side."""
    children: list[subprocess.Popen[bytes]] = []
    for node in several:
        kafka.prepare(node)
        with (instance.logs / f"{node.home.name}.log").open("ab") as log:
            command = kafka.format_command(node)
            children.append(subprocess.Popen(command, cwd=node.home, env=kafka.environment(), stdout=log, stderr=log))
    if any([child.wait() for child in children]):
        sys.exit("The brokers' folders could not be prepared.")
    for node in several:
        kafka.mark_formatted(node)


def main() -> None:
    """Supervise the instance of the environment, exchanged as the argument says."""
    said = json.loads(sys.argv[1])
    exchanged = Exchanged(said["planted"], tuple((port, controller) for port, controller in said["nodes"]))

    def made(instance: Instance) -> list[Part]:
        if exchanged.nodes:
            os.environ["KAFKA_REPLICATION"] = "3"
            format_nodes(list(nodes(instance, exchanged).values()), instance)
        return parts(instance, exchanged)

    stack.main(made)


if __name__ == "__main__":
    main()
