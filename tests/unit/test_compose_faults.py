"""Everything docker-compose.yml names is there, and mistakes planted in a copy of it are found."""

from typing import Any

import pytest

from infra.docker import make_secrets
from tests.unit.composed import SERVICES, composed, faults


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return make_secrets.make(tmp_path_factory.mktemp("secrets"))


def changed(container: str, key: str, old: str, new: str) -> dict[str, Any]:
    """The file with a text replaced wherever it stands under `key` of a container."""
    planted = composed()
    before = planted["services"][container][key]
    planted["services"][container][key] = _changed(before, old, new)
    assert planted["services"][container][key] != before
    return planted


def _changed(within: Any, old: str, new: str) -> Any:
    if isinstance(within, dict):
        return {name: _changed(one, old, new) for name, one in within.items()}
    if isinstance(within, list):
        return [_changed(one, old, new) for one in within]
    return within.replace(old, new) if isinstance(within, str) else within


def varied(container: str, **variables: str | None) -> dict[str, Any]:
    """The file with some of a container's variables changed, or, with None, left out."""
    planted = composed()
    given = planted["services"][container]["environment"] | variables
    planted["services"][container]["environment"] = {name: text for name, text in given.items() if text is not None}
    return planted


def test_everything_the_file_names_is_there(secrets: dict[str, dict[str, str]]) -> None:
    assert faults(composed(), secrets) == []


@pytest.mark.parametrize(
    ("container", "variables", "said"),
    [
        ("ingest", {"INGST_PORT": "8102"}, "there is no setting INGST_PORT"),
        ("ingest", {"INGEST_PORT": None}, "its health check does not know its port"),
        ("gateway", {"GATEWAY_AUTH_URL": None}, "GATEWAY_AUTH_URL is not given"),
        ("nutrition", {"KAFKA_BOOTSTRAP_SERVERS": None}, "KAFKA_BOOTSTRAP_SERVERS is not given"),
        ("webhooks", {"SECRETS_KEY_PATH": None}, "SECRETS_KEY_PATH is not given"),
        *(
            (service, {"INTERNAL_JWKS_PATH": None}, "INTERNAL_JWKS_PATH is not given")
            for service in SERVICES
            if service != "gateway"
        ),
        ("gateway", {"GATEWAY_INGEST_URL": "http://ingest:8103"}, "nobody listens at ingest:8103"),
        ("gateway", {"GATEWAY_INGEST_URL": "http://ingst:8102"}, "nobody listens at ingst:8102"),
        ("gateway", {"GATEWAY_INGEST_URL": "http://auth:8101"}, "GATEWAY_INGEST_URL does not lead to ingest:8102"),
        ("inference", {"INFERENCE_TRITON_URL": "triton:8000"}, "INFERENCE_TRITON_URL does not lead to triton:8001"),
        ("auth", {"AUTH_PORT": "8102"}, "its health check does not know its port"),
        ("auth", {"AUTH_PEPPER_PATH": "/run/secrets/peper.key"}, "it has no /run/secrets/peper.key"),
        ("auth", {"AUTH_MAIL_FOLDER": "/var/mail"}, "it has no /var/mail"),
        ("auth", {"AUTH_MAIL_FOLDER": "/tmp/mail"}, "it has no /tmp/mail"),  # noqa: S108 - the one that is planted
        ("gateway", {"GATEWAY_DISK_PATH": "/mnt/kafkas"}, "it has no /mnt/kafkas"),
        ("kafka", {"KAFKA_LOG_DIRS": "/var/lib/kafka/dat"}, "it has no /var/lib/kafka/dat"),
        ("grafana", {"GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/password"}, "it has no /run/secrets/password"),
        (
            "kafka",
            {"KAFKA_LISTENERS": "PLAINTEXT://:9094,CONTROLLER://127.0.0.1:9093"},
            "it does not listen at 9092, which it tells of",
        ),
        (
            "kafka",
            {"KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://127.0.0.1:9095"},
            "its voter is not its controller",
        ),
        ("kafka", {"KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9094"}, "nobody listens at kafka:9094"),
    ],
)
def test_a_wrong_or_missing_variable_is_found(
    container: str, variables: dict[str, str | None], said: str, secrets: dict[str, dict[str, str]]
) -> None:
    assert f"{container}: {said}" in faults(varied(container, **variables), secrets)


