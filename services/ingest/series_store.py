"""What users read back: receipts, samples, what they were before, sessions and devices; nothing here writes."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

from services.ingest.buckets import HOUR_US
from services.ingest.held import read_held
from services.ingest.merging import Series
from services.ingest.priorities import Ranking
from services.ingest.records import PRIORITIES, RECEIPTS, USERS, ZONES, Receipt
from services.ingest.timeseries import END_OF_TIME_US, Flow, Table, Wanted
from services.ingest.zones import ZoneHistory
from shared.documents import Documents, Page

# So many rows become points at a time: some 2 ms of work.
AT_ONCE = 8_192
# Records that overlap in many layers take up to 0.1 ms each; more of them are resolved in a thread.
INLINE_ROWS = 2_000


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

    async def zones(self, user_id: str) -> ZoneHistory:
        """Where the user's clock stood."""
        user, held = await asyncio.gather(self.documents.get(USERS, user_id), self.documents.get(ZONES, user_id))
        return ZoneHistory(user.home_zone if user is not None else "UTC", held.history.changes if held else ())

    async def ranking(self, user_id: str) -> Ranking:
        """The user's order of devices."""
        held = await self.documents.get(PRIORITIES, user_id)
        return Ranking(held.order) if held is not None else Ranking()

    async def points(
        self, user_id: str, wanted: Wanted, device_id: str | None, key: int | None = None
    ) -> AsyncGenerator[Table]:
        """All points asked for (from the window or start `key` on), in order, some thousand rows in memory."""
        flow = Flow(wanted)
        zones = await self.zones(user_id) if wanted.daily else None
        waiting: list[Series] = []
        rows, hour = 0, None
        begin, end = wanted.reads_from_us(key) // HOUR_US, -(-wanted.to_us // HOUR_US)
        async for held in read_held(self.documents, user_id, wanted.metric, begin, end, device_id=device_id):
            if held.hour != hour and rows >= AT_ONCE:
                yield await _fed(flow, waiting, held.hour * HOUR_US)
                waiting, rows = [], 0
            hour = held.hour
            found = held.rows if zones is None else zones.with_offsets(held.rows)
            waiting.append(Series(held.metric, held.device_id, held.device_kind, found))
            rows += len(found)
        yield await _fed(flow, waiting, END_OF_TIME_US)


async def _fed(flow: Flow, series: list[Series], complete_us: int) -> Table:
    resolves = flow.wanted.interval and (flow.wanted.windowed or flow.wanted.resolved)
    if resolves and sum(len(one.rows) for one in series) > INLINE_ROWS:
        return await asyncio.to_thread(flow.feed, series, complete_us)
    return flow.feed(series, complete_us)
