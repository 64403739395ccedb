"""The webhooks' story: a server is down, comes back and gets all in order; then the last minute comes once more."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from aiohttp import web
from rich.console import Console

from infra.local.demo_stage import DEMO_PARTNER, GRANTED, Demo, DemoTarget, expect, sign_up, told_with
from infra.local.receiver import verified

MESSAGES = 5
# A third try would come five minutes later by itself.
FAILED_TRIES = 2
LAST_S = 60.0
LOOK_EVERY_S = 0.2


@dataclass
class Server:
    """The partner's server: nobody listens at first, then it keeps what it gets in the order in which it came."""

    secret: str = ""
    url: str = ""
    came: list[tuple[str, dict[str, Any], str]] = field(default_factory=list[tuple[str, dict[str, Any], str]])

    async def receive(self, request: web.Request) -> web.Response:
        """One delivery; its id, body and replay are kept."""
        raw = await request.read()
        if not verified(self.secret, request, raw):
            return web.Response(status=401, text="the signature does not fit")
        self.came.append((request.headers["webhook-id"], json.loads(raw), request.headers.get("webhook-replay", "")))
        return web.Response(status=204)

    @asynccontextmanager
    async def started_later(self) -> AsyncGenerator[web.SockSite]:
        """A port of its own that refuses connections until the site is started."""
        app = web.Application()
        app.router.add_post("/hook", self.receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        # Bound and not listening: the port is nobody else's meanwhile.
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{bound.getsockname()[1]}/hook"
            try:
                yield web.SockSite(runner, bound)
            finally:
                await runner.cleanup()


async def run(target: DemoTarget, console: Console) -> None:
    """Tell the story.

    Raises:
        StoryBroke, Refused, TimeoutError: a step did not come true.
    """
    server = Server()
    async with told_with(target, console) as demo, server.started_later() as site:
        console.rule("A user, and a partner whose server is down")
        await sign_up(demo)
        endpoint = await _endpoint(demo, server)
        try:
            since = time.monotonic()
            waiting = await _down(demo, endpoint)
            await site.start()
            await _back(demo, server, waiting)
            await _replay(demo, server, endpoint, max(LAST_S, time.monotonic() - since + 1))
        finally:
            await _partner(demo, "DELETE", f"/v1/webhook-endpoints/{endpoint}")
    console.print(f"\n[green]The webhooks' story is told[/green] in {time.monotonic() - demo.started:.1f} s")


async def _partner(demo: Demo, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = await demo.phone.send(method, path, key=str(uuid4()), token=demo.target.partner_key, body=body)
    return answer.body


async def _endpoint(demo: Demo, server: Server) -> str:
    """An ordered endpoint for this user alone, who grants the partner what it asks for."""
    wanted = {"url": server.url, "ordered": True, "user_ids": [demo.user_id], "event_types": ["receipts.completed"]}
    made = await _partner(demo, "POST", "/v1/webhook-endpoints", wanted)
    server.secret = made["secret"]
    await demo.phone.send("POST", "/v1/grants", key=str(uuid4()), body={"partner_id": DEMO_PARTNER, "scopes": GRANTED})
    demo.say(f"the partner's webhooks of this user go to {server.url}, in order; the user granted it scopes")
    return made["endpoint_id"]


async def _down(demo: Demo, endpoint: str) -> list[dict[str, Any]]:
    """Batches are stored while nobody listens there; the deliveries that wait, the first of which failed twice."""
    now = datetime.now(UTC)
    for number in range(MESSAGES):
        sample = {"metric": "heart_rate", "start": (now - timedelta(minutes=number)).isoformat(), "value": 60 + number}
        batch = {"device": {"id": "demo-watch", "kind": "watch"}, "app": "demo/1.0", "zone": str(demo.zone)}
        body = batch | {"samples": [sample]}
        answer = await demo.phone.send("POST", "/v1/batches?wait=10s", key=str(uuid4()), body=body)
        expect(answer.body.get("state") == "stored", f"a batch is {answer.body.get('state')} after 10 s")
    demo.say(f"POST /v1/batches: {MESSAGES} batches stored")
    path = f"/v1/webhook-endpoints/{endpoint}/deliveries?state=pending"
    seen = 0
    while True:
        waiting = sorted((await _partner(demo, "GET", path))["deliveries"], key=lambda one: one["sequence"])
        if waiting:
            tries = (await _partner(demo, "GET", f"/v1/deliveries/{waiting[0]['delivery_id']}"))["attempts"]
            for number, one in enumerate(tries[seen:], start=seen + 1):
                demo.say(f"  try {number} of sequence {waiting[0]['sequence']} failed: {one['error']}")
            seen = len(tries)
        if len(waiting) == MESSAGES and seen >= FAILED_TRIES:
            demo.say(f"the server is down: {seen} tries failed, {len(waiting)} deliveries wait in line")
            return waiting
        expect(time.monotonic() < demo.phone.deadline, "the deliveries did not come to be, or were not tried twice")
        await asyncio.sleep(LOOK_EVERY_S)


async def _back(demo: Demo, server: Server, waiting: list[dict[str, Any]]) -> None:
    """The server listens; its partner asks for the first delivery now, and the others follow: once each, in order."""
    demo.say("the server is back; the third try would come in five minutes, so its partner asks for it now:")
    await _partner(demo, "POST", f"/v1/deliveries/{waiting[0]['delivery_id']}/retries")
    demo.say(f"POST /v1/deliveries/{waiting[0]['delivery_id']}/retries")
    await _until(demo, server, MESSAGES)
    sequences = [body["data"]["sequence"] for _, body, _ in server.came]
    expect(sequences == sorted(sequences), f"the order is {sequences}")
    expect({id for id, _, _ in server.came} == {one["message_id"] for one in waiting}, "a message came twice")
    demo.say(f"all {MESSAGES} came once each, verified, in order: sequences {', '.join(map(str, sequences))}")


async def _replay(demo: Demo, server: Server, endpoint: str, seconds: float) -> None:
    """All messages of the last minute (longer, where the story took longer): the same ids, the same order, marked."""
    demo.console.rule("The last minute once more")
    first = [id for id, _, _ in server.came]
    path = f"/v1/webhook-endpoints/{endpoint}/replays"
    made = await _partner(demo, "POST", path, {"since": (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()})
    demo.say(f"POST {path}: {made['replay_id']}, of the last {seconds:.0f} s")
    while made["state"] == "running":
        expect(time.monotonic() < demo.phone.deadline, f"the replay made {made['made']} and did not end")
        await asyncio.sleep(LOOK_EVERY_S)
        made = await _partner(demo, "GET", f"{path}/{made['replay_id']}")
    expect(
        (made["state"], made["made"]) == ("done", MESSAGES), f"the replay is {made['state']}, it made {made['made']}"
    )
    demo.say(f"the replay is done: {made['made']} messages in that time, {made['made']} sent again")
    await _until(demo, server, 2 * MESSAGES)
    again = server.came[MESSAGES:]
    expect([id for id, _, _ in again] == first, "the ids or their order differ")
    expect({replay for _, _, replay in again} == {made["replay_id"]}, "what was sent again is not marked")
    demo.say(f"all {MESSAGES} came again with the same ids, in order, marked webhook-replay: {made['replay_id']}")


async def _until(demo: Demo, server: Server, count: int) -> None:
    while len(server.came) < count:
        expect(time.monotonic() < demo.phone.deadline, f"only {len(server.came)} of {count} came")
        await asyncio.sleep(LOOK_EVERY_S)
    expect(len(server.came) == count, f"{len(server.came)} came, not {count}")
