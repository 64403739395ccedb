"""Runs a service with a fault planted in it: `python -m tests.faults.planted NAME[,NAME] services.ingest.app`.

Nothing of this is in the service itself: the names below are exchanged in its process before its module runs.
`page-limit` alone is no defect: it lets a test fill the disk of the service's database at will.
"""

import os
import runpy
import secrets
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAGE_LIMIT_FILE = "FAULTS_PAGE_LIMIT_FILE"
LARGEST_PAGE_COUNT = 4_294_967_294


def commit_early() -> None:
    """Commit a record's offset before its handler has done anything."""
    from shared import outcomes
    from shared.places import partition_of

    settle: Any = outcomes.Batches._settle

    async def settled(self: Any, records: Sequence[Any]) -> None:
        await self._places.commit({partition_of(record): record.offset + 1 for record in records})
        await self._places.flush()
        await settle(self, records)

    outcomes.Batches._settle = settled


def acks_1() -> None:
    """Answer as soon as the leader alone holds a record."""
    from faststream.kafka import KafkaBroker

    make: Any = KafkaBroker.__init__

    def made(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **{**named, "acks": 1})

    KafkaBroker.__init__ = made


def no_dedupe() -> None:
    """Give every sample an identity that nothing shares."""
    from services.ingest import handlers
    from services.ingest.samples import CheckedBatch

    decide = handlers.decide

    def decided(*arguments: Any, **named: Any) -> Any:
        batch = decide(*arguments, **named)
        for series in batch.series if isinstance(batch, CheckedBatch) else ():
            series.rows["id_lo"] = np.frombuffer(secrets.token_bytes(8 * len(series.rows)), "<u8")
        return batch

    handlers.decide = decided


def page_limit() -> None:
    """While the file of FAULTS_PAGE_LIMIT_FILE exists, the database may not grow by a page."""
    from shared.documents import writer

    file = Path(os.environ[PAGE_LIMIT_FILE])
    commit: Any = writer.Writer._commit

    def committed(self: Any, group: Sequence[Any]) -> list[Any]:
        try:
            self._connection = self._connection or self._connect()
            # SQLite raises a limit below the present size to that size.
            self._connection.execute(f"PRAGMA max_page_count = {1 if file.exists() else LARGEST_PAGE_COUNT}")
        except sqlite3.Error:
            pass  # the commit meets it too, and says so
        return commit(self, group)

    writer.Writer._commit = committed


FAULTS: dict[str, Callable[[], None]] = {
    "commit-early": commit_early,
    "acks-1": acks_1,
    "no-dedupe": no_dedupe,
    "page-limit": page_limit,
}


def main(names: str, module: str) -> None:
    """Plant, then run the module as if it had been started itself."""
    for name in names.split(","):
        FAULTS[name]()
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
