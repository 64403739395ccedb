"""A service as a process of its own: how it starts, answers probes, and ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from shared import problems, telemetry
from shared.service import CHECK_TIMEOUT_S, install_health, serve, stop_event
from tests.polling import eventually

ROOT = Path(__file__).parents[2]


def create_app() -> FastAPI:
    """The child's app: quick, slow and endless answers, and a start that may never end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        if os.environ.get("RUNNER_HANGS"):
            sys.stdout.write("starting\n")
            sys.stdout.flush()
            await asyncio.sleep(60)  # the start that does not end
        yield
        sys.stdout.write(f"closed, stopping was {'set' if stop_event(app).is_set() else 'not set'}\n")

    app = FastAPI(lifespan=lifespan)
    problems.install(app)
    app.add_middleware(telemetry.TraceMiddleware)

    async def ok() -> None: ...

    install_health(app, lambda: True, {"database": ok})

    app.state.taken = 0

    async def slow() -> str:
        app.state.taken += 1
        await asyncio.sleep(0.5)  # how slow the slow answer is
        return "done"

    async def taken() -> int:
        return app.state.taken

    async def stream() -> StreamingResponse:
        async def events() -> AsyncGenerator[bytes]:
            yield b"data: first\n\n"
            await stop_event(app).wait()
            yield b"data: last\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    app.add_api_route("/slow", slow)
    app.add_api_route("/echo", echo, methods=["POST"])
    app.add_api_route("/taken", taken)
    app.add_api_route("/stream", stream)
    return app


