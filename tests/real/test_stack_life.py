"""Starting, healing and stopping a stack, shown on Kafka alone: quick, and the rules are the same for every part."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from infra import topics
from infra.local import control, processes
from infra.local.control import State
from infra.local.instance import Instance, on_free_ports
from infra.local.settings import ROOT
from shared.topics import TOPICS
from tests.polling import eventually
from tests.running_stack import Stack


@contextmanager
def command(instance: Instance, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`./mymacro words…` for this instance; whatever it started is gone afterwards."""
    env = {**os.environ, **instance.environment()}
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.local.cli", *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job would hand down "ignore".
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        control.stop(instance)


def finished(instance: Instance, *words: str) -> tuple[int, str]:
    """Exit code and output of a whole command."""
    env = {**os.environ, **instance.environment()}
    command = [sys.executable, "-m", "infra.local.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def kafka_alone(folder: Path) -> Instance:
    return on_free_ports(folder, only="kafka")


async def test_up_twice_and_down_twice(tmp_path: Path):
    instance = kafka_alone(tmp_path / "with space and é")
    try:
        code, said = finished(instance, "up")
        assert code == 0, said
        assert "ready" in said
        first = control.state(instance)
        assert finished(instance, "up")[0] == 0
        second = control.state(instance)
        assert first is not None
        assert second is not None
        assert first.pid("kafka") == second.pid("kafka")
        assert finished(instance, "status")[0] == 0
        assert "stopped" in finished(instance, "down")[1]
        assert processes.marked(instance.data) == []
        assert "nothing was running" in finished(instance, "down")[1]
        assert finished(instance, "status")[0] == 1
    finally:
        control.stop(instance)


async def test_the_topics_are_there_and_made_once(kafka: Stack):
    assert await topics.create([kafka.bootstrap_servers]) == []
    admin = AIOKafkaAdminClient(bootstrap_servers=[kafka.bootstrap_servers])
    await admin.start()
    try:
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
    finally:
        await admin.close()
    for topic in TOPICS:
        assert found[topic.name] == topic.partitions
        assert {topic.dead_letters(reader) for reader in topic.readers} <= found.keys()


async def test_a_killed_process_comes_back_and_is_reported(kafka: Stack):
    before = kafka.state.processes["kafka"]["restarts"]
    killed = kafka.kill("kafka")

    def back() -> State | None:
        state = kafka.state
        broker = state.processes["kafka"]
        return state if broker["state"] == "ready" and broker["pid"] != killed else None

    state = await eventually(back, seconds=40)
    assert state is not None
    assert state.processes["kafka"]["restarts"] == before + 1
    assert state.processes["kafka"]["last_end"] == "killed by SIGKILL"


async def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_works(tmp_path: Path):
    instance = kafka_alone(tmp_path)
    try:
        assert finished(instance, "up")[0] == 0
        state = control.state(instance)
        assert state is not None
        os.kill(state.supervisor, signal.SIGKILL)
        await eventually(lambda: not processes.marked(instance.data), seconds=10)
        code, said = finished(instance, "up")
        assert code == 0, said
    finally:
        control.stop(instance)
    assert processes.marked(instance.data) == []


async def test_ctrl_c_before_ready_stops_everything(tmp_path: Path):
    instance = kafka_alone(tmp_path)
    with command(instance, "up") as process:
        await eventually(lambda: processes.marked(instance.data), seconds=20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not control.running(instance)
        assert processes.marked(instance.data) == []


async def test_killing_the_launcher_before_ready_leaves_no_orphan(tmp_path: Path):
    instance = kafka_alone(tmp_path)
    with command(instance, "up") as process:
        await eventually(lambda: processes.marked(instance.data), seconds=20)
        process.kill()
        await eventually(lambda: not control.running(instance) and not processes.marked(instance.data), seconds=20)
        assert not control.running(instance)
        assert processes.marked(instance.data) == []


async def test_foreground_stays_until_ctrl_c(tmp_path: Path):
    instance = kafka_alone(tmp_path)
    with command(instance, "up", "--foreground") as process:
        await eventually(lambda: (state := control.state(instance)) and state.phase == "ready", seconds=60)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert processes.marked(instance.data) == []


async def test_a_taken_port_is_one_sentence(kafka: Stack, tmp_path: Path):
    taken = kafka.instance.settings.kafka_port
    other = on_free_ports(tmp_path, only="kafka", kafka_port=taken)
    code, said = finished(other, "up")
    assert code == 1
    sentence = f"Port {taken} is taken by another program; stop it, or choose another with MYMACRO_KAFKA_PORT."
    assert said.strip().splitlines() == [sentence]
