"""Ingest's receipts and users; samples are written by `storing` and read by `held`."""

from collections.abc import Sequence

from services.ingest.records import RECEIPTS, USERS, Receipt
from shared.documents import Conflict, Documents
from shared.errors import Unavailable

TRIES = 10


class Store:
    """Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def ping(self) -> None:
        """Return when the database answers."""
        await self._documents.get(USERS, "")

    async def told_with(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        """All receipts of the groups that these belong to."""
        alone = {one.id: one for one in receipts if not one.leader}
        leaders = await self.receipts(list(dict.fromkeys(one.leader for one in receipts if one.leader)))
        members = await self.receipts([id for one in leaders.values() for id in one.members])
        return list((alone | members).values())

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
