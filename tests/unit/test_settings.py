"""Settings as the environment gives them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from faststream.kafka.security import parse_security
from pydantic import ValidationError

from services.auth.settings import Settings as AuthSettings
from services.gateway.settings import Settings as GatewaySettings
from shared.kafka import make_broker
from shared.kafka_access import client_arguments, security
from shared.mounts import network_filesystem
from shared.settings import ServiceSettings, listen_address
from shared.start import wait_for_kafka
from tests import dialled
from tests.polling import eventually

SASL = ("KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")


def test_brokers_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2,")
    assert ServiceSettings().bootstrap_servers == ["a:1", "b:2"]


def test_each_service_has_its_file_in_the_database_folder() -> None:
    settings = ServiceSettings(database_url="sqlite:////data/my db")
    assert settings.database_path("ingest") == Path("/data/my db/ingest.sqlite")
    assert ServiceSettings(database_url="sqlite:///rel").database_path("auth") == Path("rel/auth.sqlite")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgres://db"),
        ("DATABASE_URL", "sqlite:///"),
        ("KAFKA_HEARTBEAT_MS", "0"),
        ("KAFKA_HEARTBEAT_MS", "soon"),
        ("LOG_LEVEL", "LOUD"),
        ("TRACE_FORCE", "perhaps"),
    ],
)
def test_bad_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        ServiceSettings()


def test_a_misspelt_setting_in_code_is_refused() -> None:
    with pytest.raises(ValidationError):
        ServiceSettings(kafka_servers="a:1")


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert ServiceSettings().database_url == "sqlite:///.mymacro/data/db"


def test_a_service_listens_where_its_port_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listen_address("gateway") == ("127.0.0.1", 8080)
    monkeypatch.setenv("GATEWAY_PORT", "18080")
    monkeypatch.setenv("HOST", "127.0.0.2")
    assert listen_address("gateway") == ("127.0.0.2", 18080)


@pytest.mark.parametrize("port", ["http", "-1", "65536", "8080.5"])
def test_a_port_is_a_number(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("GATEWAY_PORT", port)
    with pytest.raises(ValueError, match="GATEWAY_PORT must be a port number"):
        listen_address("gateway")


async def test_a_broker_is_dialled_without_the_brackets_of_its_address() -> None:
    settings = ServiceSettings(kafka_bootstrap_servers="[::1]:9")
    with dialled.counted() as found:
        waiting = asyncio.create_task(wait_for_kafka(settings.bootstrap_servers))
        await eventually(lambda: "::1" in found.addresses)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert waiting.cancelled()


@pytest.mark.parametrize("brokers", ["", " , ", "kafka", "kafka:", "kafka:9092,b", "a:1,user@b:2", "a:1 b:2"])
def test_brokers_are_hosts_with_ports(brokers: str) -> None:
    with pytest.raises(ValidationError, match="host:port of each broker"):
        ServiceSettings(kafka_bootstrap_servers=brokers)


def test_a_process_is_called_by_its_instance_or_its_service() -> None:
    assert ServiceSettings().named("ingest") == "ingest"
    assert ServiceSettings(instance="ingest-2").named("ingest") == "ingest-2"
    assert make_broker(ServiceSettings(instance="ingest-2"), "ingest").config.client_id == "mymacro-ingest-2"
    with pytest.raises(ValidationError, match="instance"):
        ServiceSettings(instance="ingest 2")


def gateway(**settings: Any) -> GatewaySettings:
    return GatewaySettings(**settings)


def test_the_processes_of_a_service_are_a_list() -> None:
    urls = gateway(gateway_ingest_url="http://10.0.0.1:8102/, http://[::1]:8202,http://10.0.0.1:8102").upstream_urls
    assert urls["ingest"] == ("http://10.0.0.1:8102", "http://[::1]:8202")
    assert urls["auth"] == ("http://127.0.0.1:8101",)


@pytest.mark.parametrize(
    "text", ["", ",", "ingest:8102", "ftp://ingest", "http://a/v1", "http://user:word@a", "http://a?b"]
)
def test_what_is_no_address_of_a_service_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="gateway_ingest_url"):
        gateway(gateway_ingest_url=text)


def test_a_redis_is_named_as_one() -> None:
    with pytest.raises(ValidationError, match="gateway_rates_url") as refused:
        gateway(gateway_rates_url="http://:secret@redis")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "settings", "names"),
    [
        (gateway, {"gateway_instances": 2}, ("GATEWAY_INSTANCES", "GATEWAY_RATES_URL")),
        (gateway, {"gateway_ingest_url": "http://127.0.0.1:8101"}, ("GATEWAY_AUTH_URL", "GATEWAY_INGEST_URL")),
        (
            gateway,
            {"gateway_auth_url": "http://localhost:8101", "gateway_ingest_url": "http://LOCALHOST:8101"},
            ("GATEWAY_AUTH_URL", "GATEWAY_INGEST_URL"),
        ),
        (
            gateway,
            {"gateway_auth_url": "https://a:443,http://b", "gateway_ingest_url": "http://B:80/"},
            ("GATEWAY_AUTH_URL", "GATEWAY_INGEST_URL"),
        ),
        (AuthSettings, {"token_issuer": "issuer"}, ("AUTH_PUBLIC_URL", "TOKEN_ISSUER")),
        (AuthSettings, {"token_issuer": "http://example.org/auth"}, ("AUTH_PUBLIC_URL", "TOKEN_ISSUER")),
        (ServiceSettings, {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "u"}, SASL),
        (ServiceSettings, {"kafka_sasl_username": "u", "kafka_sasl_password": "p"}, SASL),
        (
            ServiceSettings,
            {"kafka_security_protocol": "PLAINTEXT", "kafka_ssl_ca_path": "ca.pem"},
            ("KAFKA_SECURITY_PROTOCOL", "KAFKA_SSL_CA_PATH"),
        ),
        (ServiceSettings, {"kafka_heartbeat_ms": 6000}, ("KAFKA_HEARTBEAT_MS", "KAFKA_SESSION_TIMEOUT_MS")),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    make: Any, settings: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        make(**settings)
    (error,) = refused.value.errors()
    assert error["loc"] == ()
    assert " and ".join(names) in error["msg"]


def test_settings_that_fit_are_taken() -> None:
    assert gateway(gateway_instances=2, gateway_rates_url="redis://127.0.0.1:6379").gateway_instances == 2
    assert AuthSettings(token_issuer="issuer", auth_public_url="https://api.example.org").token_issuer == "issuer"


def test_a_folder_on_the_network_is_known_by_its_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    shared = tmp_path / "my share"
    lines = ["/dev/sda / ext4 rw 0 0", f"nas:/x {str(shared).replace(' ', chr(92) + '040')} nfs4 rw 0 0"]
    lines.append(f"/dev/sdb {str(shared / 'disk').replace(' ', chr(92) + '040')} ext4 rw 0 0")
    mounts.write_text("\n".join(lines) + "\n")
    assert network_filesystem(shared / "db", mounts) == "nfs4"
    assert network_filesystem(shared / "disk" / "db", mounts) is None
    assert network_filesystem(tmp_path / "my share and more", mounts) is None
    assert network_filesystem(shared, tmp_path / "none") is None


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_all_clients_of_kafka_get_in_alike(protocol: Any, mechanism: Any) -> None:
    user: dict[str, Any] = (
        {"kafka_sasl_username": "u", "kafka_sasl_password": "p"} if protocol.startswith("SASL") else {}
    )
    settings = ServiceSettings(kafka_security_protocol=protocol, kafka_sasl_mechanism=mechanism, **user)
    found, of_faststream = client_arguments(settings), parse_security(security(settings))
    for arguments in (found, of_faststream):
        assert (arguments.pop("ssl_context", None) is not None) == protocol.endswith("SSL")
    assert found == of_faststream
    assert ("sasl_plain_password" in found) == protocol.startswith("SASL")
