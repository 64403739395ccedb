"""The webhooks service: public messages in order, and their delivery to partners."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
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
from shared import kafka, topics
from shared.application import event_app, opened, under_way
from shared.clock import Clock, utc_now
from shared.documents import open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.events.webhooks import MessagePublished
from shared.export import PARTS, Exporter
from shared.jobs import Workers
from shared.kafka import Broker, make_broker
from shared.objects import open_objects
from shared.outbox import Relay
from shared.secrets import open_secrets
from shared.service import serve
from shared.start import starting
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
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        work = [one.run for one in (dispatcher, health, replaying, pruner, relay, erasure, exporter)]
        # Deliveries that are due go out even while Kafka is away, and reads need none.
        async with opened(objects, documents, COLLECTIONS, erasure), AsyncExitStack() as stack:
            stack.push_async_callback(egress.close)
            await egress.open()
            async with under_way(work), starting(broker), watchdog:
                yield

    reported = {"objects": objects.answers}
    app = event_app(SERVICE, settings, lifespan, watchdog, database=lambda: store.endpoint("-"), reported=reported)
    app.state.store = store
    app.include_router(api.create_router(store))
    app.include_router(endpoints_api.create_router(endpoints, keys, clock, dispatcher.nudge))
    app.include_router(deliveries_api.create_router(documents, store, endpoints, clock))
    app.include_router(replays_api.create_router(replays, endpoints, clock, replaying.nudge))
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
