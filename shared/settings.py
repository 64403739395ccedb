"""What every service reads from its environment; each service adds fields of its own.

A field's environment variable is its name in capitals: `kafka_bootstrap_servers` is KAFKA_BOOTSTRAP_SERVERS, and a
service's own fields start with its name (`gateway_auth_url` is GATEWAY_AUTH_URL). Tests pass fields by name.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.mounts import network_filesystem

DEFAULT_PORTS = {
    "gateway": 8080,
    "auth": 8101,
    "ingest": 8102,
    "inference": 8103,
    "nutrition": 8104,
    "insights": 8105,
    "webhooks": 8106,
}
SQLITE_SCHEME = "sqlite:///"
# Their numbers are OpenSSL's and the resolver's.
NOT_THE_SYSTEMS = (ssl.SSLError, socket.gaierror)
BROKER = re.compile(r"([^\s,:@/\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


@dataclass(frozen=True)
class Rule:
    """Settings that only work in some combinations: their names, the sentence that says so, and when it is broken."""

    settings: tuple[str, ...]
    says: str
    broken: Callable[[Any], bool]

    def __str__(self) -> str:
        return f"{' and '.join(self.settings)}: {self.says}"


def _on_network(settings: "ServiceSettings") -> bool:
    url = settings.database_url
    return url.startswith(SQLITE_SCHEME) and network_filesystem(Path(url.removeprefix(SQLITE_SCHEME))) is not None


def _has_kafka_user(settings: "ServiceSettings") -> bool:
    return bool(settings.kafka_sasl_username and settings.kafka_sasl_password.get_secret_value())


RULES = (
    Rule(
        ("KAFKA_HEARTBEAT_MS", "KAFKA_SESSION_TIMEOUT_MS"),
        "a consumer must say that it lives at least twice in a session's time; set the heartbeat to a third of it",
        lambda settings: 2 * settings.kafka_heartbeat_ms > settings.kafka_session_timeout_ms,
    ),
    Rule(
        ("KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"),
        "with SASL_PLAINTEXT and SASL_SSL a user and a password are sent, without them neither",
        lambda settings: _has_kafka_user(settings) != settings.kafka_security_protocol.startswith("SASL"),
    ),
    Rule(
        ("KAFKA_SECURITY_PROTOCOL", "KAFKA_SSL_CA_PATH"),
        "only SSL and SASL_SSL look at certificates",
        lambda settings: (
            settings.kafka_ssl_ca_path is not None and not settings.kafka_security_protocol.endswith("SSL")
        ),
    ),
    Rule(
        ("SETTINGS_DIR",),
        "there is no such folder",
        lambda settings: settings.settings_dir is not None and not settings.settings_dir.is_dir(),
    ),
    Rule(
        ("DATABASE_URL",),
        "SQLite's files must lie on a disk of this machine, not on a network file system; name a MongoDB instead",
        _on_network,
    ),
)


def _settings_dir() -> str | None:
    # Pydantic would quote a folder that is not there; the rule of SETTINGS_DIR refuses it by name.
    folder = os.environ.get("SETTINGS_DIR", "")
    return folder if os.path.isdir(folder) else None


class ServiceSettings(BaseSettings):
    """The settings all services share; immutable. `rules` holds those that must fit together; services add theirs."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        secrets_dir=_settings_dir(),
    )
    rules: ClassVar[tuple[Rule, ...]] = RULES

    settings_dir: Path | None = Field(
        default=None,
        description="Folder with a file for each setting that the environment leaves out, such as database_url or "
        "gateway_rates_url, so that passwords stand in files; empty: none",
    )
    instance: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        description="Name of this one of a service's processes, such as ingest-2, in logs, traces and Kafka's groups; "
        "empty: the service's",
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="How long a process that was told to end goes on answering, as not ready and closing each "
        "connection with its answer, so that callers move on; whoever stops it must wait 15 s longer",
    )
    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:19092", description="Kafka brokers, host:port, comma-separated"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How the brokers are spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="How the user is made known to them: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    kafka_sasl_username: str = Field(default="", description="The user, for SASL_PLAINTEXT and SASL_SSL")
    kafka_sasl_password: SecretStr = Field(default=SecretStr(""), description="The user's password")
    kafka_ssl_ca_path: Path | None = Field(
        default=None, description="Certificates of who signed the brokers' (PEM); empty: those that the system trusts"
    )
    kafka_session_timeout_ms: int = Field(
        default=6000, gt=0, description="A consumer silent for so long is out of its group"
    )
    kafka_heartbeat_ms: int = Field(default=1000, gt=0, description="How often a consumer says that it lives")
    database_url: str = Field(
        default="sqlite:///.mymacro/data/db",
        pattern="^(sqlite:///.|mongodb://.)",
        description="sqlite:///<folder>, a file for each service, or mongodb://[user:password@]host/<name>[?options], "
        "a database <name>_<service> for each",
    )
    objects_url: str = Field(
        default="file:///.mymacro/data/objects",
        description="Pictures and files: file:///<folder>, or s3://<bucket>/<prefix>, the prefix as you like or none",
    )
    objects_s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#@]+)?$",
        description="Where the S3 of OBJECTS_URL answers, such as https://s3.example.com; http:// is not encrypted, "
        "so only for a network of your own; empty: AWS",
    )
    objects_s3_region: str = Field(
        default="us-east-1",
        pattern=r"^[a-z0-9-]+$",
        description="Its region; most S3 servers that are not AWS take any",
    )
    objects_s3_access_key_id: str = Field(
        default="", description="Its key; empty, for AWS alone: what the AWS_ variables or the machine's role give"
    )
    objects_s3_secret_access_key: SecretStr = Field(default=SecretStr(""), description="The secret of that key")
    objects_s3_secret_access_key_path: Path | None = Field(
        default=None, description="A file with that secret, in place of OBJECTS_S3_SECRET_ACCESS_KEY"
    )
    internal_jwks_path: Path = Field(
        default=Path(".mymacro/data/keys/internal-jwks.json"),
        description="Public keys of the gateway's internal tokens (a JWK set)",
    )
    secrets_key_path: Path = Field(
        default=Path(".mymacro/data/keys/secrets.key"),
        description="Key-encryption keys of stored secrets, one of 64 hex digits a line, the newest first; mode 0600",
    )
    secrets_keys: SecretStr = Field(
        default=SecretStr(""),
        description="The same keys, separated by commas, in place of the file; empty: the file",
    )
    otel_exporter_otlp_endpoint: str = Field(
        default="", description="Where traces go (OTLP over HTTP), such as http://127.0.0.1:8130; empty: nowhere"
    )
    trace_budget_per_s: int = Field(
        default=50, ge=0, description="Traces a second that are always kept; beyond, one in 100"
    )
    trace_force: bool = Field(default=False, description="Whether a request's trace-force header keeps its trace")
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR"
    )
    host: str = Field(default="127.0.0.1", description="The address a service listens on")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_brokers(cls, text: str) -> str:
        brokers = _listed(text)
        if not brokers or not all(map(is_host_and_port, brokers)):
            raise ValueError("write host:port of each broker, separated by commas")
        return text

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if broken := [str(rule) for rule in self.rules if rule.broken(self)]:
            raise ValueError("; ".join(broken))
        return self

    def named(self, service: str) -> str:
        """What this process is called beside others of `service`."""
        return self.instance or service

    @property
    def bootstrap_servers(self) -> list[str]:
        """The brokers one by one; FastStream does not split a comma-joined string."""
        return _listed(self.kafka_bootstrap_servers)

    def database_path(self, service: str) -> Path:
        """The SQLite file of `service`."""
        return Path(self.database_url.removeprefix(SQLITE_SCHEME)) / f"{service}.sqlite"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def is_host_and_port(text: str) -> bool:
    """Is it host:port, such as kafka:9092 or [::1]:9092, with a port between 1 and 65535?"""
    return BROKER.fullmatch(text) is not None and 1 <= int(text.rpartition(":")[2]) <= 65535


