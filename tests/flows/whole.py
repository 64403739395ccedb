"""All seven services as they run, in one process on one Kafka in memory. Only Triton is a stand-in.

Every service has its own broker, database and app. What crosses their borders crosses them here too: records, internal
tokens over HTTP, pictures in the object store, signed requests to a partner's server on a loopback port.
"""

import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from fastapi import FastAPI
from faststream.kafka import TestKafkaBroker
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.local.receiver import Receiver
from services.auth.app import create_app as create_auth
from services.auth.settings import Settings as AuthSettings
from services.gateway.app import Edges
from services.gateway.app import create_app as create_gateway
from services.gateway.proxy import Answer
from services.gateway.settings import Settings as GatewaySettings
from services.inference.app import create_app as create_inference
from services.inference.settings import Settings as InferenceSettings
from services.inference.table import Line
from services.inference.triton import OcrResult
from services.ingest.app import create_app as create_ingest
from services.ingest.settings import Settings as IngestSettings
from services.insights.app import create_app as create_insights
from services.insights.settings import Settings as InsightsSettings
from services.nutrition.app import create_app as create_nutrition
from services.nutrition.settings import Settings as NutritionSettings
from services.webhooks.app import create_app as create_webhooks
from services.webhooks.settings import Settings as WebhooksSettings
from shared import spans, telemetry, topics
from shared.dead_letters import Undecodable
from shared.events.event import Event
from shared.events.webhooks import MessagePublished
from shared.kafka import Broker, event_decoder, make_broker, publish_bytes
from shared.outcomes import UnknownType
from shared.settings import ServiceSettings
from tests.polling import eventually
from tests.service.receiver import LOCAL_DELIVERIES
from tests.service.running import common_settings
from tests.unit.test_readings import recorded

T = TypeVar("T")
SERVICES = ("auth", "ingest", "inference", "nutrition", "insights", "webhooks")
# In this process alone: whose code runs now, for the spans.
_service: ContextVar[str] = ContextVar("service", default="test")


@dataclass(frozen=True)
class Record:
    """A record as it lies in its topic."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]


@dataclass
class RecordedOcr:
    """Answers every picture with what the model read of the demo's label."""

    lines: list[Line] = field(default_factory=lambda: recorded("demo"))
    pictures: int = 0

    async def read(self, picture: bytes) -> OcrResult:
        self.pictures += 1
        return OcrResult(self.lines, "ab" * 32)

    async def answers(self) -> bool:
        return True

    async def close(self) -> None:
        return


@dataclass(frozen=True)
class Whole:
    """The running system, with everything that can be seen of it from outside."""

    folder: Path
    apps: Mapping[str, FastAPI]
    http: httpx2.AsyncClient
    outside: Broker
    records: list[Record]
    ocr: RecordedOcr
    receiver: Receiver
    exporter: InMemorySpanExporter
    log: io.StringIO
    partner_key: str

    async def publish(
        self, topic: str, value: bytes, key: bytes = b"key", headers: Mapping[str, str] | None = None
    ) -> None:
        """A record of somebody else's; returns when its readers are done with it."""
        await publish_bytes(self.outside, topic, value, key, headers=dict(headers or {}))

    def of(self, topic: str) -> list[Record]:
        """What lies in a topic."""
        return [record for record in self.records if record.topic == topic]

    def spans(self) -> list[Any]:
        """Every finished span; the attribute `service` says whose."""
        telemetry.flush()
        return list(self.exporter.get_finished_spans())


class _Labelled:
    """A tracer that says on each span whose it is: seven services share this process's provider."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def start_span(self, name: str, context: Any, kind: Any, attributes: Mapping[str, Any], links: Any) -> Any:
        return self._tracer.start_span(name, context, kind, {**attributes, "service": _service.get()}, links)


class _Upstreams:
    """The services behind the gateway, asked in process."""

    def __init__(self, clients: Mapping[str, httpx2.AsyncClient]) -> None:
        self._clients = clients

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        got = await self._clients[service].request(method, target, headers=dict(headers), content=body)
        return Answer(got.status_code, dict(got.headers), got.content)


@asynccontextmanager
async def whole(folder: Path, **settings: Any) -> AsyncGenerator[Whole]:
    """Run everything in `folder`; the demo partner's key is there, its endpoint is not."""
    common = common_settings(folder) | {"objects_url": f"file:///{folder}/objects", "trace_budget_per_s": 1000}
    common |= settings
    exporter, log = _observed(common)
    ocr, records = RecordedOcr(), list[Record]()
    async with AsyncExitStack() as stack:
        clients: dict[str, httpx2.AsyncClient] = {}
        apps, brokers = _services(folder, common, ocr)
        edges = Edges(make_broker(ServiceSettings(**common), "gateway"), _Upstreams(clients), follows=False)
        settings = GatewaySettings(
            gateway_internal_key_path=folder / "internal.jwk",
            gateway_receipt_key_path=folder / "receipts.key",
            **common,
        )
        apps["gateway"], brokers["gateway"] = create_gateway(settings, edges), edges.broker
        outside = make_broker(ServiceSettings(**common), "test")
        _record(outside, records)
        _feed(outside, apps["gateway"])
        for name, broker in brokers.items():
            _run_as(name, broker)
        # `outside` first, so that `records` has the order in which they were published.
        await stack.enter_async_context(TestKafkaBroker(outside, *brokers.values(), connect_only=False))
        # Auth at the end: in memory there is no later, and at its start it tells of the demo partner.
        for name in sorted(apps, key=lambda name: name == "auth"):
            clients[name] = await _started(stack, name, apps[name])
        receiver = await _receiving(stack)
        partner_key = (folder / "demo-partner.key").read_text().strip()
        await eventually(lambda: _knows(clients["gateway"], partner_key))
        yield Whole(folder, apps, clients["gateway"], outside, records, ocr, receiver, exporter, log, partner_key)


