"""A service as it runs, but for Kafka: its real app, its real database, the gateway's tokens."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from faststream.kafka import TestKafkaBroker

from shared.callers import SCOPES, Caller
from shared.events.event import Event
from shared.internal_tokens import InternalTokenSigner
from shared.kafka import Broker, publish_bytes
from shared.keys import generate_key_files
from shared.topics import Topic

# Tests move clocks, which no timer sees; the next scan does.
SCAN_S = 0.05


@dataclass(frozen=True)
class Running:
    """A running service: publish to it, ask it, read what it published."""

    app: FastAPI
    broker: Broker
    http: httpx2.AsyncClient
    signer: InternalTokenSigner
    service: str
    published: dict[str, list[bytes]]

    def headers(
        self,
        *,
        user_id: str | None = None,
        partner_id: str | None = None,
        scopes: Sequence[str] = SCOPES,
        key_ends_at: float | None = None,
        key: str | None = None,
    ) -> dict[str, str]:
        """What the gateway would send for that caller."""
        caller = Caller(user_id, partner_id, frozenset(scopes), key_ends_at=key_ends_at)
        token = self.signer.token(caller, self.service)
        return {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})

    async def get(self, path: str, **caller: Any) -> httpx2.Response:
        """GET as that caller."""
        return await self.http.get(path, headers=self.headers(**caller))

    async def send(self, topic: Topic, event: Event, *, traceparent: str | None = None) -> None:
        """Publish as the topic's writer; returns when the service has handled it."""
        await self.send_bytes(topic, event.model_dump_json().encode(), traceparent=traceparent)

    async def send_bytes(self, topic: Topic, value: bytes, *, traceparent: str | None = None) -> None:
        """Publish whatever bytes."""
        await publish_bytes(self.broker, topic.name, value, "key", traceparent=traceparent)


@asynccontextmanager
async def running(
    app: FastAPI, broker: Broker, service: str, folder: Path, *, listen: Sequence[str] = ()
) -> AsyncGenerator[Running]:
    """Run `app`; records of the topics in `listen` are kept in `published`."""
    published: dict[str, list[bytes]] = {name: [] for name in listen}
    for name in listen:
        _keep(broker, name, published[name])
    signer = InternalTokenSigner(folder / "internal.jwk")
    async with (
        TestKafkaBroker(broker),
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http,
    ):
        yield Running(app, broker, http, signer, service, published)


def _keep(broker: Broker, name: str, kept: list[bytes]) -> None:
    async def keep(value: bytes) -> None:
        kept.append(value)

    async def value_of(message: Any) -> bytes:
        return message.raw_message.value

    broker.subscriber(name, group_id=f"test.{name}", decoder=value_of)(keep)


def common_settings(folder: Path) -> dict[str, Any]:
    """Settings of a service that keeps everything in `folder`, where the keys now lie too."""
    generate_key_files(folder)
    return {
        "database_url": f"sqlite:///{folder}",
        "objects_url": f"file:///{folder}/objects",
        "internal_jwks_path": folder / "internal-jwks.json",
        "secrets_key_path": folder / "secrets.key",
    }
