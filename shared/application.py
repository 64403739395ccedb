"""What services that work on Kafka's events have in common: their app, what it opens, and what runs while it is up."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from shared import problems
from shared.cancelling import cancelled
from shared.documents import Collection, Documents
from shared.erasure import Erasure
from shared.identity import install_identity
from shared.internal_tokens import InternalTokenVerifier
from shared.objects import Objects
from shared.service import Check, install_health
from shared.settings import ServiceSettings
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
from shared.watchdog import Watchdog

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def event_app(
    service: str,
    settings: ServiceSettings,
    lifespan: Lifespan,
    watchdog: Watchdog,
    *,
    database: Check,
    reported: Mapping[str, Check],
) -> FastAPI:
    """An app without routes of its own: traces, problems, internal tokens, /livez, /readyz and /metrics.

    It is ready while Kafka and the database answer; what `reported` says of other parts decides nothing.
    """
    app = FastAPI(title=service, version="1", telemetry=FASTAPI_TELEMETRY, lifespan=lifespan)
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    install_identity(app, InternalTokenVerifier(settings.internal_jwks_path, service))
    install_health(app, watchdog.live, {"kafka": watchdog.ready, "database": database}, reported=reported)
    return app


@asynccontextmanager
async def opened(
    objects: Objects, documents: Documents, collections: Sequence[Collection[Any]], erasure: Erasure
) -> AsyncGenerator[None]:
    """What is stored, open; and it is known who was erased."""
    await objects.start()
    await documents.open(collections)
    try:
        await erasure.load()
        yield
    finally:
        await documents.close()


@asynccontextmanager
async def under_way(work: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> AsyncGenerator[None]:
    """Run all of these until the block ends, and wait until they have."""
    tasks = [asyncio.create_task(run()) for run in work]
    try:
        yield
    finally:
        await cancelled(*tasks)
