"""The inference service: photos of nutrition labels become numbers."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.inference.api import create_router
from services.inference.exporting import CONTENTS
from services.inference.handlers import SERVICE, Handlers, subscribe
from services.inference.settings import Settings
from services.inference.store import COLLECTIONS, JOBS, PERSONAL, Store
from services.inference.triton import Ocr, TritonOcr
from services.inference.workers import Reader, make_workers
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


def create_app(settings: Settings | None = None, *, broker: Broker | None = None, ocr: Ocr | None = None) -> FastAPI:
    """The app; nothing is opened before its lifespan. Tests hand in a broker and an OCR."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, SERVICE)
    ocr = ocr or TritonOcr(settings.inference_triton_url, settings.inference_triton_timeout_s)
    erased, objects = ErasedUsers(), open_objects(settings)
    documents = GuardedDocuments(open_documents(settings.database_url, SERVICE), PERSONAL, erased)
    broker.refuses = erased.refuses
    store = Store(documents)
    relay = Relay(documents, [JOBS, PARTS, TOMBSTONES], partial(publish_bytes, broker))
    reader = Reader(store, objects, ocr)
    erasure = Erasure(SERVICE, documents, PERSONAL, erased, relay, utc_now, objects=objects)
    exporter = Exporter(SERVICE, documents, objects, CONTENTS, relay, utc_now)
    exporter.listen(broker, erasure)
    workers = make_workers(documents, reader, relay, concurrency=settings.inference_concurrency)
    watchdog = Watchdog(broker)
    subscribe(broker, Handlers(store, workers.nudge), erasure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        work = (relay.run, workers.run, erasure.run, exporter.run)
        async with opened(objects, documents, COLLECTIONS, erasure), AsyncExitStack() as stack:
            stack.push_async_callback(ocr.close)
            # Reads need no Kafka.
            async with under_way(work), starting(broker), watchdog:
                yield

    # Without Triton or the objects photos wait in their jobs, so they decide nothing here.
    reported = {"triton": ocr.answers, "objects": objects.answers}
    app = event_app(SERVICE, settings, lifespan, watchdog, database=lambda: store.job("-"), reported=reported)
    app.state.store = store
    app.include_router(create_router(store))
    return app


if __name__ == "__main__":
    serve(create_app, SERVICE)
