"""Settings as the environment gives them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import ServiceSettings, listen_address


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
        ServiceSettings(kafka_servers="a:1")  # type: ignore[call-arg]


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
