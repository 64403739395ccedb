"""How a service gives out what it holds of a user: what is declared, page by page, through crashes, swept."""

import asyncio
import io
import sys
import tracemalloc
import zipfile
from collections.abc import AsyncGenerator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from shared import topics
from shared.clock import truncated, utc_now
from shared.documents import Documents, open_documents
from shared.errors import Unavailable
from shared.events.auth import ExportRequested
from shared.events.personal import ExportPartReady
from shared.export import KEPT, PARTS, SWEPT_AFTER, Exporter, ExportPart
from shared.exported import File, Lines, NotExported, members_of, rows, undeclared, write
from shared.objects import UNFINISHED, Objects
from shared.outbox import Relay
from shared.zipped import directory
from tests.polling import eventually
from tests.service.gateway_edges import MovableClock
from tests.service.test_erasure import NOTES, STORES, Note

A_FILE = File("notes.jsonl", "Notes", (NOTES,), rows(NOTES, lambda one: {"text": one.text}, "user"))


# what is declared


@pytest.mark.parametrize("service", STORES)
def test_every_personal_collection_is_exported_or_says_why_not(service: str) -> None:
    declared = import_module(STORES[service]).PERSONAL
    contents = import_module(f"services.{service}.exporting").CONTENTS
    assert undeclared(declared, contents) == set()
    assert all(one.reason for one in contents if isinstance(one, NotExported))


def test_no_two_files_have_one_name() -> None:
    contents = [one for name in STORES for one in import_module(f"services.{name}.exporting").CONTENTS]
    names = [one.name for one in contents if not isinstance(one, NotExported)]
    assert len(names) == len(set(names))
    assert set(topics.EXPORT_PARTS) == set(STORES) - {"auth"} == set(topics.EXPORTS.readers)


def test_a_collection_that_nobody_exports_is_noticed() -> None:
    declared = import_module(STORES["nutrition"]).PERSONAL
    contents = import_module("services.nutrition.exporting").CONTENTS
    assert undeclared(declared, contents[1:]) == {"foods"}
    assert undeclared(declared, [*contents, NotExported(contents[0].collections[0], "no")]) == {"foods"}


# a service's part


