"""A process that delivers what is due: `python -m tests.service.dispatch_process FOLDER CLOCK_AHEAD_S CONCURRENCY`."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from services.webhooks.egress import Egress
from services.webhooks.health import Health
from services.webhooks.keys import EndpointKeys
from services.webhooks.sending import Sender
from services.webhooks.settings import Settings
from services.webhooks.store import COLLECTIONS, Store
from services.webhooks.workers import Dispatcher
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.secrets import open_secrets
from tests.service.receiver import LOCAL_DELIVERIES


def settings_in(folder: Path) -> Settings:
    """Settings of a service whose database and keys lie in `folder`."""
    return Settings(
        database_url=f"sqlite:///{folder}",
        secrets_key_path=folder / "secrets.key",
        **LOCAL_DELIVERIES,
    )


async def deliver(folder: Path, ahead: timedelta, concurrency: int) -> None:
    """Deliver until killed."""

    def clock() -> datetime:
        return utc_now() + ahead

    documents = open_documents(settings_in(folder).database_url, "webhooks")
    await documents.open(COLLECTIONS)
    async with dispatcher(folder, documents, clock, concurrency) as one:
        await one.run()


@asynccontextmanager
async def dispatcher(folder: Path, documents: Documents, clock: Clock, concurrency: int) -> AsyncGenerator[Dispatcher]:
    """One of a service whose keys lie in `folder`, not running yet."""
    settings, store = settings_in(folder), Store(documents, clock)
    egress = Egress(settings.deliveries_go_to(), connections=concurrency)
    await egress.open()
    sender = Sender(store, egress, EndpointKeys(open_secrets(settings)), clock)
    health = Health(documents, store, clock)
    try:
        yield Dispatcher(store.queue, store.endpoint, sender, health, clock, concurrency=concurrency)
    finally:
        await egress.close()


if __name__ == "__main__":
    asyncio.run(deliver(Path(sys.argv[1]), timedelta(seconds=float(sys.argv[2])), int(sys.argv[3])))
