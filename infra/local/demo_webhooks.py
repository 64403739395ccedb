"""The webhooks' story: an endpoint is down, comes back and gets all in order; then the last minute comes once more."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from aiohttp import web
from rich.console import Console

from infra.local.demo_stage import DEMO_PARTNER, GRANTED, Demo, DemoTarget, expect, sign_up, told_with
from infra.local.receiver import served, verified

MESSAGES = 5
LOOK_EVERY_S = 0.05


@dataclass
class Server:
    """The partner's server: down at first, then it keeps what it gets in the order in which it came."""

    up: bool = False
    refused: int = 0
    secret: str = ""
    url: str = ""
    came: list[tuple[str, dict[str, Any], str]] = field(default_factory=list[tuple[str, dict[str, Any], str]])

    async def receive(self, request: web.Request) -> web.Response:
        """One delivery; its id, body and replay are kept."""
        raw = await request.read()
        if not self.up:
            self.refused += 1
            return web.Response(status=503, text="down for maintenance")
        if not verified(self.secret, request, raw):
            return web.Response(status=401, text="the signature does not fit")
        self.came.append((request.headers["webhook-id"], json.loads(raw), request.headers.get("webhook-replay", "")))
        return web.Response(status=204)


async def run(target: DemoTarget, console: Console) -> None:
    """Tell the story.

    Raises:
        StoryBroke, Refused, TimeoutError: a step did not come true.
    """
    server = Server()
    async with told_with(target, console) as demo, served("POST", "/hook", server.receive) as server.url:
        console.rule("A user, and a partner whose server is down")
        await sign_up(demo)
        endpoint = await _endpoint(demo, server)
        try:
            await _down(demo, server, endpoint)
            await _back(demo, server)
            await _replay(demo, server, endpoint)
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


async def _down(demo: Demo, server: Server, endpoint: str) -> None:
    """Batches are stored while the server answers 503."""
    now = datetime.now(UTC)
    for number in range(MESSAGES):
        sample = {"metric": "heart_rate", "start": (now - timedelta(minutes=number)).isoformat(), "value": 60 + number}
        batch = {"device": {"id": "demo-watch", "kind": "watch"}, "app": "demo/1.0", "zone": str(demo.zone)}
        body = batch | {"samples": [sample]}
        answer = await demo.phone.send("POST", "/v1/batches?wait=10s", key=str(uuid4()), body=body)
        expect(answer.body.get("state") == "stored", f"a batch is {answer.body.get('state')} after 10 s")
    demo.say(f"POST /v1/batches: {MESSAGES} batches stored")
    waiting: list[dict[str, Any]] = []
    while len(waiting) < MESSAGES or not server.refused:
        expect(time.monotonic() < demo.phone.deadline, "the deliveries did not come to be")
        await asyncio.sleep(LOOK_EVERY_S)
        path = f"/v1/webhook-endpoints/{endpoint}/deliveries?state=pending"
        waiting = (await _partner(demo, "GET", path))["deliveries"]
    demo.say(f"the server is down and answered 503 {server.refused} times; {len(waiting)} deliveries wait")
    expect(not server.came, "something came while the server was down")


async def _back(demo: Demo, server: Server) -> None:
    """The server comes back; what waited comes at its own time, once each and in order."""
    server.up = True
    demo.say("the server is back")
    await _until(demo, server, MESSAGES)
    sequences = [body["data"]["sequence"] for _, body, _ in server.came]
    expect(sequences == sorted(sequences), f"the order is {sequences}")
    expect(len({id for id, _, _ in server.came}) == MESSAGES, "a message came twice")
    demo.say(f"all {MESSAGES} came once each, verified, in order: sequences {', '.join(map(str, sequences))}")


async def _replay(demo: Demo, server: Server, endpoint: str) -> None:
    """The last minute once more: the same ids, in the same order, marked."""
    demo.console.rule("The last minute once more")
    first = [id for id, _, _ in server.came]
    body = {"since": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(), "types": ["receipts.completed"]}
    body |= {"user": demo.user_id}
    made = await _partner(demo, "POST", f"/v1/webhook-endpoints/{endpoint}/replays", body)
    demo.say(f"POST /v1/webhook-endpoints/{endpoint}/replays: {made['replay_id']}")
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
