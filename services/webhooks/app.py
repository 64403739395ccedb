"""The webhooks service: public messages in order, and their delivery to partners."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from fastapi import FastAPI

from services.webhooks import api, deliveries_api, endpoints_api, replays_api
from services.webhooks.egress import Egress
from services.webhooks.endpoints import Endpoints
from services.webhooks.exporting import CONTENTS
from services.webhooks.handlers import SERVICE, Handlers, subscribe
from services.webhooks.health import Health
from services.webhooks.keys import EndpointKeys
from services.webhooks.pruning import Pruner
from services.webhooks.records import REPLAYS
from services.webhooks.replays import Replays
from services.webhooks.sending import Sender
from services.webhooks.settings import Settings
from services.webhooks.store import COLLECTIONS, PERSONAL, Store
from services.webhooks.workers import Dispatcher
from shared import kafka, problems, topics
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.events.webhooks import MessagePublished
from shared.export import PARTS, Exporter
from shared.identity import install_identity
from shared.internal_tokens import InternalTokenVerifier
from shared.jobs import Workers
from shared.kafka import Broker, make_broker
from shared.objects import open_objects
from shared.outbox import Relay
from shared.secrets import open_secrets
from shared.service import install_health, serve
from shared.start import starting
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
from shared.watchdog import Watchdog


def create_app(settings: Settings | None = None, *, broker: Broker | None = None, clock: Clock = utc_now) -> FastAPI:
    """The app; nothing is opened before its lifespan. Tests hand in a broker and a clock."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, SERVICE)
    erased, objects = ErasedUsers(), open_objects(settings)
    documents = GuardedDocuments(open_documents(settings.database_url, SERVICE), PERSONAL, erased)
    broker.refuses = erased.refuses
    store = Store(documents, clock)
    relay = Relay(documents, [PARTS, TOMBSTONES], partial(kafka.publish_bytes, broker))
    erasure = Erasure(SERVICE, documents, PERSONAL, erased, relay, clock, objects=objects)
    exporter = Exporter(SERVICE, documents, objects, CONTENTS, relay, clock)
    exporter.listen(broker, erasure)
    at_once = settings.webhooks_concurrency
    egress = Egress(settings.deliveries_go_to(), connections=at_once)
    keys = EndpointKeys(open_secrets(settings))
    sender, health = Sender(store, egress, keys, clock), Health(documents, store, clock)
    dispatcher = Dispatcher(store.queue, store.endpoint, sender, health, clock, concurrency=at_once)
    replays = Replays(documents, store, clock)
    replaying = Workers(documents, REPLAYS, replays.work, clock=clock)
    pruner = Pruner(documents, store, clock, timedelta(days=settings.webhooks_keep_days))
    watchdog = Watchdog(broker)

    async def publish(event: MessagePublished, traceparent: str | None) -> None:
        await kafka.publish(broker, topics.MESSAGES, event, traceparent=traceparent)

    endpoints = Endpoints(documents, store.queue, egress, keys, clock)
    subscribe(broker, Handlers(store, publish, endpoints.forget), erasure)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await objects.start()
        work = [one.run for one in (dispatcher, health, replaying, pruner, relay, erasure, exporter)]
        # Deliveries that are due go out even while Kafka is away, and reads need none.
        async with _opened(documents, egress, erasure), _under_way(work), starting(broker), watchdog:
            yield

    app = FastAPI(title="webhooks", version="1", telemetry=FASTAPI_TELEMETRY, lifespan=lifespan)
    app.state.store = store
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    install_identity(app, InternalTokenVerifier(settings.internal_jwks_path, SERVICE))
    ready = {"kafka": watchdog.ready, "database": lambda: store.endpoint("-")}
    install_health(app, watchdog.live, ready, reported={"objects": objects.answers})
    app.include_router(api.create_router(store))
    app.include_router(endpoints_api.create_router(endpoints, keys, clock, dispatcher.nudge))
    app.include_router(deliveries_api.create_router(documents, store, endpoints, clock))
    app.include_router(replays_api.create_router(replays, endpoints, clock, replaying.nudge))
    return app


@asynccontextmanager
async def _opened(documents: Documents, egress: Egress, erasure: Erasure) -> AsyncGenerator[None]:
    await documents.open(COLLECTIONS)
    try:
        await egress.open()
        await erasure.load()
        yield
    finally:
        await egress.close()
        await documents.close()


@asynccontextmanager
async def _under_way(work: Iterable[Callable[[], Coroutine[None, None, None]]]) -> AsyncGenerator[None]:
    tasks = {asyncio.create_task(run()) for run in work}
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


if __name__ == "__main__":
    serve(create_app, SERVICE)
