"""The audit log on MongoDB."""

import asyncio
from datetime import timedelta

from services.auth import audit
from services.auth.attempts import Attempts
from services.auth.audit import LINES
from shared.clock import truncated, utc_now
from shared.documents import open_documents
from tests.polling import eventually


async def test_lines_are_listed_counted_and_pruned(fake_mongo: str) -> None:
    store = open_documents(f"{fake_mongo}/audit", "auth")
    await store.open([LINES])
    now = truncated(utc_now())
    for second in range(5):
        line = audit.line("signed-in", now + timedelta(seconds=second), user_id="usr_a")
        await store.put_many([line, audit.line("password-changed", now, user_id="usr_b")])

    which = {"user_id": "usr_a", "kind": "signed-in", "since": now + timedelta(seconds=1)}
    first = await audit.page(store, **which, limit=3, cursor=None)
    rest = await audit.page(store, **which, limit=3, cursor=first.cursor)
    seen = [one.at - now for one in (*first.documents, *rest.documents)]
    assert seen == [timedelta(seconds=second) for second in (4, 3, 2, 1)]

    attempts = Attempts(store, lambda: now)
    working = asyncio.create_task(attempts.run())
    for _ in range(100):
        attempts.note("wrong-password", "usr_c")

    async def counts() -> list[int]:
        found = await audit.page(store, user_id="usr_c", limit=3, cursor=None)
        return [one.count for one in found.documents]

    assert await eventually(counts) == [100]
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert await audit.prune(store, now + timedelta(days=1)) == 11
    await store.close()
