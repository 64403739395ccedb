"""The embedded engine: one SQLite file per service."""

import asyncio
import logging
import queue
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from shared.documents.codec import encode
from shared.documents.connection import connected, connected_for_reading
from shared.documents.port import Claimable, Collection, Document, Duplicate, Page, Put
from shared.documents.tables import Table
from shared.documents.writer import Writer, failure
from shared.errors import Unavailable

D = TypeVar("D", bound=Document)
C = TypeVar("C", bound=Claimable)
T = TypeVar("T")
logger = logging.getLogger(__name__)

READERS = 4
# Reads of so few documents run on the event loop: some 20 µs from the page cache, where a thread costs 100 to 500 µs
# of waiting beside busy neighbours.
SMALL_READ = 8
MANY = SMALL_READ + 1


class SqliteDocuments:
    """`Documents` on one file: WAL, `synchronous=FULL`, one writing thread, a few reading ones.

    Safe with several processes on the file; one that holds the write lock longer than 5 s makes the others'
    writes `Unavailable`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tables: dict[str, Table] = {}
        self._writer = Writer(lambda: connected(path))
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="documents-reader")
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._loops: sqlite3.Connection | None = None
        self._closed = False

    async def open(self, collections: Sequence[Collection[Any]]) -> None:
        """Create what is missing of the file, collections and indexes; new indexes cover the documents there."""
        tables = {collection.name: Table(collection) for collection in collections}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.error("the folder of DATABASE_URL cannot be made: %s", error.strerror)
            raise failure(error) from error
        if not self._tables:
            self._writer.start()

        def create(connection: sqlite3.Connection) -> None:
            for table in tables.values():
                table.create(connection)

        self._tables |= tables
        await self._writer.run(create)
        if self._loops is None:
            self._loops = await asyncio.to_thread(self._connected_for_loop)

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        self._closed = True
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        if self._loops is not None:
            self._loops.close()
        while not self._idle.empty():
            self._idle.get_nowait().close()

    async def get(self, collection: Collection[D], id: str) -> D | None:
        """The document of that id."""
        table = self._table(collection)

        def read(connection: sqlite3.Connection) -> D | None:
            row = connection.execute(table.get, (id,)).fetchone()
            return None if row is None else table.document(row)

        return await self._read(read, documents=1)

    async def get_many(self, collection: Collection[D], ids: Sequence[str]) -> list[D | None]:
        """The documents of those ids, in their order; None where there is none."""
        table = self._table(collection)
        if not ids:
            return []

        def read(connection: sqlite3.Connection) -> list[D | None]:
            rows = (connection.execute(table.get, (id,)).fetchone() for id in ids)
            return [None if row is None else table.document(row) for row in rows]

        return await self._read(read, documents=len(ids))

    async def versions(self, collection: Collection[Any], ids: Sequence[str]) -> list[int]:
        """The stored version of each id, 0 where there is none; reads no bodies."""
        sql = self._table(collection).version
        if not ids:
            return []

        def read(connection: sqlite3.Connection) -> list[int]:
            rows = (connection.execute(sql, (id,)).fetchone() for id in ids)
            return [0 if row is None else row[0] for row in rows]

        return await self._read(read, documents=len(ids))

    async def insert(self, collection: Collection[D], document: D) -> D:
        """Store a new document and return it as stored. Raises `Duplicate`."""
        table = self._table(collection)
        encoded = encode(document, 1)
        row = table.row(encoded)

        def write(connection: sqlite3.Connection) -> None:
            if connection.execute(table.get, (document.id,)).fetchone() is not None:
                raise Duplicate(collection.name, "id")
            table.execute(connection, table.insert, row)

        await self._writer.run(write)
        return encoded.stored

    async def put(self, collection: Collection[D], document: D) -> D:
        """Store over the version that `document` carries. Raises `Conflict`, `Duplicate`."""
        (stored,) = await self.put_many([Put(collection, document)])
        return cast(D, stored)

    async def put_many(self, puts: Sequence[Put]) -> list[Document]:
        """Store all of them or none. Raises `Conflict` or `Duplicate` for the first that cannot be stored."""
        if not puts:
            return []
        encoded = [encode(put.document, put.document.version + 1) for put in puts]
        tables = [self._table(put.collection) for put in puts]
        rows = [table.row(each) for table, each in zip(tables, encoded, strict=True)]

        def write(connection: sqlite3.Connection) -> None:
            for put, table, row in zip(puts, tables, rows, strict=True):
                table.put(connection, put.document, row)

        await self._writer.run(write)
        return [each.stored for each in encoded]

    async def delete(self, collection: Collection[Any], id: str) -> bool:
        """Delete the document; False when there was none."""
        table = self._table(collection)
        return await self._writer.run(lambda connection: connection.execute(table.delete, (id,)).rowcount > 0)

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
        chosen = self._table(collection).select(index, equals, at_least, below)
        sql = f"DELETE FROM {chosen.table} WHERE {chosen.where}"  # noqa: S608 - names are our own, values are bound
        return await self._writer.run(lambda connection: connection.execute(sql, chosen.arguments).rowcount)

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
        table = self._table(collection)
        chosen = table.select(index, equals, at_least, below)
        return await self._read(table.page(chosen, index, descending, limit, cursor).run, documents=limit)

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
        """Hand out up to `limit` due documents, oldest first, to nobody else before `now + lease`."""
        if collection.index(index).fields[len(equals) :] != ("due_at",):
            raise ValueError(f"{collection.name}.{index} is not an index for this claim")
        table = self._table(collection)
        chosen = table.select(index, equals, below=now + timedelta(microseconds=1))
        sql = (
            f"SELECT id, version, v, body FROM {chosen.table} "  # noqa: S608 - names are our own, values are bound
            f"WHERE {chosen.where} ORDER BY {', '.join(chosen.order)} LIMIT ?"
        )

        def write(connection: sqlite3.Connection) -> list[C]:
            claimed: list[C] = []
            for row in connection.execute(sql, (*chosen.arguments, limit)).fetchall():
                document = table.document(row)
                handed_out = replace(document, due_at=now + lease, attempts=document.attempts + 1)
                encoded = encode(handed_out, document.version + 1)
                table.put(connection, document, table.row(encoded))
                claimed.append(encoded.stored)
            return claimed

        return await self._writer.run(write)

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
        chosen = self._table(collection).select(index, equals, at_least, below)
        sql = f"SELECT count(*) FROM {chosen.table} WHERE {chosen.where}"  # noqa: S608 - names are our own, values are bound
        return await self._read(
            lambda connection: connection.execute(sql, chosen.arguments).fetchone()[0], documents=MANY
        )

    async def scrub(self) -> None:
        """Empty the write-ahead log, in which deleted documents lie; the file's own pages are overwritten at once."""
        await asyncio.to_thread(self._empty_log)

    def _empty_log(self) -> None:
        try:
            with closing(connected(self._path)) as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise failure(error) from error
        if busy:  # somebody read or wrote for all of the 5 s
            raise Unavailable("database")

    def _table(self, collection: Collection[Any]) -> Table:
        try:
            return self._tables[collection.name]
        except KeyError:
            raise RuntimeError(f"the collection {collection.name} was not opened") from None

    async def _read(self, run: Callable[[sqlite3.Connection], T], *, documents: int) -> T:
        """What `run` reads: at most so many documents, here when they are few, else in a thread."""
        if self._closed:
            raise Unavailable("database")
        if documents <= SMALL_READ and self._loops is not None:
            try:
                return run(self._loops)
            except sqlite3.Error:
                pass  # locked by a recovery, say: a thread may wait for that, or says what is wrong
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, run)

    def _connected_for_loop(self) -> sqlite3.Connection:
        try:
            connection = connected_for_reading(self._path)
            connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as error:
            raise failure(error) from error
        return connection

    def _read_now(self, run: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = None
        try:
            connection = self._borrow()
            result = run(connection)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise failure(error) from error
        except BaseException:
            if connection is not None:
                self._idle.put(connection)
            raise
        self._idle.put(connection)
        return result

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return connected_for_reading(self._path)
