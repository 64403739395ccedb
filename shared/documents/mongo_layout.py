"""A collection in MongoDB: `{_id, version, v, body, i}`.

`body` is the document as the codec encodes it. `i` has one part for each index with the values that SQLite keeps in
columns, so that both engines sort and compare alike; the part is left out when one of its fields is None. Hence an
index is plain and sparse, and an index of that name is the only one that can serve its paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne

from shared.documents.codec import (
    Encoded,
    IndexValue,
    bound_value,
    check_indexes,
    decode,
    decode_cursor,
    encode_cursor,
    index_value,
)
from shared.documents.port import Collection, Document, Index, Page

Query = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """What a find, count, claim or delete_where looks at: a stretch of one index, and the paths that order it."""

    place: str
    query: Query
    order: tuple[str, ...]


@dataclass(frozen=True)
class Find:
    """A `find` ready to be sent."""

    query: Query
    sort: list[tuple[str, int]]


@dataclass(frozen=True)
class Write:
    """One document on its way over version `expected`."""

    id: str
    expected: int
    update: UpdateOne


class Layout:
    """How one collection is stored and searched."""

    def __init__(self, collection: Collection[Any]) -> None:
        check_indexes(collection)
        self.collection = collection

    def write(self, encoded: Encoded[Any], expected: int) -> Write:
        """Store over version `expected` (0: there must be none), or be refused by the server with an error.

        The upsert is never meant to insert over a version above 0: where the version is another one the known `_id`
        refuses it, where the document is gone `_id.gone` does, which no string can hold (PathNotViable). An ordered
        run of writes so stops at the first conflict, which a write that merely matches nothing would not do.

        Raises:
            ValueError: a value that no index holds.
        """
        id, body = encoded.stored.id, RawBSONDocument(encoded.body)
        stored = {"version": encoded.stored.version, "v": self.collection.v, "body": body, "i": self.keys(encoded)}
        change: dict[str, Any] = {"$set": stored}
        if expected:
            change["$setOnInsert"] = {"_id.gone": True}
        return Write(id, expected, UpdateOne({"_id": id, "version": expected}, change, upsert=True))

    def keys(self, encoded: Encoded[Any]) -> dict[str, dict[str, Any]]:
        """What the indexes hold. Raises ValueError for a value that no index holds."""
        found: dict[str, dict[str, Any]] = {}
        for index in self.collection.indexes:
            values = {name: _comparable(index_value(encoded.fields[name])) for name in index.fields}
            if all(value is not None for value in values.values()):
                found[index.name] = values
        return found

    def document(self, raw: RawBSONDocument) -> Any:
        """The document that was stored so."""
        return decode(self.collection, raw["_id"], raw["version"], raw["v"], raw["body"].raw)

    def indexes(self) -> list[IndexModel]:
        """The indexes as MongoDB takes them."""
        return [self._model(index) for index in self.collection.indexes]

    def _model(self, index: Index) -> IndexModel:
        keys = [(path(index, name), ASCENDING) for name in index.fields]
        if not index.unique:
            keys.append(("_id", ASCENDING))
        return IndexModel(keys, name=index.name, unique=index.unique, sparse=True)

    def select(self, name: str, equals: Sequence[Any], at_least: Any = None, below: Any = None) -> Selection:
        """The stretch of an index with those first fields and the next one within bounds.

        Raises:
            KeyError: no such index.
            ValueError: more values than the index has fields, None among them, or a kind no index holds.
        """
        index = self.collection.index(name)
        rest = [path(index, field) for field in index.fields[len(equals) :]]
        bounds = {"$gte": bound_value(at_least), "$lt": bound_value(below)}
        bounds = {sign: _comparable(bound) for sign, bound in bounds.items() if bound is not None}
        if len(equals) > len(index.fields) or (bounds and not rest) or None in equals:
            raise ValueError(f"{self.collection.name}.{name} cannot be searched like that")
        query: Query = {
            path(index, field): _comparable(index_value(value))
            for field, value in zip(index.fields, equals, strict=False)
        }
        if bounds:
            query[rest[0]] = bounds
        order = tuple(rest) if index.unique and rest else (*rest, "_id")
        in_index = query or {path(index, index.fields[0]): {"$exists": True}}
        return Selection(f"{self.collection.name}.{name}", in_index, order)

    def find(self, selection: Selection, descending: bool = False, cursor: str | None = None) -> Find:
        """The selection in order, behind `cursor`. Raises ValueError for a foreign cursor."""
        query = selection.query
        if cursor is not None:
            position = decode_cursor(selection.place, cursor, len(selection.order))
            query = {"$and": [query, _behind(selection.order, position, "$lt" if descending else "$gt")]}
        return Find(query, [(name, DESCENDING if descending else ASCENDING) for name in selection.order])

    def page(self, selection: Selection, found: Sequence[RawBSONDocument], limit: int) -> Page[Any]:
        """The first `limit` of what was found, with a cursor when there is more."""
        documents: tuple[Document, ...] = tuple(self.document(raw) for raw in found[:limit])
        if len(found) <= limit:
            return Page(documents, None)
        position = [_at(found[limit - 1], name) for name in selection.order]
        return Page(documents, encode_cursor(selection.place, position))


def path(index: Index, field: str) -> str:
    """Where the value of a field lies for an index."""
    return f"i.{index.name}.{field}"


def _comparable(value: IndexValue | None) -> str | int | float | None:
    """MongoDB compares bytes by their length first; as hexadecimal digits they sort as in SQLite."""
    return value.hex() if isinstance(value, bytes) else value


def _behind(order: Sequence[str], position: Sequence[Any], sign: str) -> Query:
    """What comes after `position`; the bound on the first path lets the server begin there in its index."""
    steps = [
        {**dict(zip(order[:length], position, strict=False)), order[length]: {sign: position[length]}}
        for length in range(len(order))
    ]
    return {order[0]: {f"{sign}e": position[0]}, "$or": steps}


def _at(raw: RawBSONDocument, name: str) -> str | int | float:
    value: Any = raw
    for part in name.split("."):
        value = value[part]
    return int(value) if isinstance(value, int) else value  # bson.Int64 is no plain integer
