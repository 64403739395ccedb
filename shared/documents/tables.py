"""A collection as a SQLite table: id, version, model version, one column per indexed field, and the BSON body."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.documents.codec import (
    Encoded,
    IndexValue,
    bound_value,
    check_indexes,
    decode,
    decode_cursor,
    encode,
    encode_cursor,
    index_value,
)
from shared.documents.port import Collection, Conflict, Document, Duplicate, Index, Page

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Selection:
    """What a find, count, claim or delete_where looks at: a stretch of one index."""

    table: str
    where: str
    arguments: tuple[IndexValue, ...]
    order: tuple[str, ...]


class Table:
    """The SQL of one collection. Names are quoted; values are always bound."""

    def __init__(self, collection: Collection[Any]) -> None:
        check_indexes(collection)
        self.collection = collection
        self.name = quoted(collection.name)
        self.fields = tuple(dict.fromkeys(name for index in collection.indexes for name in index.fields))
        columns = ("id", "version", "v", *(column(name) for name in self.fields), "body")
        marks = ", ".join("?" * len(columns))
        self.insert = f"INSERT INTO {self.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names are our own, values are bound
        self.kept = f"SELECT {', '.join(('version', *map(column, self.fields)))} FROM {self.name} WHERE id = ?"  # noqa: S608 - names are our own, values are bound
        self._updates: dict[tuple[str, ...], str] = {}
        self.get = f"SELECT id, version, v, body FROM {self.name} WHERE id = ?"  # noqa: S608 - names are our own, values are bound
        self.version = f"SELECT version FROM {self.name} WHERE id = ?"  # noqa: S608 - names are our own, values are bound
        self.delete = f"DELETE FROM {self.name} WHERE id = ?"  # noqa: S608 - names are our own, values are bound

    def row(self, encoded: Encoded[Any]) -> Row:
        """The values of `insert`."""
        fields = [index_value(encoded.fields[name]) for name in self.fields]
        return (encoded.stored.id, encoded.stored.version, self.collection.v, *fields, encoded.body)

    def put(self, connection: sqlite3.Connection, document: Document, row: Row) -> None:
        """Write `row` where the stored version is still that of `document`. Raises `Conflict`, `Duplicate`."""
        kept = connection.execute(self.kept, (document.id,)).fetchone()
        if (kept[0] if kept is not None else 0) != document.version:
            raise Conflict(self.collection.name, [document.id])
        if kept is None:
            self.execute(connection, self.insert, row)
            return
        _, version, v, *fields, body = row
        changed = {name: new for name, old, new in zip(self.fields, kept[1:], fields, strict=True) if old != new}
        self.execute(connection, self._update(tuple(changed)), (version, v, body, *changed.values(), document.id))

    def _update(self, changed: tuple[str, ...]) -> str:
        # SQLite writes anew every index that has a column of an UPDATE, whether or not its value is another.
        if changed not in self._updates:
            assigned = "".join(f", {column(name)} = ?" for name in changed)
            self._updates[changed] = f"UPDATE {self.name} SET version = ?, v = ?, body = ?{assigned} WHERE id = ?"  # noqa: S608 - names are our own, values are bound
        return self._updates[changed]

    def execute(self, connection: sqlite3.Connection, sql: str, arguments: Row) -> int:
        """How many rows the statement changed. Raises `Duplicate`."""
        try:
            return connection.execute(sql, arguments).rowcount
        except sqlite3.IntegrityError as error:
            raise Duplicate(self.collection.name, self.taken(error)) from error

    def document(self, row: Row) -> Any:
        """The document in a row that begins with id, version, v, body."""
        return decode(self.collection, row[0], row[1], row[2], row[3])

    def select(self, index: str, equals: Sequence[Any], at_least: Any = None, below: Any = None) -> Selection:
        """The stretch of `index` with those first fields and the next one within bounds.

        Raises:
            KeyError: no such index.
            ValueError: more values than the index has fields, None among them, or a kind no index holds.
        """
        found = self.collection.index(index)
        rest = found.fields[len(equals) :]
        bounds = [(">=", at_least), ("<", below)]
        bounds = [(sign, bound) for sign, bound in bounds if bound is not None]
        if len(equals) > len(found.fields) or (bounds and not rest) or None in equals:
            raise ValueError(f"{self.collection.name}.{index} cannot be searched like that")
        terms = [f"{column(name)} IS NOT NULL" for name in found.fields]
        terms += [f"{column(name)} = ?" for name in found.fields[: len(equals)]]
        terms += [f"{column(rest[0])} {sign} ?" for sign, _ in bounds]
        values = [index_value(value) for value in equals] + [bound_value(bound) for _, bound in bounds]
        return Selection(
            table=f"{self.name} INDEXED BY {quoted(f'{self.collection.name}.{index}')}",
            where=" AND ".join(terms),
            arguments=tuple(value for value in values if value is not None),
            order=tuple(column(name) for name in rest) if found.unique and rest else (*map(column, rest), "id"),
        )

    def page(self, selection: Selection, index: str, descending: bool, limit: int, cursor: str | None) -> "Find":
        """A `find` over the selection. Raises ValueError for a limit below 1 or a foreign cursor."""
        if limit < 1:
            raise ValueError("a limit is at least 1")
        where, arguments = selection.where, selection.arguments
        place = f"{self.collection.name}.{index}"
        if cursor is not None:
            marks = ", ".join("?" * len(selection.order))
            where += f" AND ({', '.join(selection.order)}) {'<' if descending else '>'} ({marks})"
            arguments += tuple(decode_cursor(place, cursor, len(selection.order)))
        direction = " DESC" if descending else ""
        sql = (
            f"SELECT id, version, v, body, {', '.join(selection.order)} FROM {selection.table} "  # noqa: S608 - names are our own, values are bound
            f"WHERE {where} ORDER BY {', '.join(name + direction for name in selection.order)} LIMIT ?"
        )
        return Find(self, sql, (*arguments, limit + 1), limit, place)

    def taken(self, error: sqlite3.IntegrityError) -> str:
        """The name of the unique index that refused a row ("id" for the id)."""
        for index in self.collection.indexes:
            columns = ", ".join(f"{self.collection.name}.f_{name}" for name in index.fields)
            if index.unique and str(error).endswith(f": {columns}"):
                return index.name
        return "id"

    def create(self, connection: sqlite3.Connection) -> None:
        """Make what is missing inside the caller's transaction, and fill new columns from the documents there."""
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name} "
            "(id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, v INTEGER NOT NULL, body BLOB NOT NULL)"
        )
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({self.name})")}
        missing = [name for name in self.fields if f"f_{name}" not in present]
        for name in missing:
            connection.execute(f"ALTER TABLE {self.name} ADD COLUMN {column(name)}")
        self._extract(connection, everything=bool(missing))
        for index in self.collection.indexes:
            self._create_index(connection, index)

    def _create_index(self, connection: sqlite3.Connection, index: Index) -> None:
        name = f"{self.collection.name}.{index.name}"
        columns = [column(field) for field in index.fields]
        keys = columns if index.unique else [*columns, "id"]
        sql = (
            f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {quoted(name)} ON {self.name} ({', '.join(keys)}) "
            f"WHERE {' AND '.join(f'{key} IS NOT NULL' for key in columns)}"
        )
        found = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = ?", (name,))
        there = found.fetchone()
        if there == (sql,):
            return
        if there is not None:
            connection.execute(f"DROP INDEX {quoted(name)}")
        connection.execute(sql)

    def _extract(self, connection: sqlite3.Connection, *, everything: bool) -> None:
        """Fill the index columns of all documents, or of those that an older model version wrote."""
        if not self.fields:
            return
        connection.execute("CREATE TABLE IF NOT EXISTS _collections (name TEXT PRIMARY KEY NOT NULL, v INTEGER)")
        known = connection.execute("SELECT v FROM _collections WHERE name = ?", (self.collection.name,)).fetchone()
        v = self.collection.v
        connection.execute("INSERT OR REPLACE INTO _collections (name, v) VALUES (?, ?)", (self.collection.name, v))
        if not everything and known is not None and known[0] >= v:
            return
        older = "" if everything else f" WHERE v < {v}"
        assigned = ", ".join(f"{column(name)} = ?" for name in self.fields)
        update = f"UPDATE {self.name} SET {assigned} WHERE id = ?"  # noqa: S608 - names are our own, values are bound
        ids = connection.execute(f"SELECT id FROM {self.name}{older}").fetchall()  # noqa: S608 - names are our own, values are bound
        for (id,) in ids:
            document = self.document(connection.execute(self.get, (id,)).fetchone())
            fields = self.row(encode(document, document.version))[3:-1]
            connection.execute(update, (*fields, id))


@dataclass(frozen=True)
class Find:
    """A compiled `find`."""

    table: Table
    sql: str
    arguments: tuple[IndexValue, ...]
    limit: int
    place: str

    def run(self, connection: sqlite3.Connection) -> Page[Any]:
        """The page of documents, with a cursor when there are more."""
        rows = connection.execute(self.sql, self.arguments).fetchall()
        documents: tuple[Document, ...] = tuple(self.table.document(row) for row in rows[: self.limit])
        more = len(rows) > self.limit
        return Page(documents, encode_cursor(self.place, rows[self.limit - 1][4:]) if more else None)


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column(field: str) -> str:
    """The column of an indexed field."""
    return quoted(f"f_{field}")