def host_and_port(text: str) -> tuple[str, int]:
    """The two parts of host:port, an IPv6 address without its brackets."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


@contextmanager
def reading(setting: str, needs: str) -> Generator[None]:
    """What is read of `setting` here is refused by its name and `needs`, which says what to do; never by its value.

    Raises:
        ValueError: an OSError or a ValueError came up; why a file cannot be opened is said too.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        # The system's words for the number: the error's own text quotes the path.
        number = error.errno if isinstance(error, OSError) and not isinstance(error, NOT_THE_SYSTEMS) else None
        why = f" ({os.strerror(number)})" if number is not None else ""
        raise ValueError(f"{setting}: {needs}{why}") from None


def read_secret(setting: str, path: Path) -> bytes:
    """The bytes, 32 or more, that stand in hex digits in the file that `setting` names. Raises ValueError."""
    with reading(setting, "name a file of 64 hex digits that this account may read"):
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        if len(secret) < 32:
            raise ValueError("too short")
        return secret


def listen_address(service: str) -> tuple[str, int]:
    """Host (HOST) and port (such as GATEWAY_PORT) that `service` listens on.

    Raises:
        ValueError: the port is not a number up to 65535, or the host no address of this machine.
    """
    name = f"{service.upper()}_PORT"
    port = os.environ.get(name) or str(DEFAULT_PORTS[service])
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{name} must be a port number, 0 to 65535")
    host = ServiceSettings().host
    with reading("HOST", "name an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"):
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    return host, int(port)
