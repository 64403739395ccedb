"""A partner's server: answers what the test tells it, and keeps what it was sent."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

# Settings of webhooks under which it delivers to receivers on this machine.
LOCAL_DELIVERIES = {"webhooks_allow_cidrs": "127.0.0.0/8", "webhooks_allow_http": True, "webhooks_allow_ports": "*"}


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers 200, unless `answers` holds something else for the next requests."""

    url: str = ""
    received: list[Received] = field(default_factory=list[Received])
    answers: deque[web.Response] = field(default_factory=deque[web.Response])
    trickle: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, body))
        if self.trickle:
            return await _endless(request)
        return self.answers.popleft() if self.answers else web.Response(text="thanks")


async def _endless(request: web.Request) -> web.StreamResponse:
    """A body without end."""
    response = web.StreamResponse(status=200)
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65536)
            await asyncio.sleep(0)  # the reader may leave
    except (ConnectionError, asyncio.CancelledError):
        return response


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{port}/hooks"
    try:
        yield receiver
    finally:
        await runner.cleanup()
