"""The insights service: energy ledgers and texts about them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.insights.api import router
from services.insights.exporting import CONTENTS
from services.insights.handlers import SERVICE, Handlers, subscribe
from services.insights.settings import Settings
from services.insights.store import COLLECTIONS, INSIGHTS, LEDGERS, PERSONAL, Insight, Ledger, Store
from shared import kafka
from shared.application import event_app, opened, under_way
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.export import PARTS, Exporter
from shared.kafka import Broker, make_broker
from shared.objects import open_objects
from shared.outbox import Relay
from shared.service import serve
from shared.start import starting
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
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        work = (relay.run, erasure.run, exporter.run)
        # Reads need no Kafka.
        async with opened(objects, documents, COLLECTIONS, erasure), under_way(work), starting(broker), watchdog:
            yield

    reported = {"objects": objects.answers}
    app = event_app(SERVICE, settings, lifespan, watchdog, database=store.ping, reported=reported)
    app.state.store = store
    app.include_router(router)
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