class Child:
    """The process, its port, and its way out."""

    def __init__(self, port: int | None = None, **settings: str) -> None:
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {**os.environ, "INGEST_PORT": str(self.port), "PYTHONPATH": str(ROOT), **settings}
        command = [sys.executable, "-m", "tests.service.test_service_runner"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    async def ended(self, sent: signal.Signals | None = signal.SIGTERM, seconds: float = 10) -> tuple[int, str, str]:
        if sent is not None:
            self.process.send_signal(sent)
        out, err = await asyncio.to_thread(self.process.communicate, timeout=seconds)
        return self.process.returncode, out, err


@pytest.fixture
async def children() -> AsyncGenerator[Callable[..., Child]]:
    async with AsyncExitStack() as stack:

        def start(port: int | None = None, **settings: str) -> Child:
            child = Child(port, **settings)
            stack.push_async_callback(_gone, child.process)
            return child

        yield start


async def _gone(process: subprocess.Popen[str]) -> None:
    process.kill()
    await asyncio.to_thread(process.communicate)


@pytest.fixture
async def http() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ready(child: Child, http: aiohttp.ClientSession) -> None:
    async def answers() -> bool:
        try:
            async with http.get(f"{child.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            assert child.process.poll() is None, "the child has ended"
            return False

    await eventually(answers, seconds=20)


async def taken(child: Child, http: aiohttp.ClientSession, count: int) -> None:
    """Returns once `count` slow requests are on their way."""

    async def arrived() -> bool:
        async with http.get(f"{child.url}/taken") as answer:
            return await answer.json() >= count

    await eventually(arrived)


async def test_sigterm_lets_requests_finish_and_streams_end(
    children: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    child = children()
    await ready(child, http)
    stream = await http.get(f"{child.url}/stream")
    assert await stream.content.readline() == b"data: first\n"
    slow = asyncio.create_task(http.get(f"{child.url}/slow"))
    await taken(child, http, 1)

    began = time.monotonic()
    ending = asyncio.create_task(child.ended())

    assert (await slow).status == 200
    assert b"data: last" in await stream.content.read()
    code, out, err = await ending
    assert time.monotonic() - began < 5
    assert (code, err) == (0, "")
    assert "closed, stopping was set" in out


async def test_sigterm_under_load_answers_what_it_took(
    children: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    child = children()
    await ready(child, http)
    statuses: list[int] = []
    stopping = asyncio.Event()

    async def asks() -> None:
        while not stopping.is_set():
            try:
                async with http.get(f"{child.url}/slow") as answer:
                    statuses.append(answer.status)
            except aiohttp.ClientConnectionError:
                return  # refused, or an idle connection closed: nothing was taken

    load = [asyncio.create_task(asks()) for _ in range(20)]
    await eventually(lambda: len(statuses) >= 20)
    code, _, err = await child.ended()
    stopping.set()
    await asyncio.gather(*load)
    assert (code, err) == (0, "")
    assert set(statuses) == {200}


async def test_sigterm_during_a_start_that_hangs(children: Callable[..., Child]) -> None:
    child = children(RUNNER_HANGS="1")
    assert child.process.stdout is not None
    assert await asyncio.to_thread(child.process.stdout.readline) == "starting\n"
    code, _, _ = await child.ended()
    assert code == 0


async def test_a_second_sigint_does_not_wait(children: Callable[..., Child], http: aiohttp.ClientSession) -> None:
    child = children()
    await ready(child, http)
    waiting = [asyncio.create_task(http.get(f"{child.url}/slow")) for _ in range(3)]
    await taken(child, http, 3)
    began = time.monotonic()
    child.process.send_signal(signal.SIGINT)
    await child.ended(signal.SIGINT)
    assert time.monotonic() - began < 5
    await asyncio.gather(*waiting, return_exceptions=True)


async def said_to(child: Child, sent: bytes) -> tuple[bytes, dict[str, Any]]:
    """The status line and the document that answer these bytes; the connection is closed after them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", child.port)
    writer.write(sent)
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    assert b"content-type: application/problem+json" in head
    return head.split(b"\r\n")[0], json.loads(body)


async def test_what_is_no_http_and_a_head_without_end_are_problems(
    children: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    child = children()
    await ready(child, http)
    line, problem = await said_to(child, b"hello\r\n\r\n")
    assert (line, problem["type"].rsplit("/")[-1]) == (b"HTTP/1.1 400 Bad Request", "not-http")
    for endless in (b"X-Long: " + b"a" * 70_000, b"X-Many: abcdefgh\r\n" * 4_000):
        line, problem = await said_to(child, b"GET /taken HTTP/1.1\r\nHost: x\r\n" + endless)
        assert (line.split()[1], problem["type"].rsplit("/")[-1]) == (b"431", "headers-too-large")
    for _ in range(3):  # one kept connection: the bound is each request's, and bodies do not count
        async with http.post(f"{child.url}/taken", data=b"x" * 200_000, headers={"X": "a" * 30_000}) as answer:
            assert answer.status == 405


async def test_a_taken_port_is_said_and_ends_with_3(
    children: Callable[..., Child], http: aiohttp.ClientSession
) -> None:
    first = children()
    await ready(first, http)
    code, out, _ = await children(first.port).ended(None)
    assert code == 3
    assert "address already in use" in out


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"), ({"DATABASE_URL": "postgres://secret@db"}, "DATABASE_URL")],
)
async def test_bad_settings_are_one_sentence_and_end_with_2(
    children: Callable[..., Child], settings: dict[str, str], said: str
) -> None:
    code, _, err = await children(**settings).ended(None)
    assert code == 2
    assert said in err
    assert "secret" not in err
    assert err.count("\n") == 1


async def probed(live: bool = True, **ready: Callable[[], object]) -> httpx2.AsyncClient:
    app = FastAPI()
    install_health(app, lambda: live, ready)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


async def test_ready_says_which_part_is_not() -> None:
    async def fine() -> bool:
        return True

    async def broken() -> None:
        raise ConnectionError("10.0.0.1 refused")

    async def false() -> bool:
        return False

    async with await probed(database=fine, kafka=broken, other=false) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "parts": {"database": "ok", "kafka": "ConnectionError", "other": "not ready"},
    }


async def test_a_part_that_hangs_is_not_ready_in_time() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    async with await probed(database=hangs) as client:
        began = time.monotonic()
        answer = await client.get("/readyz")
    assert answer.json()["parts"] == {"database": "no answer"}
    assert time.monotonic() - began < CHECK_TIMEOUT_S + 1


async def test_live_is_the_poll_loop_alone() -> None:
    async def broken() -> None:
        raise ConnectionError

    async with await probed(database=broken) as client:
        assert (await client.get("/livez")).status_code == 200
        assert "messages_total" in (await client.get("/metrics")).text
    async with await probed(live=False) as client:
        assert (await client.get("/livez")).status_code == 503


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    serve(create_app, "ingest")
