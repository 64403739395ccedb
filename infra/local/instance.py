"""One local instance: its folders, its processes by name, and the environment its services get."""

import getpass
import json
import os
import random
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from infra.local import env_file, lock
from infra.local.settings import PREFIX, ROOT, StackSettings

SERVICES = ("gateway", "auth", "ingest", "inference", "nutrition", "insights", "webhooks")
# How many of each a cluster runs; of everything else it has one, as the embedded stack has of all.
CLUSTER = {"kafka": 3, **dict.fromkeys(SERVICES, 2), "ingest": 3}
# Of how many brokers each holds a record, where there are so many.
COPIES = 3
# So long a process that is told to end says so before it refuses connections, for those to hear who balance.
DRAIN_S = 1
PORT_FIELDS = tuple(name for name in StackSettings.model_fields if name.endswith("_port"))
# Below Linux's ephemeral range (32768 on), so that no outgoing connection takes one before we listen.
FREE_PORTS = (20_000, 32_000)
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Instance:
    """Folders and ports of one stack. `tools` is shared by all instances of a checkout, `data` belongs to one."""

    settings: StackSettings
    root: Path = ROOT
    tools: Path = ROOT / ".mymacro" / "tools"

    @property
    def data(self) -> Path:
        """The instance's own folder, absolute."""
        return self.root / (self.settings.cluster_data if self.settings.cluster else self.settings.data)

    @property
    def logs(self) -> Path:
        """One `<process>.log` each."""
        return self.data / "logs"

    @property
    def keys(self) -> Path:
        """Key files and the demo user's password."""
        return self.data / "keys"

    @property
    def run(self) -> Path:
        """The supervisor's lock and state."""
        return self.data / "run"

    @property
    def traces(self) -> Path:
        """The span store."""
        return self.data / "traces.sqlite"

    @property
    def url(self) -> str:
        """The public API."""
        return f"http://127.0.0.1:{self.settings.gateway_port}"

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address for clients, of several brokers as a comma list."""
        return ",".join(f"127.0.0.1:{port}" for port in self.members("kafka").values())

    def members(self, kind: str) -> dict[str, int]:
        """The processes of a kind with their ports: {"ingest": 8102}, in a cluster {"ingest-1": 8102, …}."""
        if not self.settings.cluster or kind not in CLUSTER:
            return {kind: self.port(kind)}
        return {f"{kind}-{number}": self.port(kind, number) for number in range(1, CLUSTER[kind] + 1)}

    def port(self, kind: str, number: int = 1) -> int:
        """Where the first process of a kind listens, or another of a cluster."""
        return int(getattr(self.settings, f"{kind}_port" if number == 1 else f"{kind}_{number}_port"))

    def urls(self, service: str) -> list[str]:
        """Where the processes of a service answer."""
        return [f"http://127.0.0.1:{port}" for port in self.members(service).values()]

    def environment(self) -> dict[str, str]:
        """`MYMACRO_*` variables that describe this instance to another process."""
        values = self.settings.model_dump()
        return {f"MYMACRO_{name.upper()}": str(value) for name, value in values.items()}


def kind_of(name: str) -> str:
    """What a process is: `ingest` for ingest-2."""
    return re.sub(r"-\d+$", "", name)


def operator() -> str:
    """Whose account on this machine a command runs under."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def from_environment() -> Instance:
    """The instance described by the settings; where they do not say which: the one that runs, else the embedded one.

    Of one that runs, ports that no setting names are those that it was started on.
    """
    settings = StackSettings()
    if "cluster" not in settings.model_fields_set:
        cluster = cluster_from_environment()
        if lock.held(cluster.run) and not lock.held(Instance(settings).run):
            return cluster
    return _as_it_runs(Instance(settings))


def cluster_from_environment() -> Instance:
    """The cluster described by the settings, on the ports of one that runs as `from_environment`."""
    return _as_it_runs(Instance(StackSettings(cluster=True)))


def embedded_from_environment() -> Instance:
    """The embedded stack described by the settings."""
    return Instance(StackSettings(cluster=False))


def _as_it_runs(instance: Instance) -> Instance:
    settings = instance.settings
    if settings.ports_from:
        return instance
    unnamed = {name: port for name, port in _ports(instance.run).items() if name not in settings.model_fields_set}
    # Last, for it takes the lock for a moment: never while a supervisor starts, which has said nothing then.
    if not unnamed or not lock.held(instance.run):
        return instance
    return replace(instance, settings=settings.model_copy(update=unnamed))


