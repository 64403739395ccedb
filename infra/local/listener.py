"""A partner's server on this machine: verifies what webhooks sends, prints it, and fails when it is told to."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from infra.local.dead_letters import printable
from services.webhooks.signing import SignatureRefused, VerifyingKey, verify
from shared.clock import utc_now

ACCEPTED = 204
MAX_BYTES = 4 * 1024 * 1024


@dataclass
class Listener:
    """Answers `status` to the first `times` deliveries (None: to all), `hang_s` seconds after they came; then 204.

    `most`: how many deliveries end it. What does not verify is answered 401 and counts for nothing.
    """

    keys: Sequence[VerifyingKey]
    say: Callable[[str], None]
    status: int = ACCEPTED
    times: int | None = None
    hang_s: float = 0.0
    most: int | None = None
    came: int = 0
    seen: Counter[str] = field(default_factory=Counter[str])
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, bound: socket.socket, ready: Callable[[], None]) -> None:
        """Serve what listens there until `most` deliveries came; `ready` is called once the first can be answered."""
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_post("/{path:.*}", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.SockSite(runner, bound).start()
            ready()
            await self.done.wait()
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            verify(self.keys, request.headers, body, utc_now())
        except SignatureRefused as error:
            self.say(f"refused with 401: {error}")
            return web.Response(status=401, text=str(error))
        self.came += 1
        failing = self.times is None or self.came <= self.times
        status, hang_s = (self.status, self.hang_s) if failing else (ACCEPTED, 0.0)
        message_id = request.headers["webhook-id"]
        self.seen[message_id] += 1
        self.say(_described(request, body, self.seen[message_id], status, hang_s))
        if hang_s:
            await asyncio.sleep(hang_s)
        if self.most is not None and self.came >= self.most:
            # After this answer is out: cleaning up waits for it.
            self.done.set()
        return web.Response(status=status)


def _described(request: web.Request, body: bytes, times: int, status: int, hang_s: float) -> str:
    """One delivery in words: its type and id, whether it came before, what is answered, and its data."""
    try:
        message = json.loads(body)
        what, data = str(message["type"]), json.dumps(message["data"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        what, data = "no message", body.decode(errors="replace")
    again = f", the {times}. time" if times > 1 else ""
    replay = ", replayed" if "webhook-replay" in request.headers else ""
    late = f" after {hang_s:g} s" if hang_s else ""
    named = f"{what} {request.headers['webhook-id']}{again}{replay}"
    return f"{printable(named)}: verified, answered {status}{late}\n  {printable(data)}"
