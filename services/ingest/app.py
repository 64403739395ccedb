"""The ingest service: samples, receipts and days."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI

from services.ingest import devices_api, history_api, operator_api, receipts_api, series_api, sessions_api
from services.ingest.api import router
from services.ingest.days_store import DaysStore
from services.ingest.exporting import CONTENTS
from services.ingest.handlers import SERVICE, Handlers, subscribe
from services.ingest.history_store import History
from services.ingest.preferences import Preferences
from services.ingest.records import (
    COLLECTIONS,
    DAYS,
    DELETION_JOBS,
    DIRTY_DAYS,
    PERSONAL,
    RECOMPUTATIONS,
    REPUBLICATIONS,
)
from services.ingest.referred import Referred
from services.ingest.republish import Republisher
from services.ingest.searching import DeletionSearch
from services.ingest.series_store import Reads
from services.ingest.settings import Settings
from services.ingest.store import Store
from services.ingest.storing import Storing
from services.ingest.waiting import Waiting
from services.ingest.workers import DayWorker
from shared import kafka, topics
from shared.application import event_app, opened, under_way
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.erased import ErasedUsers, GuardedDocuments
from shared.erasure import TOMBSTONES, Erasure
from shared.events.ingest import ReceiptsCompleted
from shared.export import PARTS, Exporter
from shared.jobs import Workers
from shared.kafka import Broker, make_broker
from shared.objects import open_objects
from shared.outbox import Relay
from shared.service import serve
from shared.start import starting
from shared.watchdog import Watchdog

# How often it looks for jobs that nobody nudged it about.
SCAN_S = 1.0


def create_app(
    settings: Settings | None = None,
    *,
    broker: Broker | None = None,
    documents: Documents | None = None,
    clock: Clock = utc_now,
    scan_seconds: float = SCAN_S,
) -> FastAPI:
    """The app; nothing is opened before its lifespan. Tests hand in a broker, documents, a clock and a shorter scan."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, SERVICE)
    erased, objects = ErasedUsers(), open_objects(settings)
    documents = GuardedDocuments(documents or open_documents(settings.database_url, SERVICE), PERSONAL, erased)
    broker.refuses = erased.refuses
    store, watchdog, waiting = Store(documents), Watchdog(broker), Waiting()
    relay = Relay(documents, [DAYS, PARTS, TOMBSTONES], partial(kafka.publish_bytes, broker))
    days, preferences = DaysStore(documents), Preferences(documents, clock)
    day_worker = DayWorker(
        days, preferences, partial(relay.nudge, DAYS), lambda: workers.behind or storing.behind, clock
    )
    jobs = partial(Workers[Any], documents, clock=clock, scan_seconds=scan_seconds)
    workers = jobs(DIRTY_DAYS, day_worker.compute, concurrency=settings.ingest_day_workers)
    # What is stored last is the job itself: by then the days it marked are due.
    recomputations = jobs(RECOMPUTATIONS, day_worker.mark, concurrency=2, on_stored=lambda _: workers.nudge())
    republisher = Republisher(documents, partial(kafka.publish, broker, topics.DAYS), clock)
    republications = jobs(REPUBLICATIONS, republisher.work, concurrency=1)
    publish = _publisher(broker, waiting)
    storing, referred = Storing(documents, clock), Referred(objects)
    handlers = Handlers(store, storing, referred, publish, workers.nudge, lambda: searches.nudge(), clock, preferences)
    search = DeletionSearch(documents, storing, handlers.tell, workers.nudge, clock)
    searches = jobs(DELETION_JOBS, search.work, concurrency=2)
    erasure = Erasure(SERVICE, documents, PERSONAL, erased, relay, clock, objects=objects, forget=storing.forget)
    subscribe(broker, handlers, erasure)
    exporter = Exporter(SERVICE, documents, objects, CONTENTS, relay, clock)
    exporter.listen(broker, erasure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        work = [one.run for one in (workers, searches, recomputations, republications, relay, exporter, erasure)]
        # Days that are due are computed even while Kafka is away, their events wait inside them; reads need none.
        async with opened(objects, documents, COLLECTIONS, erasure), under_way(work), starting(broker), watchdog:
            yield

    reported = {"objects": objects.answers}
    app = event_app(SERVICE, settings, lifespan, watchdog, database=store.ping, reported=reported)
    app.state.days, app.state.preferences = days, preferences
    app.state.store, app.state.handlers = store, handlers
    for one in _routers(documents, republisher, waiting, clock):
        app.include_router(one)
    return app


def _publisher(broker: Broker, waiting: Waiting) -> Callable[[ReceiptsCompleted, str | None], Awaitable[None]]:
    async def publish(event: ReceiptsCompleted, traceparent: str | None) -> None:
        waiting.told(one.receipt_id for one in event.receipts)
        await kafka.publish(broker, topics.RECEIPTS, event, traceparent=traceparent)

    return publish


def _routers(documents: Documents, republisher: Republisher, waiting: Waiting, clock: Clock) -> list[APIRouter]:
    reads = Reads(documents)
    return [
        router,
        receipts_api.create_router(reads, waiting, clock),
        series_api.create_router(reads),
        history_api.create_router(History(documents)),
        sessions_api.create_router(reads),
        devices_api.create_router(reads, clock),
        operator_api.create_router(republisher, clock),
    ]


if __name__ == "__main__":
    serve(create_app, SERVICE)