def _ports(run: Path) -> dict[str, int]:
    """What the supervisor last said that it listens on; nothing where it said nothing yet."""
    try:
        said = json.loads((run / "state.json").read_text())["settings"]
        variables = {name: f"{PREFIX}{name.upper()}" for name in PORT_FIELDS}
        return {name: int(said[variable]) for name, variable in variables.items() if variable in said}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def on_free_ports(data: Path, **settings: object) -> Instance:
    """An instance of its own beside any other: `data` is its folder, every port is free right now."""
    ports = free_ports(len(PORT_FIELDS))
    folders = ("cluster_data", "data") if settings.get("cluster") else ("data", "cluster_data")
    values = {**dict(zip(PORT_FIELDS, ports, strict=True)), folders[0]: data, folders[1]: data / "other"}
    # Said, so that it does not depend on what runs, or stands in .env.
    values |= {"cluster": False, **settings}
    return Instance(StackSettings(**values))  # type: ignore[arg-type]


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on loopback that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*FREE_PORTS)  # noqa: S311 - no secret
        if port not in found and port_is_free(port):
            found.append(port)
    return found


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port`; connections still closing do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _approval(host: str) -> str:
    # Whoever tries things out on this machine alone is its operator.
    return "auto" if host in THIS_MACHINE else "operator"


def _deliveries(host: str) -> dict[str, str]:
    # Receivers on this machine too, but only where nobody else can register one: everything else here listens there.
    wanted = {"CIDRS": "127.0.0.0/8,::1/128", "HTTP": "true", "PORTS": "*"} if host in THIS_MACHINE else {}
    names = {f"WEBHOOKS_ALLOW_{name}": value for name, value in wanted.items()}
    return {name: os.environ.get(name) or value for name, value in names.items()}


def _several(instance: Instance) -> dict[str, str]:
    """What services have to know where there are several of each."""
    if not instance.settings.cluster:
        return {}
    return {
        "GATEWAY_INSTANCES": str(len(instance.members("gateway"))),
        "GATEWAY_RATES_URL": f"redis://127.0.0.1:{instance.port('redis')}",
        "DRAIN_S": str(DRAIN_S),
    }


def member_environment(instance: Instance, name: str) -> dict[str, str]:
    """What one process of a service gets on top of `service_environment`: its name and its own port."""
    service = kind_of(name)
    port = str(instance.members(service)[name])
    # Empty, for a variable of the caller's that has nothing to do with us is no name.
    return {f"{service.upper()}_PORT": port, "INSTANCE": name if instance.settings.cluster else ""}


def drain_s(instance: Instance) -> float:
    """How long a service goes on once it is told to end (DRAIN_S); 0 where that is no number, which it says itself."""
    said = service_environment(instance).get("DRAIN_S") or os.environ.get("DRAIN_S") or "0"
    try:
        return float(said)
    except ValueError:
        return 0.0


def service_environment(instance: Instance) -> dict[str, str]:
    """What every service gets on top of the caller's environment: addresses, folders, key files.

    A setting that stands in .env is left to it, but for the ports on which the stack's own parts listen.
    """
    settings, keys = instance.settings, instance.keys
    values = {
        "KAFKA_BOOTSTRAP_SERVERS": instance.bootstrap_servers,
        "KAFKA_REPLICATION": str(min(COPIES, len(instance.members("kafka")))),
        "DATABASE_URL": settings.database_url or f"sqlite:///{instance.data / 'db'}",
        "OBJECTS_URL": f"file:///{instance.data / 'objects'}",
        "INTERNAL_JWKS_PATH": str(keys / "internal-jwks.json"),
        "SECRETS_KEY_PATH": str(keys / "secrets.key"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{settings.otlp_port}",
        "LOG_LEVEL": settings.log_level.upper(),
        "GATEWAY_DISK_PATH": str(instance.data),
        "GATEWAY_INTERNAL_KEY_PATH": str(keys / "internal.jwk"),
        "GATEWAY_RECEIPT_KEY_PATH": str(keys / "receipts.key"),
        "AUTH_SIGNING_KEY_PATH": str(keys / "auth.jwk"),
        "AUTH_PEPPER_PATH": str(keys / "auth-pepper.key"),
        "AUTH_DEMO_PARTNER_KEY_PATH": str(keys / "demo-partner.key"),
        "AUTH_PUBLIC_URL": os.environ.get("AUTH_PUBLIC_URL", f"http://127.0.0.1:{settings.gateway_port}"),
        "AUTH_MAIL_FOLDER": str(instance.data / "mail"),
        "AUTH_PARTNER_APPROVAL": os.environ.get("AUTH_PARTNER_APPROVAL") or _approval(settings.host),
        "INFERENCE_TRITON_URL": f"127.0.0.1:{settings.triton_grpc_port}",
        "PYTHONPATH": str(instance.root),
        "PYTHONUNBUFFERED": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    values |= _deliveries(settings.host) | _several(instance)
    for service in SERVICES:
        values[f"{service.upper()}_PORT"] = str(instance.port(service))
        if service != "gateway":
            values[f"GATEWAY_{service.upper()}_URL"] = ",".join(instance.urls(service))
    named = env_file.named()
    return {name: value for name, value in values.items() if name not in named}
