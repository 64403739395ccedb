"""Ingest's receipts and users; samples are written by `storing` and read by `held`."""

from collections.abc import Sequence

from services.ingest.records import RECEIPTS, USERS, Receipt, User
from shared.documents import Conflict, Documents
from shared.errors import Unavailable

TRIES = 10
PAGE = 500


class Store:
    """Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def ping(self) -> None:
        """Return when the database answers."""
        await self._documents.get(USERS, "")

    async def receipts_of_groups(self, groups: Sequence[str]) -> list[Receipt]:
        """All receipts told of by those events."""
        found: list[Receipt] = []
        for group in groups:
            cursor: str | None = None
            while True:
                page = await self._documents.find(RECEIPTS, "group", (group,), limit=PAGE, cursor=cursor)
                found.extend(page.documents)
                if (cursor := page.cursor) is None:
                    break
        return found

    async def receipts(self, ids: Sequence[str]) -> dict[str, Receipt]:
        """The receipts known, by id."""
        found = await self._documents.get_many(RECEIPTS, ids)
        return {one.id: one for one in found if one is not None}

    async def record_failed(self, receipt: Receipt) -> Receipt:
        """Store a failed batch's receipt, unless one is there already, and return what is stored."""
        for _ in range(TRIES):
            known = await self._documents.get(RECEIPTS, receipt.id)
            if known is not None:
                return known
            try:
                return await self._documents.put(RECEIPTS, receipt)
            except Conflict:
                continue
        raise Unavailable("database")

    async def put_user(self, user_id: str, revision: int, home_zone: str) -> None:
        """Keep a user's newest revision; an older one changes nothing."""
        for _ in range(TRIES):
            known = await self._documents.get(USERS, user_id)
            if known is not None and known.revision >= revision:
                return
            version = known.version if known is not None else 0
            try:
                await self._documents.put(
                    USERS, User(id=user_id, version=version, revision=revision, home_zone=home_zone)
                )
            except Conflict:
                continue
            return
        raise Unavailable("database")
