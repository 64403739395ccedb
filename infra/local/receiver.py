"""The demo partner's webhook receiver: verifies each delivery with the Standard Webhooks reference library."""

import asyncio
import binascii
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared import telemetry

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Delivered:
    """One verified delivery and the moment it came, in seconds of `time.monotonic`."""

    message_id: str
    body: dict[str, Any]
    at: float


@dataclass
class Receiver:
    """An HTTP receiver on a loopback port. A delivery counts once per `webhook-id`, however often it is sent."""

    port: int
    secret: str = ""
    delivered: dict[str, Delivered] = field(default_factory=dict[str, Delivered])
    refused: int = 0
    _runner: web.AppRunner | None = None
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where deliveries go."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        """Listen. A taken port, or 0, becomes a free one."""
        app = web.Application()
        app.router.add_post("/hook", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        except OSError:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    async def wait_for(self, type: str, user_id: str, *, deadline: float, **data: object) -> Delivered:
        """The first delivery of that type and user whose data has these values.

        Raises:
            TimeoutError: none came before `deadline` (of `time.monotonic`).
        """
        while True:
            for delivery in self.delivered.values():
                body = delivery.body
                wanted = {"user_id": user_id, **data}
                if body["type"] == type and all(body["data"].get(name) == value for name, value in wanted.items()):
                    return delivery
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), max(0.01, deadline - time.monotonic()))

    async def _receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        with telemetry.span("POST /hook", parent=request.headers.get("traceparent"), kind="server"):
            if not verified(self.secret, request, raw):
                self.refused += 1
                return web.Response(status=401, text="the signature does not fit")
            message_id = request.headers["webhook-id"]
            self.delivered.setdefault(message_id, Delivered(message_id, json.loads(raw), time.monotonic()))
            self._arrived.set()
            return web.Response(status=204)


def verified(secret: str, request: web.Request, raw: bytes) -> bool:
    """Is the delivery signed with `secret`, and of now? The library raises three kinds of errors for what is not."""
    try:
        Webhook(secret).verify(raw, {name.lower(): value for name, value in request.headers.items()})
    except (WebhookVerificationError, ValueError, binascii.Error):
        return False
    return True


@asynccontextmanager
async def served(method: str, path: str, handler: Handler) -> AsyncGenerator[str]:
    """`handler` on a free loopback port: the URL at which it answers."""
    app = web.Application()
    app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
    finally:
        await runner.cleanup()
