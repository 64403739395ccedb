"""The insights service: energy ledgers and texts about them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.insights.api import router
from services.insights.exporting import CONTENTS
from services.insights.handlers import SERVICE, Handlers, subscribe
from services.insights.settings import Settings
from services.insights.store import COLLECTIONS, INSIGHTS, LEDGERS, PERSONAL, Insight, Ledger, Store
from shared import kafka, problems
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.export import PARTS, Exporter
from shared.identity import install_identity
from shared.internal_tokens import InternalTokenVerifier
from shared.kafka import Broker, make_broker
from shared.objects import open_objects
from shared.outbox import Relay
from shared.service import install_health, serve
from shared.start import starting
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
from shared.watchdog import Watchdog


def create_app(
    settings: Settings | None = None,
    *,
    broker: Broker | None = None,
    documents: Documents | None = None,
    clock: Clock = utc_now,
) -> FastAPI:
    """The app; nothing is opened before its lifespan. Tests hand in a broker, documents and a clock."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, SERVICE)
    erased, objects = ErasedUsers(), open_objects(settings)
    documents = GuardedDocuments(documents or open_documents(settings.database_url, SERVICE), PERSONAL, erased)
    broker.refuses = erased.refuses
    store = Store(documents)
    relay = Relay(documents, [LEDGERS, INSIGHTS, PARTS, TOMBSTONES], partial(kafka.publish_bytes, broker))
    erasure = Erasure(SERVICE, documents, PERSONAL, erased, relay, clock, objects=objects)
    exporter = Exporter(SERVICE, documents, objects, CONTENTS, relay, clock)
    exporter.listen(broker, erasure)
    watchdog = Watchdog(broker)

    def told(ledger: Ledger, insight: Insight | None) -> None:
        relay.nudge(LEDGERS, ledger.id)
        if insight is not None:
            relay.nudge(INSIGHTS, insight.id)

    subscribe(broker, Handlers(store, told, clock), erasure)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await objects.start()
        await documents.open(COLLECTIONS)
        await erasure.load()
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

    app = FastAPI(title="insights", version="1", telemetry=FASTAPI_TELEMETRY, lifespan=lifespan)
    app.state.store = store
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    install_identity(app, InternalTokenVerifier(settings.internal_jwks_path, SERVICE))
    ready = {"kafka": watchdog.ready, "database": store.ping}
    install_health(app, watchdog.live, ready, reported={"objects": objects.answers})
    app.include_router(router)
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
