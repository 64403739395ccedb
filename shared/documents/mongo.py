"""The cluster's engine: MongoDB, one database per service."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar, cast

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from msgspec.structs import replace
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, PyMongoError

from shared.documents.codec import encode
from shared.documents.mongo_client import Client, checked, connected, failure, greet
from shared.documents.mongo_layout import Layout, Write
from shared.documents.mongo_refusals import Refusal, check_done, first_refusal
from shared.documents.mongo_schema import prepare
from shared.documents.port import Claimable, Collection, Conflict, Document, Duplicate, Page, Put
from shared.errors import Unavailable

D = TypeVar("D", bound=Document)
C = TypeVar("C", bound=Claimable)

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
# Ids in one query; writes in one command, which has 5 s to be answered.
IDS, WRITES = 1000, 500
# How many more due documents than wanted a claim looks at, since others may take the first ones meanwhile.
SPARE = 8


class MongoDocuments:
    """`Documents` in the database `<name in the URL>_<service>`: `w: majority, j: true`, `readConcern: majority`.

    Needs no transactions, change streams or aggregation. A command without an answer within 5 s is `Unavailable`, and
    a write may then have happened; so may the first writes of a `put_many` that raised.
    """

    def __init__(self, url: str, service: str) -> None:
        """Connects in `open`. Raises ValueError for a URL that is none."""
        self._url = url
        self._service = service
        database, self._servers = checked(url)
        self._name = f"{database}_{service}"
        self._layouts: dict[str, Layout] = {}
        self._client: Client | None = None
        self._closed = False
        self._running = 0
        self._idle = asyncio.Event()

    async def open(self, collections: Sequence[Collection[Any]]) -> None:
        """Create what is missing of the collections and indexes; new indexes cover the documents there."""
        layouts = {collection.name: Layout(collection) for collection in collections}
        if self._client is None:
            self._client = await self._connect()
        self._layouts |= layouts
        with self._engine() as database:
            for layout in layouts.values():
                await prepare(database, self._raw(database, layout), layout)

    async def _connect(self) -> Client:
        client = connected(self._url, self._service)
        try:
            await greet(client, self._servers)
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        """Finish what is under way and disconnect."""
        self._closed = True
        while self._running:
            self._idle.clear()
            await self._idle.wait()
        if self._client is not None:
            await self._client.close()

    async def get(self, collection: Collection[D], id: str) -> D | None:
        """The document of that id."""
        layout = self._layout(collection)
        with self._engine() as database:
            raw = await self._raw(database, layout).find_one({"_id": id})
        return None if raw is None else layout.document(raw)

    async def get_many(self, collection: Collection[D], ids: Sequence[str]) -> list[D | None]:
        """The documents of those ids, in their order; None where there is none."""
        layout = self._layout(collection)
        wanted = list(dict.fromkeys(ids))
        found: dict[str, D] = {}
        with self._engine() as database:
            for start in range(0, len(wanted), IDS):
                query = {"_id": {"$in": wanted[start : start + IDS]}}
                for raw in await self._raw(database, layout).find(query).to_list():
                    found[raw["_id"]] = layout.document(raw)
        return [found.get(id) for id in ids]

    async def versions(self, collection: Collection[Any], ids: Sequence[str]) -> list[int]:
        """The stored version of each id, 0 where there is none; reads no bodies."""
        layout = self._layout(collection)
        wanted = list(dict.fromkeys(ids))
        found: dict[str, int] = {}
        with self._engine() as database:
            for start in range(0, len(wanted), IDS):
                query = {"_id": {"$in": wanted[start : start + IDS]}}
                for raw in await self._raw(database, layout).find(query, {"version": 1}).to_list():
                    found[raw["_id"]] = raw["version"]
        return [found.get(id, 0) for id in ids]

    async def insert(self, collection: Collection[D], document: D) -> D:
        """Store a new document and return it as stored. Raises `Duplicate`."""
        layout = self._layout(collection)
        encoded = encode(document, 1)
        refusal = await self._write(layout, [layout.write(encoded, 0)])
        if refusal is not None:
            raise Duplicate(collection.name, refusal.index or "id")
        return encoded.stored

    async def put(self, collection: Collection[D], document: D) -> D:
        """Store over the version that `document` carries. Raises `Conflict`, `Duplicate`."""
        (stored,) = await self.put_many([Put(collection, document)])
        return cast(D, stored)

    async def put_many(self, puts: Sequence[Put]) -> list[Document]:
        """Store in order up to the first that cannot be stored, and raise `Conflict` or `Duplicate` for it.

        Neighbours of one collection travel in one ordered command.
        """
        encoded = [encode(put.document, put.document.version + 1) for put in puts]
        layouts = [self._layout(put.collection) for put in puts]
        # All of them first: what cannot be stored is refused before anything is written.
        writes = [layout.write(each, each.stored.version - 1) for layout, each in zip(layouts, encoded, strict=True)]
        for layout, run in groupby(range(len(writes)), layouts.__getitem__):
            places = list(run)
            for start in range(0, len(places), WRITES):
                refusal = await self._write(layout, [writes[place] for place in places[start : start + WRITES]])
                _check(layout, refusal)
        return [each.stored for each in encoded]

    async def delete(self, collection: Collection[Any], id: str) -> bool:
        """Delete the document; False when there was none."""
        layout = self._layout(collection)
        with self._engine() as database:
            return (await self._raw(database, layout).delete_one({"_id": id})).deleted_count > 0

    async def delete_where(
        self,
        collection: Collection[Any],
        index: str,
        equals: Sequence[Any],
        *,
        at_least: Any = None,
        below: Any = None,
    ) -> int:
        """Delete what `find` would find with the same arguments; returns how many."""
        layout = self._layout(collection)
        selection = layout.select(index, equals, at_least, below)
        with self._engine() as database:
            return (await self._raw(database, layout).delete_many(selection.query)).deleted_count

    async def find(
        self,
        collection: Collection[D],
        index: str,
        equals: Sequence[Any] = (),
        *,
        at_least: Any = None,
        below: Any = None,
        descending: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[D]:
        """Documents in the index's order (ties by id). Raises ValueError for a foreign cursor."""
        layout = self._layout(collection)
        if limit < 1:
            raise ValueError("a limit is at least 1")
        selection = layout.select(index, equals, at_least, below)
        found = layout.find(selection, descending, cursor)
        with self._engine() as database:
            raws = await self._raw(database, layout).find(found.query, sort=found.sort, limit=limit + 1).to_list()
        return layout.page(selection, raws, limit)

    async def claim(
        self,
        collection: Collection[C],
        index: str,
        equals: Sequence[Any] = (),
        *,
        now: datetime,
        lease: timedelta,
        limit: int = 1,
    ) -> list[C]:
        """Hand out up to `limit` due documents, oldest first, to nobody else before `now + lease`.

        Each is taken by a write over the version that was seen, which one of many claimers succeeds with. Not
        findAndModify: it could not bring an older model version up to date, nor the parts of other indexes.
        """
        layout = self._layout(collection)
        if collection.index(index).fields[len(equals) :] != ("due_at",):
            raise ValueError(f"{collection.name}.{index} is not an index for this claim")
        due = layout.find(layout.select(index, equals, below=now + timedelta(microseconds=1)))
        claimed: list[C] = []
        while (missing := limit - len(claimed)) > 0:
            with self._engine() as database:
                raws = self._raw(database, layout).find(due.query, sort=due.sort, limit=missing + SPARE)
                candidates = [layout.document(raw) for raw in await raws.to_list()]
            last = len(candidates) < missing + SPARE
            while candidates and (missing := limit - len(claimed)) > 0:
                taken = await asyncio.gather(
                    *(self._take(layout, one, now + lease) for one in candidates[:missing]), return_exceptions=True
                )
                claimed += _handed_out(taken)
                del candidates[:missing]
            if last:
                break
        return claimed

    async def _take(self, layout: Layout, document: Any, until: datetime) -> Any:
        """`document` under a lease, None when somebody else has changed it."""
        handed_out = replace(document, due_at=until, attempts=document.attempts + 1)
        encoded = encode(handed_out, document.version + 1)
        refusal = await self._write(layout, [layout.write(encoded, document.version)])
        return encoded.stored if refusal is None else None

    async def count(
        self,
        collection: Collection[Any],
        index: str,
        equals: Sequence[Any] = (),
        *,
        at_least: Any = None,
        below: Any = None,
    ) -> int:
        """How many documents `find` would find without a limit."""
        layout = self._layout(collection)
        selection = layout.select(index, equals, at_least, below)
        with self._engine() as database:
            return await self._raw(database, layout).count_documents(selection.query)

    async def scrub(self) -> None:
        """Nothing to do: the engine alone knows its files."""

    async def _write(self, layout: Layout, writes: Sequence[Write]) -> Refusal | None:
        """Store each over its expected version, in order, until one is refused: that one, or None."""
        with self._engine() as database:
            collection = self._raw(database, layout)
            try:
                done = await collection.bulk_write([write.update for write in writes], ordered=True)
            except BulkWriteError as error:
                return await first_refusal(collection, writes, error)
        check_done(writes, done)
        return None

    def _layout(self, collection: Collection[Any]) -> Layout:
        try:
            return self._layouts[collection.name]
        except KeyError:
            raise RuntimeError(f"the collection {collection.name} was not opened") from None

    def _raw(self, database: AsyncDatabase[dict[str, Any]], layout: Layout) -> AsyncCollection[RawBSONDocument]:
        found = database.get_collection(layout.collection.name, codec_options=cast(Any, RAW))
        return cast(AsyncCollection[RawBSONDocument], found)

    @contextmanager
    def _engine(self) -> Generator[AsyncDatabase[dict[str, Any]]]:
        """The database, which `close` waits for; the engine's failures become `Unavailable`."""
        if self._closed or self._client is None:
            raise Unavailable("database")
        self._running += 1
        try:
            yield self._client.get_database(self._name)
        except PyMongoError as error:
            raise failure(error) from error
        finally:
            self._running -= 1
            self._idle.set()


def _check(layout: Layout, refusal: Refusal | None) -> None:
    if refusal is None:
        return
    if refusal.index is not None:
        raise Duplicate(layout.collection.name, refusal.index)
    raise Conflict(layout.collection.name, [refusal.id])


def _handed_out(taken: Sequence[Any]) -> list[Any]:
    """What was claimed; a failure counts only when it leaves nothing, since the others are under their lease."""
    found = [one for one in taken if one is not None and not isinstance(one, BaseException)]
    failed = [one for one in taken if isinstance(one, BaseException)]
    if failed and not found:
        raise failed[0]
    return found
