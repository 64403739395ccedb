"""Sends the events of stored days again, for readers that lost them: page by page, as a job that outlives its process.

Each page's progress is stored after its events are acked, so a crash sends one page twice. Readers refuse revisions
and event ids they know, so for all others nothing changes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from msgspec.structs import replace

from services.ingest.day_events import day_event
from services.ingest.records import DAYS, REPUBLICATIONS, Day, Republication
from shared.clock import Clock
from shared.documents import Documents, Duplicate
from shared.errors import Rejected
from shared.events.ingest import DayRecomputed, DayUpdated

# Of a few KB each.
PAGE = 200
MAX_RATE_PER_S = 10_000
logger = logging.getLogger(__name__)

Publish = Callable[[DayUpdated | DayRecomputed], Awaitable[None]]


@dataclass(frozen=True)
class Republisher:
    """`publish` returns after the broker's ack. Raises `Unavailable` from everything."""

    documents: Documents
    publish: Publish
    clock: Clock

    async def begin(self, job: Republication) -> Republication:
        """Take the job in hand; one of that id that is there already goes on as it is."""
        try:
            return await self.documents.insert(REPUBLICATIONS, job)
        except Duplicate:
            held = await self.progress(job.id)
            return job if held is None else held

    async def progress(self, id: str) -> Republication | None:
        """How far it is."""
        return await self.documents.get(REPUBLICATIONS, id)

    async def work(self, job: Republication) -> Republication:
        """Send one page again; the job as it goes on, or ended."""
        equals = (job.user_id,) if job.user_id else ()
        # A page is at most a second's worth, so that events come evenly.
        limit = PAGE if job.dry_run else min(PAGE, job.rate_per_s)
        page = await self.documents.find(DAYS, "user_day", equals, limit=limit, cursor=job.cursor)
        wanted = [day for day in page.documents if job.since is None or day.updated_at >= job.since]
        done = [True] * len(wanted)
        if not job.dry_run:
            done = await asyncio.gather(*(self._tell(day) for day in wanted))
        now = self.clock()
        pause = timedelta() if job.dry_run else timedelta(seconds=len(wanted) / job.rate_per_s)
        return replace(
            job,
            cursor=page.cursor,
            seen=job.seen + len(page.documents),
            sent=job.sent + sum(done),
            skipped=job.skipped + len(done) - sum(done),
            due_at=now + pause if page.cursor is not None else None,
            ended_at=now if page.cursor is None else None,
            attempts=0,
            last_error=None,
        )

    async def _tell(self, day: Day) -> bool:
        try:
            await self.publish(day_event(day))
        except Rejected as rejected:
            logger.error("day %s is not told again: %s", day.id, rejected.reason)
            return False
        return True
