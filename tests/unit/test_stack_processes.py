"""Starting and keeping one process: restart, back-off, giving up on one that does not answer, stopping."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local import keeper as keeper_module
from infra.local import processes
from infra.local.keeper import Keeper
from infra.local.parts import SERVICE, Part, http_ok
from tests.polling import eventually

FOREVER = "import time\nwhile True: time.sleep(60)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + (
    "while True: time.sleep(60)"
)
WITH_CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {FOREVER!r}])"


async def always() -> bool:
    return True


def part(tmp_path: Path, program: str, *, ready=always, give_up_after: int = 0) -> Part:
    return Part(
        name="it",
        port=0,
        command=[sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, processes.MARK: str(tmp_path)},
        ready=ready,
        stage=SERVICE,
        give_up_after=give_up_after,
    )


@pytest.fixture
def changes() -> list[str]:
    return []


def keep(part: Part, tmp_path: Path, changes: list[str]) -> Keeper:
    kept = Keeper(part, tmp_path / "it.log", lambda: changes.append(kept.status.state))
    kept.start()
    return kept


async def test_a_process_becomes_ready_and_stops(tmp_path: Path, changes: list[str]):
    kept = keep(part(tmp_path, FOREVER), tmp_path, changes)
    await eventually(lambda: kept.ready)
    await kept.stop()
    assert changes == ["starting", "ready", "stopped"]
    assert kept.status.pid is None
    assert processes.marked(tmp_path) == []


async def test_a_crashed_process_is_started_again_after_growing_pauses(tmp_path: Path, changes: list[str]):
    kept = keep(part(tmp_path, "import sys; sys.exit(3)"), tmp_path, changes)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: kept.status.restarts >= 3)
    assert asyncio.get_running_loop().time() - began >= 0.5 + 1.0
    assert kept.status.last_end == "exit code 3"
    await kept.stop()


async def test_one_that_drains_before_it_ends_is_forgiven_as_one_that_does_not(
    tmp_path: Path, changes: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper_module, "PROBE_READY_S", 0.01)
    monkeypatch.setattr(keeper_module, "STEADY_S", 0.05)
    monkeypatch.setattr(keeper_module, "FIRST_BACK_OFF_S", 0.05)
    draining, probes = False, 0

    async def ready() -> bool:
        nonlocal probes
        probes += 1
        return not draining

    kept = keep(part(tmp_path, FOREVER, ready=ready), tmp_path, changes)
    # Pauses that grow would be 3.2 s before the last.
    for end in range(1, 9):
        await eventually(lambda: kept.ready, seconds=2)
        seen = probes
        await eventually(lambda seen=seen: probes > seen + 10)
        draining = True
        await eventually(lambda: kept.status.state == "not ready")
        assert kept.status.pid is not None
        os.kill(kept.status.pid, signal.SIGTERM)
        await eventually(lambda end=end: kept.status.restarts == end)
        draining = False
    await kept.stop()


async def test_what_the_process_started_goes_with_it(tmp_path: Path, changes: list[str]):
    kept = keep(part(tmp_path, WITH_CHILD), tmp_path, changes)
    await eventually(lambda: len(processes.marked(tmp_path)) == 2)
    pid = kept.status.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: kept.status.restarts == 1)
    assert kept.status.last_end == "killed by SIGKILL"
    await eventually(lambda: processes.marked(tmp_path) == [])
    await kept.stop()


async def test_one_that_stops_answering_is_killed_and_started_again(
    tmp_path: Path, changes: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper_module, "PROBE_READY_S", 0.02)
    answers = iter([True, False, False, False])

    async def ready() -> bool:
        return next(answers, True)

    kept = keep(part(tmp_path, FOREVER, ready=ready, give_up_after=3), tmp_path, changes)
    await eventually(lambda: kept.status.restarts == 1)
    assert kept.status.last_end == "failed 3 probes"
    await eventually(lambda: kept.ready)
    await kept.stop()


async def test_one_that_is_never_ready_is_started_again_when_its_time_is_over(tmp_path: Path, changes: list[str]):
    async def never() -> bool:
        return False

    kept = keep(replace(part(tmp_path, FOREVER, ready=never), start_s=0.3), tmp_path, changes)
    await eventually(lambda: kept.status.restarts == 1)
    assert kept.status.last_end == "not ready within 0 s"
    await kept.stop()


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, changes: list[str]):
    kept = keep(replace(part(tmp_path, STUBBORN), stop_s=0.3), tmp_path, changes)
    await eventually(lambda: "deaf" in (tmp_path / "it.log").read_text() if kept.ready else False)
    await kept.stop()
    assert kept.status.state == "stopped"
    assert processes.marked(tmp_path) == []


async def test_a_program_that_is_not_there_is_reported(tmp_path: Path, changes: list[str]):
    missing = part(tmp_path, "")
    missing.command[0] = str(tmp_path / "missing")
    kept = keep(missing, tmp_path, changes)
    await eventually(lambda: kept.status.restarts >= 1)
    assert kept.status.last_end.startswith("could not start")
    await kept.stop()


async def test_readiness_is_a_200(tmp_path: Path):
    answers = {"/readyz": b"200 OK", "/broken": b"503 Service Unavailable"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        writer.write(b"HTTP/1.1 " + answers[path] + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await http_ok(port)
        assert not await http_ok(port, "/broken")
    assert not await http_ok(port)


def test_memory_and_groups_of_no_process_are_empty():
    assert processes.group(-1) == []
    assert processes.resident_bytes([-1]) == 0
    assert processes.resident_bytes([os.getpid()]) > 1_000_000
