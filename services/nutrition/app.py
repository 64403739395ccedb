"""The nutrition service: foods and diaries."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.nutrition.api import create_router
from services.nutrition.exporting import CONTENTS
from services.nutrition.handlers import SERVICE, Handlers, subscribe
from services.nutrition.settings import Settings
from services.nutrition.store import COLLECTIONS, ENTRIES, PERSONAL, Store
from shared.application import event_app, opened, under_way
from shared.clock import utc_now
from shared.documents import open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.export import PARTS, Exporter
from shared.kafka import Broker, make_broker, publish_bytes
from shared.objects import open_objects
from shared.outbox import Relay
from shared.service import serve
from shared.start import starting
from shared.watchdog import Watchdog


def create_app(settings: Settings | None = None, *, broker: Broker | None = None) -> FastAPI:
    """The app; nothing is opened before its lifespan. Tests hand in a broker."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, SERVICE)
    erased, objects = ErasedUsers(), open_objects(settings)
    documents = GuardedDocuments(open_documents(settings.database_url, SERVICE), PERSONAL, erased)
    broker.refuses = erased.refuses
    store = Store(documents)
    relay = Relay(documents, [ENTRIES, PARTS, TOMBSTONES], partial(publish_bytes, broker))
    erasure = Erasure(SERVICE, documents, PERSONAL, erased, relay, utc_now, objects=objects)
    exporter = Exporter(SERVICE, documents, objects, CONTENTS, relay, utc_now)
    exporter.listen(broker, erasure)
    watchdog = Watchdog(broker)
    subscribe(broker, Handlers(store, partial(relay.nudge, ENTRIES)), erasure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        work = (relay.run, erasure.run, exporter.run)
        # Entries whose events wait are published as soon as Kafka is there; reads need none.
        async with opened(objects, documents, COLLECTIONS, erasure), under_way(work), starting(broker), watchdog:
            yield

    reported = {"objects": objects.answers}
    app = event_app(SERVICE, settings, lifespan, watchdog, database=lambda: store.food("-"), reported=reported)
    app.state.store = store
    app.include_router(create_router(store))
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
