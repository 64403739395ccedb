"""What a service gives out of a user's data: files of JSON Lines and folders of objects, written as one stream.

What is written is a part of a ZIP archive: members first, then the list of them. A part is never held whole.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import BaseModel

from shared.documents import Collection, Document, Documents
from shared.erased import Declared, Personal
from shared.events.event import ObjectRef
from shared.events.personal import ExportedFile
from shared.objects import Objects
from shared.zipped import Member, Packer

PAGE = 200
D = TypeVar("D", bound=Document)


class Lines(NamedTuple):
    """Some rows as JSON Lines."""

    rows: int
    data: bytes


@dataclass(frozen=True)
class File:
    """A file of JSON Lines with what is in `collections`; left out when there is nothing. `about`: for people."""

    name: str
    about: str
    collections: tuple[Collection[Any], ...]
    lines: Callable[[Documents, str], AsyncIterator[Lines]]


@dataclass(frozen=True)
class Folder:
    """Objects as they are stored, each with its name in the folder. `name` ends with a slash."""

    name: str
    about: str
    collections: tuple[Collection[Any], ...]
    objects: Callable[[Documents, Objects, str], AsyncIterator[tuple[str, AsyncIterator[bytes]]]]


@dataclass(frozen=True)
class NotExported:
    """A personal collection that users are not given, and why not."""

    collection: Collection[Any]
    reason: str


Contents = Sequence[File | Folder | NotExported]
# Makes a file that tells of those before it: its name and text.
Last = Callable[[Sequence[ExportedFile]], tuple[str, bytes]]


def undeclared(declared: Iterable[Declared], contents: Contents) -> set[str]:
    """Personal collections that are neither exported nor said not to be, and those that are both."""
    given = {one.name for each in contents if not isinstance(each, NotExported) for one in each.collections}
    kept = {one.collection.name for one in contents if isinstance(one, NotExported)}
    return {one.collection.name for one in declared if isinstance(one, Personal)} - (given | kept) | given & kept


def rows(
    collection: Collection[D], shown: Callable[[D], Any], *indexes: str, page: int = PAGE
) -> Callable[[Documents, str], AsyncIterator[Lines]]:
    """Each document of a user as `shown` has it: a model, a Struct or a mapping; None leaves it out.

    `indexes` as in `Personal`; `page` documents are in memory at a time.
    """

    async def found(documents: Documents, user_id: str) -> AsyncGenerator[Lines]:
        if not indexes:
            one = await documents.get(collection, user_id)
            yield lines_of(shown(each) for each in (one,) if each is not None)
        for index in indexes:
            cursor: str | None = None
            while True:
                some = await documents.find(collection, index, (user_id,), limit=page, cursor=cursor)
                yield lines_of(map(shown, some.documents))
                if (cursor := some.cursor) is None:
                    break

    return found


def lines_of(shown: Iterable[Any]) -> Lines:
    """Rows as JSON Lines, without those that are None."""
    texts = [_json(one) for one in shown if one is not None]
    return Lines(len(texts), b"".join(text + b"\n" for text in texts))


def _json(row: Any) -> bytes:
    return row.model_dump_json().encode() if isinstance(row, BaseModel) else msgspec.json.encode(row)


class Written(NamedTuple):
    """What was written: see `ExportPartReady`."""

    object: ObjectRef
    data_bytes: int
    files: tuple[ExportedFile, ...]


async def write(
    objects: Objects,
    key: str,
    documents: Documents,
    contents: Contents,
    user_id: str,
    at: datetime,
    *,
    last: Last | None = None,
) -> Written:
    """Write a part whose members bear the time `at`. Raises `Unavailable`."""
    part = _Part(objects, documents, contents, user_id, at)
    await objects.put_stream(key, part.stream(last))
    digest = part.digest.hexdigest()
    stored = ObjectRef(key=key, sha256=digest, size_bytes=part.size, content_type="application/octet-stream")
    return Written(stored, part.packer.offset, tuple(part.files))


class _Part:
    """The bytes of a part, made as they are taken."""

    def __init__(self, objects: Objects, documents: Documents, contents: Contents, user_id: str, at: datetime) -> None:
        self.packer = Packer(at)
        self.digest = hashlib.sha256()
        self.size = 0
        self.files: list[ExportedFile] = []
        self._objects = objects
        self._documents = documents
        self._contents = contents
        self._user_id = user_id

    async def stream(self, last: Last | None) -> AsyncGenerator[bytes]:
        async for data in self._members(last):
            if data:
                yield self._counted(data)
        yield self._counted(msgspec.msgpack.encode(self.packer.members))

    def _counted(self, data: bytes) -> bytes:
        self.digest.update(data)
        self.size += len(data)
        return data

    async def _members(self, last: Last | None) -> AsyncGenerator[bytes]:
        for one in self._contents:
            if isinstance(one, File):
                async for data in self._file(one):
                    yield data
            elif isinstance(one, Folder):
                async for data in self._folder(one):
                    yield data
        if last is not None:
            name, text = last(self.files)
            yield self.packer.begin(name) + self.packer.feed(text) + self.packer.end()

    async def _file(self, file: File) -> AsyncGenerator[bytes]:
        count = 0
        async for lines in file.lines(self._documents, self._user_id):
            if not lines.rows:
                continue
            if not count:
                yield self.packer.begin(file.name)
            count += lines.rows
            yield await asyncio.to_thread(self.packer.feed, lines.data)
        if count:
            yield self.packer.end()
            self.files.append(ExportedFile(name=file.name, rows=count, about=file.about))

    async def _folder(self, folder: Folder) -> AsyncGenerator[bytes]:
        count = 0
        async for name, parts in folder.objects(self._documents, self._objects, self._user_id):
            yield self.packer.begin(folder.name + name)
            async for part in parts:
                yield await asyncio.to_thread(self.packer.feed, part)
            yield self.packer.end()
            count += 1
        if count:
            self.files.append(ExportedFile(name=folder.name, rows=count, about=folder.about))


async def members_of(objects: Objects, key: str, data_bytes: int, size_bytes: int) -> list[Member]:
    """The list of a part's members. Raises FileNotFoundError when the part is not there as it was announced."""
    if await objects.size(key) != size_bytes:
        raise FileNotFoundError(key)
    index = b"".join([part async for part in objects.read(key, data_bytes, size_bytes)])
    return msgspec.msgpack.decode(index, type=list[Member])
