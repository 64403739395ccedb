"""The document port: twelve verbs, two engines (SQLite embedded, MongoDB in a cluster).

Documents are frozen msgspec Structs stored as BSON: times keep millisecond precision, Decimal, UUID and dates are
text, bytes stay bytes. A service declares its collections and indexes; correctness never rests on a transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

import msgspec


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What every document has. `version` belongs to the port: 0 = never stored, one more with every write."""

    id: str
    version: int = 0


class Claimable(Document, frozen=True, kw_only=True):
    """A document that `claim` can hand out. `due_at` is None when there is nothing left to do.

    A claim moves `due_at` to the end of the lease, counts `attempts` and raises `version`, which so is the fencing
    token: the write of a worker whose lease ran out raises `Conflict`.
    """

    due_at: datetime | None = None
    attempts: int = 0


D = TypeVar("D", bound=Document)
C = TypeVar("C", bound=Claimable)


@dataclass(frozen=True)
class Index:
    """An index over top-level fields, in order. Documents in which a field is None are not in it."""

    name: str
    fields: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True)
class Collection(Generic[D]):
    """A named set of documents of one model.

    `v` is the model's version, stored beside each document; `upgrades[n]` turns the raw mapping of version n into
    that of n + 1 when an older one is read.
    """

    name: str
    model: type[D]
    indexes: tuple[Index, ...] = ()
    v: int = 1
    upgrades: dict[int, Any] = field(default_factory=dict[int, Any])

    def index(self, name: str) -> Index:
        """The index of that name. Raises KeyError."""
        for index in self.indexes:
            if index.name == name:
                return index
        raise KeyError(f"{self.name} has no index {name}")


@dataclass(frozen=True)
class Put:
    """One write of `put_many`; the document's `version` is the expected one."""

    collection: Collection[Any]
    document: Document


@dataclass(frozen=True)
class Page(Generic[D]):
    """Some documents in order, and the cursor that continues behind them (None at the end)."""

    documents: tuple[D, ...]
    cursor: str | None


class Duplicate(Exception):
    """A document with this id, or with these values of a unique index, exists. `index` is "id" for the id."""

    def __init__(self, collection: str, index: str) -> None:
        super().__init__(f"{collection}: {index} is taken")
        self.collection = collection
        self.index = index


class Conflict(Exception):
    """The documents named were changed by somebody else since they were read: read again and merge."""

    def __init__(self, collection: str, ids: Sequence[str]) -> None:
        super().__init__(f"{collection}: changed meanwhile: {', '.join(ids)}")
        self.collection = collection
        self.ids = tuple(ids)


class Documents(Protocol):
    """The port. Every verb raises `Unavailable("database")` when the engine does not answer; a write may have happened
    all the same, so whoever repeats it is idempotent.

    What a verb returns is durable: SQLite with `synchronous=FULL`, MongoDB with `w: majority, j: true`.
    """

    async def open(self, collections: Sequence[Collection[Any]]) -> None:
        """Create what is missing of the collections and indexes, and be ready."""
        ...

    async def close(self) -> None:
        """Finish what is under way and release the engine."""
        ...

    async def get(self, collection: Collection[D], id: str) -> D | None:
        """The document of that id."""
        ...

    async def get_many(self, collection: Collection[D], ids: Sequence[str]) -> list[D | None]:
        """The documents of those ids, in their order; None where there is none."""
        ...

    async def versions(self, collection: Collection[Any], ids: Sequence[str]) -> list[int]:
        """The stored version of each id, 0 where there is none: whether what is held in memory is still true.

        A document that was deleted and stored anew begins at 1 again.
        """
        ...

    async def insert(self, collection: Collection[D], document: D) -> D:
        """Store a new document and return it as stored. Raises `Duplicate`."""
        ...

    async def put(self, collection: Collection[D], document: D) -> D:
        """Store over the version that `document` carries and return it as stored.

        Version 0 means "must not exist". Raises `Conflict` when that version is not the stored one, `Duplicate` when
        a unique index refuses it.
        """
        ...

    async def put_many(self, puts: Sequence[Put]) -> list[Document]:
        """Store in the order given and return the documents as stored.

        Stops at the first document whose version is not the stored one and raises `Conflict` (or `Duplicate`). SQLite
        then has written none, MongoDB those before it; so write in the order in which a crash does no harm.
        """
        ...

    async def delete(self, collection: Collection[Any], id: str) -> bool:
        """Delete the document; False when there was none."""
        ...

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
        ...

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
        """Documents in the index's order (ties by id).

        `equals` fixes the index's first fields; `at_least` and `below` bound the field after them (half-open).
        Raises ValueError for a cursor that is not one of ours.
        """
        ...

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
        """Hand out up to `limit` documents with `due_at` ≤ `now`, oldest first, to nobody else before `now + lease`.

        The index's fields are those of `equals`, then `due_at`.
        """
        ...

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
        ...

    async def scrub(self) -> None:
        """Leave nothing of deleted documents in the engine's files, as far as it is ours to say.

        SQLite overwrites what is deleted, and this empties its log; MongoDB's files are its own (docs/privacy.md).
        """
        ...
