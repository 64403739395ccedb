"""Which collections are about users, which users were erased, and documents that take nothing of them any more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from shared.documents import Collection, Document, Documents, Put
from shared.errors import Erased

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Personal:
    """A collection about users: how a user's documents are found in it.

    `indexes`: those that begin with `user_id` and have all documents between them; none: the document's id is the
    user's.
    """

    collection: Collection[Any]
    indexes: tuple[str, ...] = ()

    def owner(self, document: Any) -> str:
        """Whose document it is; "" for nobody's."""
        return document.user_id if self.indexes else document.id


@dataclass(frozen=True)
class Impersonal:
    """A collection that holds nothing of users, and why not."""

    collection: Collection[Any]
    reason: str


Declared = Personal | Impersonal


class ErasedUsers:
    """The users that were erased, in memory, each until its tombstone goes; with all around it 0.7 µs a write."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}
        # Whose work came all the same: their data is looked for once more.
        self.late: set[str] = set()

    def add(self, user_id: str, until: datetime) -> None:
        """Take nothing of this user before `until`."""
        self._until[user_id] = until

    def forget(self, now: datetime) -> None:
        """Forget those whose tombstones are over."""
        self._until = {user_id: until for user_id, until in self._until.items() if until > now}

    def refuses(self, user_id: str) -> bool:
        """Whether the user was erased; somebody asks because there is work of this user."""
        if user_id not in self._until:
            return False
        self.late.add(user_id)
        return True

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._until


class GuardedDocuments:
    """`Documents` whose personal collections refuse what is an erased user's, with `Erased`.

    The check and the engine's taking of the write are one step of the event loop, and an erased user is known before
    its tombstone is written. So on SQLite whatever passed the check is committed before the tombstone, hence before
    its documents are looked for. Other processes of the service learn of the tombstone within a second: see
    `shared.erasure`, which looks again.
    """

    def __init__(self, documents: Documents, declared: Iterable[Declared], erased: ErasedUsers) -> None:
        self._documents = documents
        self._personal = {one.collection.name: one for one in declared if isinstance(one, Personal)}
        self._erased = erased
        self.open, self.close, self.scrub = documents.open, documents.close, documents.scrub
        self.get, self.get_many, self.versions = documents.get, documents.get_many, documents.versions
        self.delete, self.delete_where = documents.delete, documents.delete_where
        self.find, self.claim, self.count = documents.find, documents.claim, documents.count

    async def insert(self, collection: Collection[D], document: D) -> D:
        """As the port says. Raises `Erased` too."""
        self._check(collection, document)
        return await self._documents.insert(collection, document)

    async def put(self, collection: Collection[D], document: D) -> D:
        """As the port says. Raises `Erased` too."""
        self._check(collection, document)
        return await self._documents.put(collection, document)

    async def put_many(self, puts: Sequence[Put]) -> list[Document]:
        """As the port says. Raises `Erased` too, with nothing written."""
        for put in puts:
            self._check(put.collection, put.document)
        return await self._documents.put_many(puts)

    def _check(self, collection: Collection[Any], document: Any) -> None:
        personal = self._personal.get(collection.name)
        if personal is not None and self._erased.refuses(personal.owner(document)):
            raise Erased
