"""Live streams of two gateways on real parts: `curl -N`, killed and resumed at the other one while messages flow."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import processes, trace_tree
from infra.local.instance import free_ports
from infra.local.parts import all_parts, http_ok
from tests.client import Client, signed_in
from tests.polling import eventually
from tests.running_stack import Stack

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
BATCHES = 25
BLOCK = re.compile(r'^id: (\d+)\nevent: (\S+)\ndata: .*"trace_id":"(\w+)".*\n\n', re.MULTILINE)


@pytest.fixture
async def other_gateway(stack: Stack, tmp_path: Path) -> AsyncGenerator[str]:
    """The address of a second gateway of the same stack."""
    (part,) = [one for one in all_parts(stack.instance) if one.name == "gateway"]
    (port,) = free_ports(1)
    env = {**part.env, "GATEWAY_PORT": str(port)}
    process = processes.spawn(part.command, cwd=part.cwd, env=env, log=tmp_path / "gateway.log")
    try:
        await eventually(lambda: http_ok(port), seconds=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 15)


async def read(
    url: str, client: Client, last: int, path: Path, enough: Callable[[], bool]
) -> list[tuple[int, str, str]]:
    """What `curl -N` got after `last` before it was killed: id, type and trace, something unless it is `enough`."""
    headers = ["-H", f"Authorization: Bearer {client.phone.token}", "-H", f"Last-Event-ID: {last}"]
    curl = await asyncio.create_subprocess_exec("curl", "-N", "-s", "-o", str(path), *headers, f"{url}/v1/live")

    def found() -> list[tuple[int, str, str]]:
        text = path.read_text() if path.exists() else ""
        return [(int(number), kind, trace) for number, kind, trace in BLOCK.findall(text)]

    try:
        await eventually(lambda: found() or enough(), seconds=60)
    finally:
        curl.kill()
        await curl.wait()
    return found()


async def test_curl_killed_and_resumed_at_another_gateway_misses_and_repeats_nothing(
    stack: Stack, other_gateway: str, tmp_path: Path
) -> None:
    async with signed_in(stack.url) as client:

        async def flow() -> list[str]:
            traces: list[str] = []
            for minute in range(BATCHES):
                at = f"2026-03-01T08:{minute:02}:00Z"
                sample = {"metric": "heart_rate", "start": at, "value": 60 + minute}
                body = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "samples": [sample]}
                sent = await client.phone.send("POST", "/v1/batches", key=str(uuid4()), body=body)
                await client.phone.poll(
                    f"/v1/receipts/{sent.body['receipt_id']}", lambda body: body["state"] != "queued"
                )
                traces.append(sent.trace_id)
            return traces

        flowing, got, run = asyncio.create_task(flow()), list[tuple[int, str, str]](), 0
        deadline = time.monotonic() + 120
        while not flowing.done() or not got or got[-1][0] < await last_sequence(client):
            assert time.monotonic() < deadline
            run += 1
            url = (stack.url, other_gateway)[run % 2]
            got += await read(url, client, got[-1][0] if got else 0, tmp_path / f"{run}.txt", flowing.done)
        assert [number for number, _, _ in got] == list(range(1, len(got) + 1))
        assert run >= 4
        traces = await flowing
        assert {trace for _, _, trace in got} <= set(traces)
        hops = {"gateway", "ingest", "webhooks"}
        spans = await asyncio.to_thread(trace_tree.wait_for, stack.instance.traces, got[-1][2], hops, 15)
        roots = [span for span in spans if not span.parent_id]
        assert [(root.service, root.name) for root in roots] == [("gateway", "POST /v1/batches")]


async def last_sequence(client: Client) -> int:
    return (await client.phone.send("GET", "/v1/events?after=9000000")).body["last_sequence"]
