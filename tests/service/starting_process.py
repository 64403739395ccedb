"""A process that starts beside others: `python -m tests.service.starting_process FOLDER`; a line on stdin lets it go.

It opens the databases of all services, and starts auth as it is, without Kafka.
"""

import asyncio
import sys
from pathlib import Path

from services.auth.app import create_app
from services.auth.settings import Settings
from services.inference.store import COLLECTIONS as INFERENCE
from services.ingest.records import COLLECTIONS as INGEST
from services.insights.store import COLLECTIONS as INSIGHTS
from services.nutrition.store import COLLECTIONS as NUTRITION
from services.webhooks.store import COLLECTIONS as WEBHOOKS
from shared.documents import open_documents
from tests.service.running import common_settings

OTHERS = {
    "inference": INFERENCE,
    "ingest": INGEST,
    "insights": INSIGHTS,
    "nutrition": NUTRITION,
    "webhooks": WEBHOOKS,
}


def settings_in(folder: Path) -> Settings:
    """Auth's settings; the keys are made where they are missing."""
    return Settings(
        **common_settings(folder),
        auth_signing_key_path=folder / "auth.jwk",
        auth_pepper_path=folder / "auth-pepper.key",
        auth_demo_partner_key_path=folder / "demo-partner.key",
        kafka_bootstrap_servers="127.0.0.1:9",
    )


async def main(folder: Path) -> None:
    """Start once told to."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    settings = settings_in(folder)
    for service, collections in OTHERS.items():
        documents = open_documents(settings.database_url, service)
        await documents.open(collections)
        await documents.close()
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        sys.stdout.write("started\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
