"""A rolling restart of every process of a cluster under load: requests failed, and the longest gap without an answer.

Clients hold connections to both gateways and do what a load balancer does: a refused connection is tried at the other
gateway, and a connection that an answer says is closing is not used again. Every other request of theirs that is not
answered with 202 (or 200 for a read) counts as failed. At the end all that was acknowledged must be stored, once.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import measure
from benchmarks.ingest_load import Stored, User, batch, introduce
from benchmarks.stacks import fresh_stack, running
from infra.local import rolling
from infra.local.instance import Instance

CLIENTS, SIZE, PAUSE_S = 12, 100, 0.05
READ_EVERY = 5
WARM_UP_S, AFTER_S = 10.0, 5.0
PATIENCE_S = 30.0


@dataclass
class Seen:
    """What the clients saw: seconds of each answered request, failures in words, and acknowledged samples."""

    seconds: list[float] = field(default_factory=list[float])
    answered_at: list[float] = field(default_factory=list[float])
    failed: Counter[str] = field(default_factory=Counter[str])
    moved: int = 0
    samples: int = 0


class Client:
    """One user's phone, over one connection at a time."""

    def __init__(self, user: User, ports: Sequence[int], seen: Seen) -> None:
        self._user, self._ports, self._seen = user, list(ports), seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, until: asyncio.Event) -> None:
        """Send until told."""
        turn = 0
        while not until.is_set():
            turn += 1
            await self._one(self._read() if turn % READ_EVERY == 0 else batch(self._user, SIZE))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), PAUSE_S)
        self._close()

    def _read(self) -> bytes:
        lines = ["GET /v1/days?from=2026-01-01&to=2026-01-02 HTTP/1.1", "Host: bench"]
        return "\r\n".join([*lines, f"Authorization: Bearer {self._user.token}", "", ""]).encode()

    async def _one(self, request: bytes) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, closing = await self._answered(request)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self._seen.failed[type(error).__name__] += 1
            self._close()
            return
        now = time.monotonic()
        if status in (200, 202):
            self._seen.seconds.append(now - began)
            self._seen.answered_at.append(now)
            self._seen.samples += SIZE if status == 202 else 0
        else:
            self._seen.failed[str(status)] += 1
        if closing:
            self._close()

    async def _answered(self, request: bytes) -> tuple[int, bool]:
        reader, writer = self._streams = self._streams or await self._connected()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        await reader.readexactly(int(fields[b"content-length"]))
        return int(head.split(b" ")[1]), fields.get(b"connection") == b"close"

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(len(self._ports)):
            try:
                return await asyncio.open_connection("127.0.0.1", self._ports[0])
            except ConnectionRefusedError:
                self._seen.moved += 1
                self._ports.append(self._ports.pop(0))
        raise ConnectionRefusedError("no gateway listens")

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None
        # The next connection goes to the other gateway, as from a balancer that takes them in turn.
        self._ports.append(self._ports.pop(0))


async def measured(instance: Instance) -> dict[str, Any]:
    """Load, the restart of every process in turn beside it, and what came of it."""
    seen, done, stored = Seen(), asyncio.Event(), Stored(instance.bootstrap_servers)
    await stored.start()
    users = await introduce(instance, CLIENTS)
    ports = list(instance.members("gateway").values())
    clients = [Client(user, ports[place % 2 :] + ports[: place % 2], seen) for place, user in enumerate(users)]
    load = [asyncio.create_task(one.run(done)) for one in clients]
    await asyncio.sleep(WARM_UP_S)
    quiet = len(seen.answered_at)
    names = rolling.named(running(instance))
    began = time.monotonic()
    lasted = await asyncio.to_thread(rolling.restart, instance, names, print)
    await asyncio.sleep(AFTER_S)
    done.set()
    await asyncio.gather(*load)
    await stored.until(seen.samples)
    await stored.stop()
    at = [began, *(one for one in seen.answered_at if one > began)]
    ordered, before = sorted(seen.seconds[quiet:]), sorted(seen.seconds[:quiet])
    return {
        "processes_restarted": len(names),
        "restart_s": round(lasted, 1),
        "requests": len(seen.seconds) + seen.failed.total(),
        "failed": seen.failed.total(),
        "failures": dict(seen.failed),
        "connections_refused_and_moved": seen.moved,
        "longest_gap_s": round(max(later - sooner for sooner, later in itertools.pairwise(at)), 3),
        "answer_ms": {
            "before_p99": round(before[int(len(before) * 0.99)] * 1000, 1),
            "during_p50": round(ordered[len(ordered) // 2] * 1000, 1),
            "during_p99": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
            "during_max": round(ordered[-1] * 1000, 1),
        },
        "samples_acknowledged": seen.samples,
        "samples_stored": stored.samples,
        "targets": {"failed": 0, "samples_stored": "as many as acknowledged"},
    }


def main() -> None:
    """Measure on a cluster of its own."""
    machine = measure.fingerprint()
    with fresh_stack(cluster=True) as instance:
        figures = asyncio.run(measured(instance))
    measure.report("rolling", figures, machine)
    print(json.dumps(figures["failures"]))


if __name__ == "__main__":
    main()
