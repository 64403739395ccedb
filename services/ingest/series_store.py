"""What users read back: receipts, samples, what they were before, sessions and devices; nothing here writes."""

from dataclasses import dataclass
from datetime import datetime

from services.ingest.records import RECEIPTS, Receipt
from shared.documents import Documents, Page


@dataclass(frozen=True)
class Reads:
    """Ingest's documents as its users read them. Raises `Unavailable("database")` from everything."""

    documents: Documents

    async def receipt(self, receipt_id: str, user_id: str) -> Receipt | None:
        """The receipt of that id, None for somebody else's."""
        found = await self.documents.get(RECEIPTS, receipt_id)
        return found if found is not None and found.user_id == user_id else None

    async def receipts(self, user_id: str, since: datetime | None, limit: int, cursor: str | None) -> Page[Receipt]:
        """The user's receipts completed at `since` or later, oldest first. Raises ValueError for a foreign cursor."""
        return await self.documents.find(
            RECEIPTS, "user_completed", (user_id,), at_least=since, limit=limit, cursor=cursor
        )
