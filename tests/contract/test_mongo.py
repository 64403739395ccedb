"""What MongoDB's engine promises beyond the port: failures are "later" or one clear sentence, writes are durable."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from pymongo import AsyncMongoClient, monitoring

from infra.local import fake_mongo as mongo_server
from shared.documents import Conflict, Documents, Put, open_documents
from shared.documents.mongo_schema import KNOWN
from tests.contract.conftest import dropped
from tests.contract.documents_models import ALL, ENTRIES, TASKS, Entry, Task
from tests.contract.test_documents_processes import line, started

NOBODY = "mongodb://127.0.0.1:1/name?timeoutMS=300"


class Heard(monitoring.CommandListener):
    """The commands that clients send from now on."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        monitoring.register(self)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    def named(self, name: str) -> list[dict[str, Any]]:
        return [command for known, command in self.commands if known == name]

    def writes(self) -> list[str]:
        return [command["update"] for command in self.named("update") if command["update"] != KNOWN]


@pytest.fixture
def url(fake_mongo: str) -> str:
    return f"{fake_mongo}/contract_{uuid4().hex}"


@pytest.fixture
async def documents(url: str) -> AsyncIterator[Documents]:
    opened = open_documents(url, "contract")
    await opened.open(ALL)
    yield opened
    await opened.close()
    await dropped(url)


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def test_writes_wait_for_a_journaled_majority_and_reads_see_nothing_less(
    heard: Heard, documents: Documents
) -> None:
    await documents.put(ENTRIES, Entry(id="e"))
    await documents.get(ENTRIES, "e")
    await documents.delete(ENTRIES, "e")
    for name in ("update", "delete", "createIndexes"):
        assert [one for one in heard.named(name) if one["writeConcern"] != {"w": "majority", "j": True}] == []
    assert {one["readConcern"]["level"] for one in heard.named("find")} == {"majority"}


async def test_nothing_needs_a_transaction_a_change_stream_or_javascript(heard: Heard, documents: Documents) -> None:
    await documents.put_many([Put(ENTRIES, Entry(id="e")), Put(TASKS, Task(id="t"))])
    await documents.find(ENTRIES, "by_time")
    await documents.count(ENTRIES, "by_time")
    assert {name for name, _ in heard.commands} <= {
        "buildinfo",
        "createIndexes",
        "find",
        "update",
        "aggregate",
    }
    assert not [one for _, one in heard.commands if "txnNumber" in one or "startTransaction" in one]
    for stages in (one["pipeline"] for one in heard.named("aggregate")):
        assert [next(iter(stage)) for stage in stages] == ["$match", "$group"], "a count"


async def test_neighbours_of_one_collection_travel_together(heard: Heard, documents: Documents) -> None:
    puts = [Put(ENTRIES, Entry(id=f"e{n}")) for n in range(50)]
    stored = await documents.put_many([*puts, Put(TASKS, Task(id="t"))])
    assert heard.writes() == ["entries", "tasks"]
    assert all(isinstance(one, Entry) for one in stored[:-1])
    changed = [Put(ENTRIES, one) for one in stored[:-1]] + [Put(ENTRIES, Entry(id="new"))]
    await documents.put_many(changed)
    assert heard.writes() == ["entries", "tasks", "entries"], "new documents and changed ones alike"


@pytest.mark.parametrize("at", [0, 1, 25, 49])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_run_stops_right_at_the_first_conflict(documents: Documents, at: int, gone: bool) -> None:
    stored = await documents.put_many([Put(ENTRIES, Entry(id=f"e{n:02}")) for n in range(50)])
    if gone:
        await documents.delete(ENTRIES, f"e{at:02}")
    else:
        await documents.put(ENTRIES, stored[at])
    with pytest.raises(Conflict) as caught:
        await documents.put_many([Put(ENTRIES, replace(one, position=7)) for one in stored])
    assert caught.value.ids == (f"e{at:02}",)
    found = await documents.get_many(ENTRIES, [one.id for one in stored])
    assert [one.position if one else None for one in found] == [7] * at + [None if gone else 0] + [0] * (49 - at)


async def test_a_document_that_is_too_large_is_refused_before_anything_is_sent(documents: Documents) -> None:
    with pytest.raises(ValueError, match="15 MB"):
        await documents.put_many([Put(ENTRIES, Entry(id="a")), Put(ENTRIES, Entry(id="b", photo=bytes(15_000_000)))])
    assert await documents.get(ENTRIES, "a") is None


async def test_each_service_has_a_database_of_its_own(url: str, documents: Documents) -> None:
    other = open_documents(url, "other")
    await other.open(ALL)
    await documents.put(ENTRIES, Entry(id="e"))
    assert await other.get(ENTRIES, "e") is None
    async with AsyncMongoClient(url) as client:
        name = client.get_default_database().name
        assert {f"{name}_contract", f"{name}_other"} <= set(await client.list_database_names())
        await client.drop_database(f"{name}_other")
    await other.close()


async def test_opening_again_changes_nothing(heard: Heard, url: str, documents: Documents) -> None:
    await documents.put(ENTRIES, Entry(id="e"))
    before = len(heard.named("update"))
    again = open_documents(url, "contract")
    await again.open(ALL)
    await again.close()
    assert len(heard.named("update")) == before


async def test_a_server_that_goes_away_is_unavailable_and_the_data_is_there_when_it_is_back(tmp_path: Path) -> None:
    class_path = mongo_server.install()
    with mongo_server.serving(tmp_path, class_path) as address:
        # In a process of its own, since PyMongo leaves a socket open when its server dies.
        client = await started("outlive", f"{address}/name?timeoutMS=500")
        assert await line(client) == "ready"
    out, _ = await client.communicate(b"gone\n")
    assert out.decode().split() == ["database"] * 7
    with mongo_server.serving(tmp_path, class_path) as address:
        documents = open_documents(f"{address}/name", "contract")
        await documents.open(ALL)
        assert await documents.get(ENTRIES, "e") == Entry(id="e", version=1)
        await documents.close()


@pytest.mark.parametrize(
    ("user", "said"), [("", "does not answer"), ("ada:difference-engine@", "refuses the user or the password")]
)
async def test_a_wrong_host_or_password_is_one_sentence_at_the_start_of_a_service(
    fake_mongo: str, user: str, said: str
) -> None:
    url = fake_mongo.replace("//", f"//{user}") + "/name" if user else NOBODY
    environment = os.environ | {"DATABASE_URL": url, "INSIGHTS_PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.insights.app", env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = (text.decode() for text in await process.communicate())
    assert process.returncode == 3
    assert "Traceback" not in out + err
    lines = [line for line in out.splitlines() if '"error"' in line]
    assert len(lines) == 2, "what is wrong, and that the start failed"
    assert said in lines[0]
    assert "127.0.0.1:" in lines[0]
    assert "difference-engine" not in out + err
