"""A process of a service that writes a part which never ends: `python -m tests.service.export_process FOLDER`."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from shared.clock import utc_now
from shared.documents import open_documents
from shared.export import PARTS, Exporter
from shared.exported import File, Lines
from shared.objects import Objects
from shared.outbox import Relay
from tests.service.test_erasure import NOTES


async def _endless(*_: Any) -> AsyncGenerator[Lines]:
    while True:
        yield Lines(1, b'{"text":"secret"}\n' * 10_000)


async def _publish(topic_name: str, value: bytes | None, key: str, *, traceparent: str | None = None) -> None:
    return


async def main(folder: Path) -> None:
    """Write until killed."""
    documents = open_documents(f"sqlite:///{folder}", "ingest")
    await documents.open([NOTES, PARTS])
    contents = [File("notes.jsonl", "Notes", (NOTES,), _endless)]
    objects, relay = Objects(f"file:///{folder}/objects"), Relay(documents, [PARTS], _publish)
    await Exporter("ingest", documents, objects, contents, relay, utc_now).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