@pytest.mark.parametrize(
    ("container", "old", "new"),
    [("gateway", ":8080", ":8081"), ("grafana", ":3000", ":3001"), ("jaeger", ":16686", ":16687")],
)
def test_a_published_port_where_nobody_listens_is_found(
    container: str, old: str, new: str, secrets: dict[str, dict[str, str]]
) -> None:
    planted = composed()
    (port,) = planted["services"][container]["ports"]
    planted["services"][container]["ports"] = [port.removesuffix(old) + new]
    assert faults(planted, secrets) == [f"{container}: it publishes {new[1:]}, where it does not listen"]
    planted["services"][container]["ports"] = [{"target": int(new[1:]), "published": old[1:]}]
    assert faults(planted, secrets) == [f"{container}: it publishes {new[1:]}, where it does not listen"]


@pytest.mark.parametrize(
    ("container", "old", "new", "said"),
    [
        ("kafka", ":9092", ":9093", "its health check asks ['127.0.0.1:9093'], not ['127.0.0.1:9092']"),
        ("kafka", "broker-api", "brokers-api", "it has no /opt/kafka/bin/kafka-brokers-api-versions.sh"),
        ("objects", "objects-ready", "object-ready", "it has no /etc/mymacro/object-ready.sh"),
        ("mongo", "mongo-ready", "mongo-redy", "it has no /etc/mymacro/mongo-redy.js"),
        ("redis", "secrets/password", "secrets/pasword", "it has no /run/secrets/pasword"),
        ("grafana", "/api/health", "/api/healthz", "/api/healthz"),
        ("jaeger", "/status", "/stats", "/stats"),
        ("jaeger", ":13133", ":16686", ":16686/status"),
        ("prometheus", "/-/healthy", "/-/health", "/-/health'"),
    ],
)
def test_a_health_check_that_asks_for_what_is_not_there_is_found(
    container: str, old: str, new: str, said: str, secrets: dict[str, dict[str, str]]
) -> None:
    found = faults(changed(container, "healthcheck", old, new), secrets)
    assert [fault for fault in found if fault.startswith(f"{container}: ") and said in fault] != []


def test_a_file_that_a_command_names_and_nobody_mounts_is_found(secrets: dict[str, dict[str, str]]) -> None:
    planted = changed("prometheus", "command", "prometheus.yml", "prometheus.yaml")
    assert faults(planted, secrets) == ["prometheus: it has no /etc/mymacro/prometheus.yaml"]
    planted = changed("redis", "command", "users.acl", "user.acl")
    assert faults(planted, secrets) == ["redis: it has no /run/secrets/user.acl"]


def test_a_misspelt_container_is_found(secrets: dict[str, dict[str, str]]) -> None:
    planted = composed()
    planted["services"]["ingst"] = planted["services"].pop("ingest")
    assert faults(planted, secrets) == ["ingest is no container"]


def test_a_file_of_the_checkout_that_is_not_there_is_found(secrets: dict[str, dict[str, str]]) -> None:
    planted = changed("collector", "volumes", "docker/collector", "docker/colector")
    assert faults(planted, secrets) == ["collector: it has no /etc/mymacro/collector.yaml"]


def test_a_container_on_another_network_is_found(secrets: dict[str, dict[str, str]]) -> None:
    planted = composed()
    planted["services"]["redis"]["networks"] = ["elsewhere"]
    planted["services"]["topics"]["networks"] = ["elsewhere"]
    assert "topics: kafka is on none of its networks" in faults(planted, secrets)
