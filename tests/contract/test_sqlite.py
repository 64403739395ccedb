"""What the embedded engine promises beyond the port: its failures are "later", its plans use the index."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.documents import Documents, Put, open_documents
from shared.documents import connection as engine
from shared.documents.tables import Table
from shared.errors import Unavailable
from tests.contract.documents_models import ALL, ENTRIES, Entry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}"


@pytest.fixture
async def documents(url: str) -> AsyncIterator[Documents]:
    opened = open_documents(url, "contract")
    await opened.open(ALL)
    yield opened
    await opened.close()


async def test_a_write_lock_held_too_long_is_unavailable_and_then_over(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.2)
    documents = open_documents(url, "contract")
    await documents.open(ALL)
    other = sqlite3.connect(tmp_path / "contract.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(
        *(documents.put(ENTRIES, Entry(id=str(n))) for n in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
    assert await documents.get(ENTRIES, "0") is None, "readers go on"
    other.execute("ROLLBACK")
    other.close()
    await documents.put(ENTRIES, Entry(id="0"))
    await documents.close()


async def test_a_full_disk_is_unavailable_and_loses_nothing_acknowledged(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.documents_process", "fill_disk", url, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    said = out.decode().split("\n")[:-1]
    assert said[-2:] == ["unavailable database", "after"]
    documents = open_documents(url, "contract")
    await documents.open(ALL)
    assert None not in await documents.get_many(ENTRIES, [*said[:-2], "after"])
    await documents.close()


async def test_a_file_that_is_no_database_is_unavailable(url: str, tmp_path: Path) -> None:
    (tmp_path / "contract.sqlite").write_bytes(b"not a database" * 1000)
    documents = open_documents(url, "contract")
    with pytest.raises(Unavailable):
        await documents.open(ALL)
    await documents.close()


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    documents = open_documents(f"sqlite:///{tmp_path}/file/db", "contract")
    with pytest.raises(Unavailable):
        await documents.open(ALL)
    await documents.close()


async def test_the_file_is_synced_before_an_answer(documents: Documents, tmp_path: Path) -> None:
    await documents.put(ENTRIES, Entry(id="e"))
    other = sqlite3.connect(tmp_path / "contract.sqlite")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    connection = engine.connected(tmp_path / "contract.sqlite")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    connection.close()


async def test_put_many_is_one_transaction(documents: Documents) -> None:
    await documents.put(ENTRIES, Entry(id="taken"))
    with pytest.raises(Exception, match="taken"):
        await documents.put_many([Put(ENTRIES, Entry(id="a")), Put(ENTRIES, Entry(id="taken"))])
    assert await documents.get(ENTRIES, "a") is None


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("index", "equals", "at_least"),
    [
        ("by_time", ["u1"], None),
        ("by_time", ["u1"], NOON),
        ("by_time", ["u1", NOON], None),
        ("by_time", [], None),
        ("slug", ["u1"], "a"),
    ],
)
async def test_a_find_walks_its_index_without_sorting(
    documents: Documents, tmp_path: Path, index: str, equals: list[object], at_least: object, descending: bool
) -> None:
    table = Table(ENTRIES)
    page = table.page(table.select(index, equals, at_least), index, descending, 10, None)
    connection = sqlite3.connect(tmp_path / "contract.sqlite")
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {page.sql}", page.arguments))
    connection.close()
    assert f"USING INDEX entries.{index}" in plan
    assert "B-TREE" not in plan
