"""A consumer to be killed: appends the user ids of each turn to a file, fsynced, and only then commits."""

import asyncio
import json
import os
import sys
from pathlib import Path

from shared.events.auth import UserUpdated
from shared.kafka import make_broker, subscribe, subscribe_batches
from shared.settings import ServiceSettings
from shared.start import start_broker
from shared.topics import Topic


async def main() -> None:
    description = json.loads(sys.argv[1])
    topic = Topic(description["topic"], "log", "user_id", (UserUpdated,), (), description["partitions"])
    broker = make_broker(ServiceSettings(), "nutrition")

    def decide(event: UserUpdated) -> str:
        return event.user_id

    async def write(decisions: list[tuple[str, str | None]]) -> None:
        await asyncio.sleep(0.05)  # time to be killed in
        await asyncio.to_thread(append, Path(description["store"]), [user_id for user_id, _ in decisions])

    async def handle(event: UserUpdated) -> None:
        await asyncio.sleep(0.005)
        await asyncio.to_thread(append, Path(description["store"]), [event.user_id])

    if description["mode"] == "batch":
        subscribe_batches(broker, topic, "nutrition", decide, write, max_records=100)
    else:
        subscribe(broker, topic, "nutrition", handle)
    await start_broker(broker)
    await asyncio.Event().wait()


def append(path: Path, lines: list[str]) -> None:
    with path.open("a") as file:
        file.write("\n".join([*lines, ""]))
        file.flush()
        os.fsync(file.fileno())


asyncio.run(main())
