"""The gateway with its edges in hand: services that answer what a test says, and the real auth behind it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from aiokafka.errors import KafkaTimeoutError
from fastapi import FastAPI

from services.gateway.api import Waiting
from services.gateway.app import Edges, create_app
from services.gateway.pressure import Offsets
from services.gateway.proxy import Answer, Unanswered
from services.gateway.settings import Settings
from shared import topics
from shared.access_tokens import sign_access_token
from shared.callers import SCOPES
from shared.clock import utc_now
from shared.events.auth import PartnerUpdated
from shared.kafka import Broker
from shared.keys import load_private_jwk, public_jwks
from tests.service.running import Running, common_settings, running

USER = "usr_1"
# Known to the gateway, and active.
PARTNERS = ("p1", "demo-partner")
Handler = Callable[[str, str, Mapping[str, str], bytes], Answer]


def answer(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {"content-type": content_type, **headers}, content)


def partner(partner_id: str, **changed: Any) -> PartnerUpdated:
    """The news of a partner, an active one unless told otherwise."""
    news = PartnerUpdated(
        event_id="e", occurred_at=utc_now(), partner_id=partner_id, revision=1, name="A partner", scopes=SCOPES
    )
    return news.model_copy(update=changed)


@dataclass
class Services:
    """What stands behind the gateway: canned answers, apps served in process, and who is down."""

    handlers: dict[str, Handler] = field(default_factory=dict[str, Handler])
    apps: dict[str, FastAPI] = field(default_factory=dict[str, FastAPI])
    down: set[str] = field(default_factory=set[str])
    seen: list[tuple[str, str, str, dict[str, str], bytes]] = field(
        default_factory=list[tuple[str, str, str, dict[str, str], bytes]]
    )

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.seen.append((service, method, target, dict(headers), body))
        if service in self.down:
            raise Unanswered(service)
        if service in self.apps:
            transport = httpx2.ASGITransport(self.apps[service])
            async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
                got = await http.request(method, target, headers=dict(headers), content=body)
            return Answer(got.status_code, dict(got.headers), got.content)
        return self.handlers[service](method, target, headers, body)

    def count(self, service: str, target: str) -> int:
        return sum(1 for one in self.seen if one[0] == service and one[2] == target)


class MovableClock:
    """The present, which a test can push forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


class TestableBroker(Broker):
    """A broker that can be away."""

    away = False

    async def publish(self, *arguments: Any, **named: Any) -> Any:
        if self.away:
            raise KafkaTimeoutError
        return await super().publish(*arguments, **named)


@dataclass(frozen=True)
class Gateway:
    """The running gateway and everything around it."""

    running: Running
    services: Services
    clock: MovableClock
    folder: Path

    @property
    def http(self) -> httpx2.AsyncClient:
        return self.running.http

    @property
    def broker(self) -> TestableBroker:
        return self.running.broker

    @property
    def waiting(self) -> Waiting:
        return self.running.app.state.api.waiting

    def token(self, user_id: str = USER, **changed: Any) -> str:
        settings = Settings()
        values = {
            "issuer": settings.token_issuer,
            "audience": settings.token_audience,
            "scopes": SCOPES,
            "now": self.clock().timestamp(),
        } | changed
        return sign_access_token(load_private_jwk(self.folder / "auth.jwk"), user_id=user_id, **values)

    async def ask(
        self, method: str, path: str, *, token: str | None = "", key: str | None = None, **sent: Any
    ) -> httpx2.Response:
        """A request; with the user's own token unless told otherwise, None = without any."""
        headers = dict(sent.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token()}"
        if key:
            headers["Idempotency-Key"] = key
        return await self.http.request(method, path, headers=headers, **sent)


@asynccontextmanager
async def gateway(folder: Path, offsets: Offsets | None = None, **changed: Any) -> AsyncGenerator[Gateway]:
    """The gateway; auth answers with the public key of `auth.jwk`, everything else with 404."""
    common = common_settings(folder) | changed
    settings = Settings(
        **common,
        gateway_internal_key_path=folder / "internal.jwk",
        gateway_receipt_key_path=folder / "receipts.key",
    )
    services, clock = Services(), MovableClock()
    jwks = public_jwks([load_private_jwk(folder / "auth.jwk")])
    missing = answer({"type": "https://mymacrotracker.dev/problems/not-found"}, 404, "application/problem+json")
    for service in ("ingest", "inference", "nutrition", "insights", "webhooks"):
        services.handlers[service] = lambda *_: missing
    services.handlers["auth"] = lambda method, target, *_: answer(jwks) if target.endswith("jwks.json") else missing
    broker = TestableBroker(settings, "gateway")
    app = create_app(settings, Edges(broker, services, clock, follows=False, offsets=offsets))
    for state in (app.state.revocations, app.state.grants, app.state.partners):
        state.caught_up()
    listen = (topics.BATCHES.name, topics.PHOTOS.name)
    for partner_id in PARTNERS:
        await app.state.partners.take(partner_id, partner(partner_id))
    async with running(app, broker, "gateway", folder, listen=listen) as one:
        yield Gateway(one, services, clock, folder)


class Stream:
    """An open event stream, read as the client reads it."""

    def __init__(self, app: FastAPI, headers: dict[str, str], query: bytes = b"") -> None:
        self._app = app
        self._query = query
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._close = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._text = b""
        self.headers: dict[str, str] = {}
        self.ended = False

    async def open(self) -> int:
        """Connect; the status."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/live",
            "raw_path": b"/v1/live",
            "query_string": self._query,
            "headers": self._headers,
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._task = asyncio.create_task(self._app(scope, self._receive, self._sent.put))
        start = await asyncio.wait_for(self._sent.get(), 5)
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"]

    async def _receive(self) -> dict[str, Any]:
        await self._close.wait()
        return {"type": "http.disconnect"}

    async def block(self) -> str | None:
        """The next block of the stream, None at its end."""
        while b"\n\n" not in self._text:
            if self.ended:
                return None
            message = await asyncio.wait_for(self._sent.get(), 5)
            self._text += message.get("body", b"")
            self.ended = not message.get("more_body")
        block, _, self._text = self._text.partition(b"\n\n")
        return block.decode()

    async def body(self) -> str:
        """All that an answer says that is no stream."""
        while not self.ended:
            message = await asyncio.wait_for(self._sent.get(), 5)
            self._text += message.get("body", b"")
            self.ended = not message.get("more_body")
        return self._text.decode()

    async def events(self, count: int) -> list[tuple[int, str, dict[str, Any]]]:
        """The next events as (id, type, message)."""
        found: list[tuple[int, str, dict[str, Any]]] = []
        while len(found) < count:
            block = await self.block()
            assert block is not None, "the stream ended"
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "id" in lines:
                found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
        return found

    async def reason(self) -> str:
        """Why the stream ends, which it does now."""
        lines = (await self.block() or "").splitlines()
        assert lines[0] == "event: stream.ended", lines
        assert [await self.block(), await self.block()] == [": end", None]
        return json.loads(lines[1].removeprefix("data: "))["data"]["reason"]

    async def close(self) -> None:
        """The client goes away."""
        self._close.set()
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(self._task, 5)
