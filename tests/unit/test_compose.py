"""docker-compose.yml against the code: services start with what it gives them, and containers are what they must be."""

import http.server
import importlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Route

from infra import topics as topic_maker
from infra.docker import make_secrets, ready
from infra.local import kafka
from infra.local.settings import ROOT, StackSettings
from shared.settings import DEFAULT_PORTS, ServiceSettings
from tests.unit.composed import SECRETS, SERVICES, composed, environment, networks, settings_of, value, volumes

# Run once or by hand, or, the collector, from an image with neither a shell nor a client.
NOT_ASKED = {"setup", "topics", "operator", "collector"}
# Variables of the file that are neither settings of services nor of the local stack.
ITS_OWN = {"JAEGER_PORT", "GRAFANA_PORT"}
# Where a container's broker has to differ from one on loopback.
ADDRESSES = {"listeners", "log.dirs", "controller.quorum.bootstrap.servers"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return make_secrets.make(tmp_path_factory.mktemp("secrets"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_what_it_is_given(
    service: str, secrets: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = _given(service, secrets[service], monkeypatch, tmp_path)
    assert settings.bootstrap_servers == ["kafka:9092"]
    assert settings.objects_s3_access_key_id == secrets[service]["objects_s3_access_key_id"]
    assert service == "gateway" or settings.database_url.startswith(f"mongodb://{service}:")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_what_its_health_check_asks(
    service: str, secrets: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert composed()["services"][service]["build"]["args"] == {"SERVICE": service}
    settings = _given(service, secrets[service], monkeypatch, tmp_path)
    app = importlib.import_module(f"services.{service}.app").create_app(settings)
    assert "/readyz" in {route.path for route in app.routes if isinstance(route, Route)}


def _given(service: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> ServiceSettings:
    """A service's settings from the file's variables alone, its secrets in `folder`."""
    fields = settings_of(service).model_fields
    for name in list(os.environ):
        if name.lower() in fields:
            monkeypatch.delenv(name)
    for name, text in environment(composed(), service).items():
        monkeypatch.setenv(name, text.replace(SECRETS.rstrip("/"), str(folder)))
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o600)
    return settings_of(service)(_secrets_dir=str(folder))  # type: ignore[call-arg]  # pydantic-settings' own


def test_each_container_has_its_own_secrets_alone() -> None:
    compose = composed()
    made = volumes(compose, "setup")
    for container in compose["services"]:
        mounted = volumes(compose, container).get(SECRETS.rstrip("/"))
        expected = "gateway" if container == "operator" else container
        assert mounted in (None, f"{expected}-secrets")
        assert mounted is None or made[f"/secrets/{expected}"] == mounted
    assert set(compose["volumes"]) == {
        source for one in compose["services"] for source in volumes(compose, one).values() if not source.startswith(".")
    }


def test_files_that_are_mounted_are_there() -> None:
    compose = composed()
    mounted = {source for one in compose["services"] for source in volumes(compose, one).values()}
    assert [source for source in mounted if source.startswith(".") and not (ROOT / source).exists()] == []


def test_containers_can_do_no_more_than_they_must_and_have_time_to_end() -> None:
    compose = composed()
    for name, container in compose["services"].items():
        assert container["cap_drop"] == ["ALL"], name
        assert container["security_opt"] == ["no-new-privileges:true"], name
        assert set(container["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert all(value(port).startswith("127.0.0.1:") for port in container.get("ports", []))
        if name in SERVICES:
            assert container["read_only"] is True
            # What DRAIN_S says of whoever stops a service.
            drained = float(environment(compose, name)["DRAIN_S"])
            assert float(container["stop_grace_period"].removesuffix("s")) >= drained + 15
            assert "user" not in container  # the image's, which is not root
    assert {name for name, container in compose["services"].items() if "ports" in container} == {
        "gateway",
        "jaeger",
        "grafana",
    }
    assert [name for name, network in compose["networks"].items() if network != {"internal": True}] == ["outside"]
    assert {name for name in compose["services"] if "storage" in networks(compose, name)} == {"objects", *SERVICES}


def test_our_images_are_built_and_those_of_others_are_exact_versions() -> None:
    containers = composed()["services"].values()
    built = {container["image"] for container in containers if "build" in container}
    for container in containers:
        image = container["image"]
        if image.startswith("mymacrotracker/"):
            assert image in built
            # Anybody may publish under that name.
            assert container["pull_policy"] == "never"
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image)


def test_every_container_that_stays_is_asked_how_it_is() -> None:
    compose = composed()
    built = {name for name, one in compose["services"].items() if "build" in one} - NOT_ASKED
    assert {name for name, one in compose["services"].items() if "healthcheck" not in one} == built | NOT_ASKED
    for name in built:
        dockerfile = compose["services"][name]["build"].get("dockerfile", "Dockerfile")
        assert "HEALTHCHECK" in (ROOT / dockerfile).read_text()
    # Who is waited for until it is healthy has a check.
    for one in compose["services"].values():
        for needed, how in one.get("depends_on", {}).items():
            assert (how["condition"] == "service_healthy") == (needed not in NOT_ASKED)


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    made = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_the_health_check_says_what_readyz_says(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGEST_PORT", str(server.server_port))
    assert ready.ready("ingest")
    monkeypatch.setattr(_Answers, "status", 503)
    assert not ready.ready("ingest")
    monkeypatch.setenv("INGEST_PORT", "1")
    assert not ready.ready("ingest")


def test_the_broker_is_set_as_the_local_one(tmp_path: Path) -> None:
    kafka.prepare(kafka.Node(tmp_path, tmp_path, 256, ((9092, 9093),)))
    lines = (tmp_path / "server.properties").read_text().splitlines()
    local = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    given = environment(composed(), "kafka")
    named = {name.removeprefix("KAFKA_").lower().replace("_", "."): text for name, text in given.items()}
    assert {name: named.get(name) for name in local if name not in ADDRESSES} == {
        name: text for name, text in local.items() if name not in ADDRESSES
    }


def test_topics_are_made_before_services_start() -> None:
    compose = composed()
    assert compose["services"]["topics"]["command"] == ["python", "-m", topic_maker.__name__]
    code = Path(topic_maker.__file__).read_text()
    fields = ServiceSettings.model_fields
    assert all(f'"{name}"' in code or name.lower() in fields for name in environment(compose, "topics"))
    for service in SERVICES:
        assert {"topics", "setup"} <= set(compose["services"][service]["depends_on"])


def test_variables_of_the_file_are_settings() -> None:
    known = {f"MYMACRO_{name.upper()}" for name in StackSettings.model_fields} | ITS_OWN
    for service in SERVICES:
        known |= {name.upper() for name in settings_of(service).model_fields}
    assert set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text())) <= known


def test_prometheus_asks_every_service() -> None:
    jobs = yaml.safe_load((ROOT / "infra/docker/prometheus.yml").read_text())["scrape_configs"]
    asked = {tuple(place["names"]): place["port"] for job in jobs for place in job.get("dns_sd_configs", [])}
    assert asked == {(service,): port for service, port in DEFAULT_PORTS.items()} | {("triton",): 8002}


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no docker client with the compose plugin")
    config = [docker, "compose", "--profile", "gpu", "--profile", "tools", "--project-directory", str(ROOT)]
    assert subprocess.run([*config, "config", "--quiet"], cwd=ROOT, check=False).returncode == 0
    planted = tmp_path / "planted.yml"
    planted.write_text((ROOT / "docker-compose.yml").read_text().replace("\n    command:", "\n    comand:", 1))
    said = subprocess.run([*config, "--file", str(planted), "config", "--quiet"], capture_output=True, check=False)
    assert b"comand" in said.stderr