async def _knows(gateway: httpx2.AsyncClient, partner_key: str) -> bool:
    """Whether the gateway has heard of the demo partner, which auth tells of a moment after its start."""
    answer = await gateway.get("/v1/whoami", headers={"Authorization": f"Bearer {partner_key}"})
    return answer.status_code == 200


def _services(folder: Path, common: dict[str, Any], ocr: RecordedOcr) -> tuple[dict[str, FastAPI], dict[str, Broker]]:
    """The six services behind the gateway."""
    brokers = {name: make_broker(ServiceSettings(**common), name) for name in SERVICES}
    auth = AuthSettings(
        auth_signing_key_path=folder / "auth.jwk",
        auth_pepper_path=folder / "auth-pepper.key",
        auth_demo_partner_key_path=folder / "demo-partner.key",
        **common,
    )
    webhooks = WebhooksSettings(**common | LOCAL_DELIVERIES)
    apps = {
        "auth": create_auth(auth, broker=brokers["auth"]),
        "ingest": create_ingest(IngestSettings(**common), broker=brokers["ingest"]),
        "inference": create_inference(InferenceSettings(**common), broker=brokers["inference"], ocr=ocr),
        "nutrition": create_nutrition(NutritionSettings(**common), broker=brokers["nutrition"]),
        "insights": create_insights(InsightsSettings(**common), broker=brokers["insights"]),
        "webhooks": create_webhooks(webhooks, broker=brokers["webhooks"]),
    }
    return apps, brokers


def _observed(common: dict[str, Any]) -> tuple[InMemorySpanExporter, io.StringIO]:
    """Where spans and the log's lines go, the lines as a service would write them."""
    exporter, log = InMemorySpanExporter(), io.StringIO()
    telemetry.configure("gateway", ServiceSettings(**common, log_level="DEBUG"), exporter=exporter)
    spans.Tracing.tracer = _Labelled(spans.Tracing.tracer)
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger().handlers = [handler]
    return exporter, log


def _record(outside: Broker, records: list[Record]) -> None:
    names = [name for topic in topics.TOPICS for name in (topic.name, *map(topic.dead_letters, topic.readers))]

    async def keep(record: Any) -> None:
        headers = {name: value.decode() for name, value in record.headers}
        records.append(Record(record.topic, record.key or b"", record.value or b"", headers))

    async def whole_record(message: Any) -> Any:
        return message.raw_message

    outside.subscriber(*names, group_id="test.records", decoder=whole_record)(keep)


def _feed(outside: Broker, gateway: FastAPI) -> None:
    """The gateway's own readers have no group and ask Kafka themselves; here they are fed."""
    gateway.state.live.fed_from_here()

    async def record(message: Any) -> Any:
        return message.raw_message

    async def take(record: Any) -> None:
        await gateway.state.live.take(MessagePublished.model_validate_json(record.value))

    outside.subscriber(topics.MESSAGES.name, group_id="test.live", decoder=record)(take)
    states = {topics.REVOCATIONS: "revocations", topics.GRANTS: "grants", topics.PARTNERS: "partners"}
    for topic, name in states.items():
        take_state = _taking(topic, getattr(gateway.state, name).take)
        outside.subscriber(topic.name, group_id=f"test.{name}", decoder=record)(take_state)


def _taking(topic: topics.Topic, take: Callable[[str, Event | None], Awaitable[None]]) -> Callable[[Any], Any]:
    decode = event_decoder(topic)

    async def taken(record: Any) -> None:
        try:
            event = decode(record.value) if record.value is not None else None
        except (UnknownType, Undecodable):
            return  # passed over, as by the gateway's own reader
        await take(record.key.decode(), event)

    return taken


def _run_as(service: str, broker: Broker) -> None:
    """Let the broker's subscribers know who they are: in memory they run inside the publisher."""
    for subscriber in broker.subscribers:
        subscriber.process_message = _called_as(service, subscriber.process_message)


def _called_as(service: str, call: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Awaitable[T]]:
    async def labelled(message: Any) -> T:
        token = _service.set(service)
        try:
            return await call(message)
        finally:
            _service.reset(token)

    return labelled


def _served_as(service: str, app: ASGIApp) -> ASGIApp:
    async def labelled(scope: Scope, receive: Receive, send: Send) -> None:
        token = _service.set(service)
        try:
            await app(scope, receive, send)
        finally:
            _service.reset(token)

    return labelled


async def _started(stack: AsyncExitStack, name: str, app: FastAPI) -> httpx2.AsyncClient:
    """Open the app, whose tasks inherit its name, and a client on it."""
    token = _service.set(name)
    await stack.enter_async_context(app.router.lifespan_context(app))
    _service.reset(token)
    transport = httpx2.ASGITransport(_served_as(name, app))
    return await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url=f"http://{name}"))


async def _receiving(stack: AsyncExitStack) -> Receiver:
    receiver = Receiver(0)
    token = _service.set("receiver")
    stack.push_async_callback(receiver.stop)
    await receiver.start()
    _service.reset(token)
    return receiver
