"""Failed attempts, counted in memory and written behind the answers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.auth import attempts as module
from services.auth import audit
from services.auth.attempts import Attempts
from services.auth.audit import LINES
from shared.documents import Documents, open_documents
from shared.errors import Unavailable
from tests.polling import eventually
from tests.service.account_holder import early_in_the_hour


async def test_ten_thousand_attempts_are_two_writes_of_one_line(tmp_path: Path) -> None:
    clock = early_in_the_hour()
    store = open_documents(f"sqlite:///{tmp_path}", "auth")
    await store.open([LINES])
    attempts = Attempts(store, clock)
    working = asyncio.create_task(attempts.run())

    async def the_count() -> int:
        page = await audit.page(store, user_id="usr_a", limit=10, cursor=None)
        return sum(line.count for line in page.documents)

    attempts.note("wrong-password", "usr_a")
    await eventually(the_count)
    for _ in range(9_999):
        attempts.note("wrong-password", "usr_a")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    page = await audit.page(store, user_id="usr_a", limit=10, cursor=None)
    assert [(line.kind, line.count, line.version) for line in page.documents] == [("wrong-password", 10_000, 2)]
    await store.close()


async def test_an_erased_users_attempts_are_not_written_any_more(tmp_path: Path) -> None:
    store = open_documents(f"sqlite:///{tmp_path}", "auth")
    await store.open([LINES])
    attempts = Attempts(store, early_in_the_hour())
    for user in ("usr_a", "usr_b"):
        attempts.note("wrong-password", user)
    attempts.forget("usr_a")
    working = asyncio.create_task(attempts.run())
    await asyncio.sleep(0)  # lets it begin: what is cancelled before that writes nothing at all
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    page = await audit.page(store, limit=10, cursor=None)
    assert [line.user_id for line in page.documents] == ["usr_b"]
    await store.close()


class _Away:
    """A database that is away at first."""

    def __init__(self, there: Documents, refusals: int) -> None:
        self._there = there
        self.refusals = refusals

    async def get(self, *arguments: Any) -> Any:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("database")
        return await self._there.get(*arguments)

    async def put(self, *arguments: Any) -> Any:
        return await self._there.put(*arguments)


async def test_attempts_wait_while_the_database_is_away_and_their_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    store = open_documents(f"sqlite:///{tmp_path}", "auth")
    await store.open([LINES])
    away = _Away(store, 2)
    attempts = Attempts(away, early_in_the_hour())
    for user in ("usr_a", "usr_b", "usr_c", "usr_d", "usr_a"):
        attempts.note("wrong-password", user)
    working = asyncio.create_task(attempts.run())

    async def lines() -> list[tuple[str | None, int]]:
        page = await audit.page(store, limit=10, cursor=None)
        return sorted((line.user_id, line.count) for line in page.documents) if len(page.documents) == 3 else []

    assert await eventually(lines) == [("usr_a", 2), ("usr_b", 1), ("usr_c", 1)]
    assert "1 attempts are not in the audit log" in caplog.text
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await store.close()
