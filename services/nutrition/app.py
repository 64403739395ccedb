"""The nutrition service: foods and diaries."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.nutrition.api import create_router
from services.nutrition.exporting import CONTENTS
from services.nutrition.handlers import SERVICE, Handlers, subscribe
from services.nutrition.settings import Settings
from services.nutrition.store import COLLECTIONS, ENTRIES, PERSONAL, Store
from shared import problems
from shared.clock import utc_now
from shared.documents import open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.export import PARTS, Exporter
from shared.identity import install_identity
from shared.internal_tokens import InternalTokenVerifier
from shared.kafka import Broker, make_broker, publish_bytes
from shared.objects import open_objects
from shared.outbox import Relay
from shared.service import install_health, serve
from shared.start import starting
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
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
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await objects.start()
        await documents.open(COLLECTIONS)
        await erasure.load()
        # Entries whose events wait are published as soon as Kafka is there.
        tasks = {asyncio.create_task(one.run()) for one in (relay, erasure, exporter)}
        try:
            # Reads need no Kafka.
            async with starting(broker), watchdog:
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await documents.close()

    app = FastAPI(title="nutrition", version="1", telemetry=FASTAPI_TELEMETRY, lifespan=lifespan)
    app.state.store = store
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    install_identity(app, InternalTokenVerifier(settings.internal_jwks_path, SERVICE))
    ready = {"kafka": watchdog.ready, "database": lambda: store.food("-")}
    install_health(app, watchdog.live, ready, reported={"objects": objects.answers})
    app.include_router(create_router(store))
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
