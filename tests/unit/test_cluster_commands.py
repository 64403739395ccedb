"""What commands say where a cluster can't start, and what they mean by names."""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import brokers, lock, operating, rolling
from infra.local.control import State
from infra.local.demo import victim_unknown
from infra.local.instance import free_ports, on_free_ports
from infra.local.parts import all_parts
from infra.local.settings import ROOT
from infra.local.stack import StackError, Supervisor
from shared.keys import generate_key_files


def said(*words: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of `./mymacro words…`."""
    command = [sys.executable, "-m", "infra.local.cli", *words]
    env = {**os.environ, "MYMACRO_NAMED": "", **environment}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def folders(tmp_path: Path) -> dict[str, str]:
    return {"MYMACRO_DATA": str(tmp_path / "one"), "MYMACRO_CLUSTER_DATA": str(tmp_path / "several")}


def test_without_redis_a_cluster_says_what_to_install(tmp_path: Path):
    code, text = said("up", "--cluster", PATH=str(tmp_path), **folders(tmp_path))
    assert code == 1
    assert text == (
        "A cluster needs redis-server, and there is none on PATH; install it (apt-get install redis-server)."
    )
    assert not (tmp_path / "several").exists()


def test_a_cluster_does_not_start_beside_the_embedded_stack(tmp_path: Path):
    held = lock.hold(tmp_path / "one" / "run")
    assert held is not None
    with held:
        code, text = said("up", "--cluster", **folders(tmp_path))
    assert (code, text) == (1, "The stack runs already, one of each; stop it first with ./mymacro down.")


@pytest.mark.parametrize(
    "field", ["gateway", "gateway_2", "ingest_3", "kafka_2", "kafka_3_controller", "redis", "otlp"]
)
def test_a_taken_port_is_one_sentence_that_names_its_setting(tmp_path: Path, field: str):
    instance = on_free_ports(tmp_path, cluster=True)
    instance.run.mkdir(parents=True)
    supervisor = Supervisor(instance, all_parts(instance))
    supervisor._check()  # pyright: ignore[reportPrivateUsage]
    port = getattr(instance.settings, f"{field}_port")
    sentence = f"Port {port} is taken by another program; stop it, or choose another with MYMACRO_{field.upper()}_PORT."
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StackError) as raised:
        supervisor._check()  # pyright: ignore[reportPrivateUsage]
    assert str(raised.value) == sentence


def a_state(*names: str) -> State:
    processes = {name: {"pid": number, "state": "ready"} for number, name in enumerate(names, start=1)}
    return State(0, "ready", "", [], 0.0, 1.0, "", {}, processes)


CLUSTER = ("kafka-1", "kafka-2", "redis", "triton", "gateway-1", "ingest-1", "gateway-2", "ingest-2")


def test_what_there_is_several_of_is_restarted_brokers_first_and_the_doors_last():
    state = a_state(*CLUSTER)
    all_of_them = ["kafka-1", "kafka-2", "ingest-1", "ingest-2", "gateway-1", "gateway-2"]
    assert rolling.named(state) == all_of_them
    assert rolling.named(state, ["ingest", "kafka-2", "redis"]) == ["kafka-2", "redis", "ingest-1", "ingest-2"]
    with pytest.raises(StackError, match="There is no process 'ingest-9'; there are kafka-1, "):
        rolling.named(state, ["ingest-9"])


def test_a_kind_means_the_first_of_its_processes():
    state = a_state(*CLUSTER)
    assert state.pid("ingest") == state.pid("ingest-1") == 6
    assert state.kinds == {"kafka", "redis", "triton", "gateway", "ingest"}
    assert a_state("ingest").pid("ingest") == 1


def test_restarting_everything_at_once_is_not_what_restart_does(tmp_path: Path):
    code, text = said("restart", **folders(tmp_path))
    assert code == 1
    assert "Say --rolling" in text
    code, text = said("restart", "--rolling", **folders(tmp_path))
    assert (code, text) == (1, "The stack is not running; start it with ./mymacro up.")


def test_what_operators_ask_is_answered_by_another_process_when_the_first_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"asked": true}'
            self.send_response(200 if self.path == "/known" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    generate_key_files(tmp_path)
    monkeypatch.setenv("GATEWAY_INTERNAL_KEY_PATH", str(tmp_path / "internal.jwk"))
    gone, gone_too = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GATEWAY_AUTH_URL", f"{gone}, {there}")
        assert operating.asked("auth", "GET", "/known") == {"asked": True}
        monkeypatch.setenv("GATEWAY_AUTH_URL", f"{there},{gone}")
        with pytest.raises(operating.NoAnswer, match="answers 404"):
            operating.asked("auth", "GET", "/unknown")
        server.shutdown()
    monkeypatch.setenv("GATEWAY_AUTH_URL", f"{gone},{gone_too}")
    with pytest.raises(operating.Silent, match="does not answer"):
        operating.asked("auth", "GET", "/known")


async def test_where_no_broker_answers_that_is_said():
    servers = ",".join(f"127.0.0.1:{port}" for port in free_ports(3))
    for question in (brokers.readers(servers), brokers.lacking(servers)):
        with pytest.raises(brokers.NoAnswer, match="does not answer"):
            await question


@pytest.mark.parametrize(
    ("processes", "name", "known"),
    [
        (("gateway", "ingest", "otlp"), "ingest-2", "gateway, ingest, triton-stub"),
        (("ingest-1", "ingest-2"), "ingest-3", "ingest, ingest-1, ingest-2, triton-stub"),
        (("ingest-1", "redis"), "redis", "ingest, ingest-1, triton-stub"),
    ],
)
def test_a_story_kills_nobody_who_is_not_there(processes: tuple[str, ...], name: str, known: str):
    state = State(1, "ready", "", [], 0.0, 1.0, "", {}, {process: {} for process in processes})
    assert victim_unknown(name, state) == f"There is no process {name!r} to kill; there are {known}."
    assert victim_unknown("ingest", state) == ""
