"""What the stack is made of: how each process is started, and how to tell that it is ready."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from infra.local import kafka, processes, redis, triton
from infra.local.instance import SERVICES, Instance, drain_s, kind_of, member_environment, service_environment

HTTP_PROBE_TIMEOUT_S = 2.0
TRITON_FAILURES = 3
START_S = 60.0
STOP_S = 15.0
# After a kill -9 a broker reads what it was writing before it answers; to end it meanwhile would have it begin anew.
BROKER_START_S = 600.0
# Stop order: the door first, then who works, then what they work on.
GATEWAY, SERVICE, ENGINE = 0, 1, 2


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Part:
    """One process. `prepare` runs before every start, `clear` after the stop.

    After `give_up_after` failed probes in a row it is killed and started again; 0 means never. So it is when it was
    not ready within `start_s` seconds, or did not end within `stop_s`.
    """

    name: str
    port: int
    command: list[str]
    cwd: Path
    env: dict[str, str] = field(repr=False)
    ready: Callable[[], Awaitable[bool]]
    stage: int
    prepare: Callable[[], None] = _nothing
    clear: Callable[[], None] = _nothing
    give_up_after: int = 0
    start_s: float = START_S
    stop_s: float = STOP_S


async def http_ok(port: int, path: str = "/readyz") -> bool:
    """Whether GET `path` on loopback answers 200; by hand, for an HTTP client would double the supervisor's memory."""
    try:
        async with asyncio.timeout(HTTP_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
                await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split(b" ")[1:2] == [b"200"]


def all_parts(instance: Instance) -> list[Part]:
    """Every process that can run on this machine and that the settings want, in the order of starting."""
    parts = [node_part(instance, name, node) for name, node in kafka.nodes(instance).items()]
    if instance.settings.cluster:
        parts.append(redis_part(instance))
    if triton.problem() is None:
        parts.append(triton_part(instance))
    # One of each service first, then the second of each.
    rounds = zip_longest(*(instance.members(service) for service in SERVICES))
    parts += [service_part(instance, name) for names in rounds for name in names if name is not None]
    wanted = {name.strip() for name in instance.settings.only.split(",") if name.strip()}
    return [part for part in parts if not wanted or wanted & {part.name, kind_of(part.name)}]


def node_part(instance: Instance, name: str, node: kafka.Node) -> Part:
    """One broker of several, or the only one."""
    return Part(
        name=name,
        port=node.port,
        command=kafka.command(node),
        cwd=node.home,
        env=_marked(instance, kafka.environment()),
        ready=lambda: kafka.ready(node),
        stage=ENGINE,
        prepare=lambda: kafka.prepare(node),
        start_s=BROKER_START_S,
    )


def redis_part(instance: Instance) -> Part:
    """Where the gateways count together."""
    port, home = instance.port("redis"), instance.data / "redis"
    return Part(
        name="redis",
        port=port,
        command=redis.command(port),
        cwd=home,
        env=_marked(instance, {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}),
        ready=lambda: redis.ready(port),
        stage=ENGINE,
        prepare=lambda: home.mkdir(parents=True, exist_ok=True),
    )


def triton_part(instance: Instance) -> Part:
    """The inference server; only a real inference tells whether its model's stub lives."""
    settings, home = instance.settings, instance.data / "triton"
    return Part(
        name="triton",
        port=settings.triton_grpc_port,
        command=triton.command(
            home,
            http_port=settings.triton_http_port,
            grpc_port=settings.triton_grpc_port,
            metrics_port=settings.triton_metrics_port,
            otlp_port=settings.otlp_port,
        ),
        cwd=home,
        env=_marked(instance, triton.environment()),
        ready=lambda: _triton_ready(settings.triton_grpc_port),
        stage=ENGINE,
        prepare=lambda: triton.prepare(home, instance.tools),
        clear=lambda: triton.clear_shared_memory(home),
        give_up_after=TRITON_FAILURES,
    )


async def _triton_ready(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return await asyncio.to_thread(triton.ready, port)


def service_part(instance: Instance, name: str) -> Part:
    """One of our services, or one process of it."""
    service = kind_of(name)
    port = instance.members(service)[name]
    env = {**os.environ, **service_environment(instance), **member_environment(instance, name)}
    return Part(
        name=name,
        port=port,
        command=[sys.executable, "-m", f"services.{service}.app"],
        cwd=instance.root,
        env=_marked(instance, {**env, "HOST": _host(instance, service)}),
        ready=lambda: http_ok(port),
        stage=GATEWAY if service == "gateway" else SERVICE,
        stop_s=STOP_S + drain_s(instance),
    )


def _host(instance: Instance, name: str) -> str:
    return instance.settings.host if name == "gateway" else "127.0.0.1"


def _marked(instance: Instance, env: dict[str, str]) -> dict[str, str]:
    return {**env, processes.MARK: str(instance.data)}
