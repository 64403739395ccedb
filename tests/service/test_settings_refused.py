"""Every setting that cannot be read is refused at the start, by its name and without its value."""

import asyncio
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from shared import telemetry
from shared.keys import generate_key_files
from shared.service import serve
from shared.settings import DEFAULT_PORTS, RULES, ServiceSettings

ROOT = Path(__file__).parents[2]
NONSENSE = "n0n5en5e/[::zz]:87654"
# Any text will do, or what is there is looked at again and again while the service runs.
FREE = {
    "KAFKA_SASL_USERNAME": "a user's name",
    "KAFKA_SASL_PASSWORD": "a password",
    "OBJECTS_S3_ACCESS_KEY_ID": "a key",
    "OBJECTS_S3_SECRET_ACCESS_KEY": "a password",
    "INTERNAL_JWKS_PATH": "read again whenever it changes; without it services answer 503",
    "HOST": "asked of the system, where tests may not look names up: below",
    "GATEWAY_DISK_PATH": "watched; what cannot be looked at counts as full",
    "AUTH_MAIL_FOLDER": "made with the first letter",
    "TOKEN_AUDIENCE": "any text that auth and gateway share",
    "TOKEN_ISSUER": "at the gateway: any text that auth and gateway share",
}
# What makes a setting be looked at.
BESIDE = {
    "KAFKA_SSL_CA_PATH": {"KAFKA_SECURITY_PROTOCOL": "SSL"},
    "OBJECTS_S3_SECRET_ACCESS_KEY_PATH": {"OBJECTS_URL": "s3://pictures", "OBJECTS_S3_ACCESS_KEY_ID": "id"},
}

OTHER_NONSENSE = [
    ("webhooks", "WEBHOOKS_ALLOW_CIDRS", "10.0.0.9/8"),
    ("webhooks", "WEBHOOKS_ALLOW_PORTS", "87654"),
    ("webhooks", "WEBHOOKS_ALLOW_PORTS", "https"),
    ("webhooks", "WEBHOOKS_OWN_HOSTS", "example.org,host/b"),
    ("gateway", "GATEWAY_TRUSTED_PROXIES", "proxy.example.org"),
    ("gateway", "GATEWAY_RATES_URL", "redis://:pass99@host:port9"),
    ("gateway", "GATEWAY_RATES_URL", "redis://:pass99@[host"),
    ("gateway", "GATEWAY_INGEST_URL", "http://ingest:87654"),
    ("gateway", "GATEWAY_PORT", "70000"),
    ("auth", "AUTH_SMTP_URL", "smtp://user:pass99@host:port9"),
    ("auth", "AUTH_SMTP_URL", "smtp://user:pass99@[host"),
    ("auth", "TOKEN_ISSUER", "https://[issuer9"),
    ("auth", "DATABASE_URL", "mongodb://user:pass99@"),
    ("auth", "DATABASE_URL", "mongodb://user:pass99@host/db?tlsCAFile=/none"),
    ("auth", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port9"),
    ("auth", "KAFKA_BOOTSTRAP_SERVERS", "kafka:87654"),
    ("auth", "OBJECTS_URL", "s3://B_ad"),
]


def _settings(service: str) -> list[str]:
    fields = import_module(f"services.{service}.settings").Settings.model_fields
    own = [name for name in fields if service == "auth" or name not in ServiceSettings.model_fields]
    return [name.upper() for name in own]


def _cases() -> Iterator[tuple[str, str, str]]:
    for service in DEFAULT_PORTS:
        for name in _settings(service):
            if name not in FREE or (service, name) == ("auth", "TOKEN_ISSUER"):
                yield service, name, NONSENSE
    yield from OTHER_NONSENSE


Refusal = Callable[[str, dict[str, str]], tuple[object, str]]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    """How a service with these settings ends, and what it says."""
    keys = tmp_path / ".mymacro" / "data" / "keys"
    keys.parent.mkdir(parents=True)
    generate_key_files(keys)
    monkeypatch.chdir(tmp_path)

    def ended(service: str, settings: dict[str, str]) -> tuple[object, str]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        app, said = import_module(f"services.{service}.app"), io.StringIO()
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            serve(app.create_app, service)
        return end.value.code, said.getvalue()

    yield ended
    telemetry.shutdown()


@pytest.mark.parametrize(("service", "name", "value"), list(_cases()))
def test_what_cannot_be_read_is_refused_by_name(refusal: Refusal, service: str, name: str, value: str) -> None:
    code, said = refusal(service, {**BESIDE.get(name, {}), name: value})
    assert code == 2
    assert re.search(rf"\b{name}\b", said)
    assert value not in said
    for part in ("n0n5en5e", "pass99", "port9", "87654", "issuer9", "proxy.example", "host/b"):
        assert part not in value or part not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("gateway", "GATEWAY_INTERNAL_KEY_PATH"),
        ("gateway", "GATEWAY_RECEIPT_KEY_PATH"),
        ("auth", "AUTH_SIGNING_KEY_PATH"),
        ("auth", "AUTH_PEPPER_PATH"),
        ("auth", "AUTH_DEMO_PARTNER_KEY_PATH"),
        ("auth", "SECRETS_KEY_PATH"),
        ("webhooks", "SECRETS_KEY_PATH"),
    ],
)
def test_a_key_file_that_holds_none_is_refused_by_the_settings_name(
    refusal: Refusal, tmp_path: Path, service: str, name: str
) -> None:
    path = tmp_path / "my-own.file"
    for content in (b"abc9", b"\xff\xfe"):
        path.write_bytes(content)
        path.chmod(0o600)
        code, said = refusal(service, {name: str(path)})
        assert (code, name in said, "my-own" in said, "abc9" in said) == (2, True, False, False), said


@pytest.mark.parametrize(
    "url", ["sqlite:////dev/null/db99", f"mongodb://user:pass99@127.0.0.1/db99?tlsCAFile={Path(__file__).resolve()}"]
)
def test_a_database_that_cannot_be_opened_ends_the_start(
    refusal: Refusal, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    code, _ = refusal("ingest", {"DATABASE_URL": url, "INGEST_PORT": "0"})
    said = capfd.readouterr().out
    assert (code, "DATABASE_URL" in said) == (3, True)
    assert not any(part in said for part in ("pass99", "db99", "Traceback", Path(__file__).name, "/dev/null"))


async def test_a_service_listens_on_an_address_of_its_own_machine(tmp_path: Path) -> None:
    address = "198.51.100.7"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOST": address}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.ingest.app"), cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(child.communicate(), 20)
    assert child.returncode == 2
    assert said.startswith(b"ingest: HOST: name an address of this machine")
    assert address.encode() not in said


def test_a_rule_names_all_its_settings_and_no_value() -> None:
    for service in DEFAULT_PORTS:
        rules = import_module(f"services.{service}.settings").Settings.rules
        assert set(RULES) <= set(rules)
        assert all(all(name in str(rule) for name in rule.settings) for rule in rules)