class Process:
    """A process of a service that exports notes."""

    def __init__(self, folder: Path, documents: Documents, clock: MovableClock) -> None:
        self.clock = clock
        self.documents = documents
        self.objects = Objects(f"file:///{folder}/objects")
        self.folder = folder / "objects"
        relay = Relay(documents, [PARTS], self._publish)
        self.exporter = Exporter("ingest", documents, self.objects, [A_FILE], relay, clock)

    async def _publish(self, topic_name: str, value: bytes | None, key: str, *, traceparent: str | None = None) -> None:
        raise Unavailable("broker")

    async def asked(self, **changed: Any) -> ExportRequested:
        now = truncated(self.clock())
        values = {"event_id": "e", "occurred_at": now, "user_id": "ada", "export_id": "exp_1"}
        event = ExportRequested(**{**values, "needed_until": now + KEPT} | changed)
        await self.exporter.on_export_requested(event)
        return event

    async def claimed(self) -> ExportPart:
        (part,) = await self.documents.claim(PARTS, "due", now=self.clock(), lease=timedelta(seconds=15))
        return part

    async def one_turn(self) -> ExportPart:
        """What the workers would do now."""
        return await self.documents.put(PARTS, await self.exporter.work(await self.claimed()))

    def objects_left(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
async def process(tmp_path: Path) -> AsyncGenerator[Process]:
    documents = open_documents(f"sqlite:///{tmp_path}", "ingest")
    await documents.open([NOTES, PARTS])
    for user_id, count in (("ada", 450), ("adam", 3)):
        for at in range(count):
            await documents.insert(NOTES, Note(id=f"{user_id} {at:04}", user_id=user_id, text=f"{user_id} says {at}"))
    yield Process(tmp_path, documents, MovableClock())
    await documents.close()


def _told(part: ExportPart) -> ExportPartReady:
    (event,) = part.outbox
    assert event.value is not None
    return ExportPartReady.model_validate_json(event.value)


async def _read(objects: Objects, event: ExportPartReady) -> dict[str, bytes]:
    stored = event.object
    members = await members_of(objects, stored.key, event.data_bytes, stored.size_bytes)
    data = b"".join([part async for part in objects.read(stored.key, 0, event.data_bytes)])
    with zipfile.ZipFile(io.BytesIO(data + directory(members, len(data)))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def test_a_part_has_all_of_one_user_page_by_page(process: Process) -> None:
    await process.asked()
    event = _told(await process.one_turn())
    files = await _read(process.objects, event)
    assert files["notes.jsonl"].splitlines() == [b'{"text":"ada says %d"}' % at for at in range(450)]
    assert [(one.name, one.rows) for one in event.files] == [("notes.jsonl", 450)]
    assert event.object.key.startswith("ingest/ada/exports/exp_1/")


async def test_who_has_nothing_gets_an_empty_part(process: Process) -> None:
    await process.asked(user_id="nobody")
    event = _told(await process.one_turn())
    assert (await _read(process.objects, event), event.files) == ({}, ())


async def test_a_killed_process_is_gone_on_from_and_tells_once(process: Process) -> None:
    await process.asked()
    lost = await process.exporter.work(await process.claimed())  # never stored
    process.clock.ahead += timedelta(seconds=20)
    part = await process.one_turn()
    assert _told(part).event_id == _told(lost).event_id
    assert _told(part).object.key != _told(lost).object.key
    await process.objects.delete(_told(lost).object.key)
    assert await _read(process.objects, _told(part))


async def test_what_a_killed_process_was_writing_is_written_anew_and_swept_away(
    process: Process, tmp_path: Path
) -> None:
    await process.asked()
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.service.export_process", str(tmp_path))
    await eventually(lambda: sum(path.stat().st_size for path in process.objects_left()) > 10_000, seconds=20)
    child.kill()
    await child.wait()
    assert [path.suffix for path in process.objects_left()] == [UNFINISHED]
    process.clock.ahead += timedelta(seconds=20)
    assert len((await _read(process.objects, _told(await process.one_turn())))["notes.jsonl"].splitlines()) == 450
    process.clock.ahead += KEPT + SWEPT_AFTER
    await process.one_turn()
    assert process.objects_left() == []


async def test_what_nobody_comes_for_is_swept_away(process: Process) -> None:
    await process.asked()
    await process.exporter.work(await process.claimed())
    process.clock.ahead += timedelta(seconds=20)
    part = await process.one_turn()
    assert len(process.objects_left()) == 2
    process.clock.ahead += KEPT + SWEPT_AFTER
    swept = await process.one_turn()
    assert (process.objects_left(), swept.due_at) == ([], None)
    assert part.written


async def test_the_same_request_twice_is_one_part(process: Process) -> None:
    await process.asked()
    part = await process.one_turn()
    await process.asked()
    assert await process.documents.get(PARTS, "exp_1") == part


async def test_a_request_that_comes_too_late_is_left(process: Process) -> None:
    await process.asked(needed_until=process.clock())
    assert await process.documents.get(PARTS, "exp_1") is None
    await process.asked()
    process.clock.ahead += KEPT
    assert not (await process.one_turn()).written
    assert process.objects_left() == []


async def test_objects_that_are_away_leave_nothing_and_are_tried_again(process: Process) -> None:
    await process.asked()
    process.folder.touch()  # a file where the folder should be
    part = await process.claimed()
    with pytest.raises(Unavailable, match="objects"):
        await process.exporter.work(part)
    process.folder.unlink()
    assert _told(await process.exporter.work(part))


async def test_a_source_that_breaks_off_leaves_no_object(process: Process) -> None:
    async def broken(*_: Any) -> AsyncGenerator[Lines]:
        yield Lines(1, b"{}\n")
        raise Unavailable("database")

    contents = [File("broken.jsonl", "", (NOTES,), broken)]
    with pytest.raises(Unavailable, match="database"):
        await write(process.objects, "ingest/ada/x", process.documents, contents, "ada", utc_now())
    assert process.objects_left() == []


async def test_an_export_of_any_size_takes_a_few_megabytes(process: Process) -> None:
    chunk = b"".join(b'{"start":"2026-03-01T08:00:00Z","value":%d}\n' % at for at in range(20_000))

    async def many(*asked: Any) -> AsyncGenerator[Lines]:
        for _ in range(100):
            yield Lines(20_000, chunk)

    contents = [File("many.jsonl", "", (NOTES,), many)]
    tracemalloc.start()
    written = await write(process.objects, "ingest/ada/large", process.documents, contents, "ada", utc_now())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written.files[0].rows == 2_000_000
    assert len(chunk) * 100 > 80_000_000
    assert peak < 8_000_000
