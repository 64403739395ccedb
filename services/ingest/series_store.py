"""What users read back: receipts, samples, what they were before, sessions and devices; nothing here writes."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from services.ingest.buckets import HOUR_US, ROW, Array
from services.ingest.completeness import Tally
from services.ingest.days import number_of
from services.ingest.held import read_held
from services.ingest.merging import Series
from services.ingest.metrics import METRICS, STAGES, Stage
from services.ingest.priorities import Ranking
from services.ingest.records import (
    DEVICES,
    PRIORITIES,
    RECEIPTS,
    SESSIONS,
    USERS,
    ZONES,
    Device,
    Receipt,
    Session,
)
from services.ingest.timeseries import END_OF_TIME_US, Flow, Table, Wanted, joined
from services.ingest.zones import ZoneHistory
from shared.documents import Documents, Page

# So many rows become points at a time: some 2 ms of work.
AT_ONCE = 8_192
# Records that overlap in many layers take up to 0.1 ms each; more of them are resolved in a thread.
INLINE_ROWS = 2_000
PAGE = 100
# A session with all its streams takes up to 1.6 MB.
SESSIONS_AT_ONCE = 8
LONGEST_SESSION_HOURS = 48
# One may name 10,000 refused records, 2 MB; so a page of receipts takes up to 50 MB.
RECEIPTS_AT_ONCE = 20
MOST_REFUSED = 50_000
# What is usual for a device shows within four weeks.
USUAL_WITHIN_DAYS = 28
# Local days reach so far beyond their UTC day.
HOURS_AHEAD = 14


@dataclass(frozen=True)
class Reads:
    """Ingest's documents as its users read them. Raises `Unavailable("database")` from everything."""

    documents: Documents

    async def receipt(self, receipt_id: str, user_id: str) -> Receipt | None:
        """The receipt of that id, None for somebody else's."""
        found = await self.documents.get(RECEIPTS, receipt_id)
        return found if found is not None and found.user_id == user_id else None

    async def receipts(self, user_id: str, since: datetime | None, limit: int, cursor: str | None) -> Page[Receipt]:
        """The user's receipts completed at `since` or later, oldest first. Raises ValueError for a foreign cursor.

        Fewer than `limit` where they name very many refused records.
        """
        found: list[Receipt] = []
        while True:
            most = min(limit - len(found), RECEIPTS_AT_ONCE)
            page = await self.documents.find(
                RECEIPTS, "user_completed", (user_id,), at_least=since, limit=most, cursor=cursor
            )
            found += page.documents
            named = sum(len(one.refused) for one in found)
            if (cursor := page.cursor) is None or len(found) >= limit or named >= MOST_REFUSED:
                return Page(tuple(found), cursor)

    async def devices(self, user_id: str) -> list[Device]:
        """The user's devices."""
        found: list[Device] = []
        cursor: str | None = None
        while True:
            page = await self.documents.find(DEVICES, "user", (user_id,), limit=PAGE, cursor=cursor)
            found += page.documents
            if (cursor := page.cursor) is None:
                return found

    async def tallies(
        self, user_id: str, first_day: int, last_day: int
    ) -> tuple[dict[tuple[str, str, str], Tally], int]:
        """By device, its kind and metric what came on those local days and in the four weeks that say what is usual.

        Beside them the offset in minutes of the user's zone at the end. Each bucket is read once.
        """
        zones = await self.zones(user_id)
        begin = min(first_day, last_day + 1 - USUAL_WITHIN_DAYS) * 24 - HOURS_AHEAD
        found: dict[tuple[str, str, str], Tally] = {}
        kinds: dict[str, str] = {}
        waiting: dict[tuple[str, str, str], list[Array]] = {}

        def count(key: tuple[str, str, str]) -> None:
            found.setdefault(key, Tally(METRICS[key[2]].kind != "interval")).add(
                zones.with_offsets(joined(waiting.pop(key)))
            )

        for metric in METRICS.values():
            if not metric.dense:
                continue
            end = (last_day + 1) * 24 + HOURS_AHEAD
            async for held in read_held(self.documents, user_id, metric.name, max(0, begin), end):
                key = (held.device_id, kinds.setdefault(held.device_id, held.device_kind), metric.name)
                waiting.setdefault(key, []).append(held.rows)
                if sum(map(len, waiting[key])) >= AT_ONCE:
                    count(key)
        for key in list(waiting):
            count(key)
        # The last day there is has no end.
        ends = min(last_day + 1, number_of(date.max))
        return found, zones.offset_at(ends * 24 * HOUR_US)

    async def sessions(self, user_id: str, from_us: int, to_us: int, limit: int, cursor: str | None) -> Page[Session]:
        """Sessions that may overlap [from_us, to_us), in order of the hour they end in; a few, for some are large.

        Raises ValueError for a foreign cursor.
        """
        return await self.documents.find(
            SESSIONS,
            "user_hour",
            (user_id,),
            at_least=from_us // HOUR_US,
            below=to_us // HOUR_US + LONGEST_SESSION_HOURS + 1,
            limit=min(limit, SESSIONS_AT_ONCE),
            cursor=cursor,
        )

    async def session(self, id: str) -> Session | None:
        """The session of that document id."""
        return await self.documents.get(SESSIONS, id)

    async def zones(self, user_id: str) -> ZoneHistory:
        """Where the user's clock stood."""
        user, held = await asyncio.gather(self.documents.get(USERS, user_id), self.documents.get(ZONES, user_id))
        return ZoneHistory(user.home_zone if user is not None else "UTC", held.history.changes if held else ())

    async def ranking(self, user_id: str) -> Ranking:
        """The user's order of devices."""
        held = await self.documents.get(PRIORITIES, user_id)
        return Ranking(held.order) if held is not None else Ranking()

    async def stages(self, user_id: str, wanted: Wanted, device_id: str | None) -> AsyncGenerator[Table]:
        """All stages of sleep in the range, from sessions and from single samples, as their devices told them."""
        begin, end = wanted.reads_from_us() // HOUR_US, -(-wanted.to_us // HOUR_US)
        reading = read_held(self.documents, user_id, "sleep", begin, end, device_id=device_id)
        found = [Series(one.metric, one.device_id, one.device_kind, one.rows) async for one in reading]
        cursor: str | None = None
        while True:
            page = await self.sessions(user_id, wanted.from_us, wanted.to_us, SESSIONS_AT_ONCE, cursor)
            found += [
                Series(one.type, one.device_id, one.device_kind, _stage_rows(one))
                for one in page.documents
                if one.type == "sleep" and not one.deleted and device_id in (None, one.device_id)
            ]
            if (cursor := page.cursor) is None:
                break
        yield Flow(wanted).feed(found, END_OF_TIME_US)

    async def points(
        self, user_id: str, wanted: Wanted, device_id: str | None, key: int | None = None
    ) -> AsyncGenerator[Table]:
        """All points asked for (from the window or start `key` on), in order, some thousand rows in memory."""
        flow = Flow(wanted)
        waiting: list[Series] = []
        rows, hour = 0, None
        begin, end = wanted.reads_from_us(key) // HOUR_US, -(-wanted.to_us // HOUR_US)
        async for held in read_held(self.documents, user_id, wanted.metric, begin, end, device_id=device_id):
            if held.hour != hour and rows >= AT_ONCE:
                yield await _fed(flow, waiting, held.hour * HOUR_US)
                waiting, rows = [], 0
            hour = held.hour
            waiting.append(Series(held.metric, held.device_id, held.device_kind, held.rows))
            rows += len(held.rows)
        yield await _fed(flow, waiting, END_OF_TIME_US)


async def _fed(flow: Flow, series: list[Series], complete_us: int) -> Table:
    resolves = flow.wanted.interval and (flow.wanted.windowed or flow.wanted.resolved)
    if resolves and sum(len(one.rows) for one in series) > INLINE_ROWS:
        return await asyncio.to_thread(flow.feed, series, complete_us)
    return flow.feed(series, complete_us)


def _stage_rows(session: Session) -> Array:
    """A sleep's stages as samples of the metric `sleep`; one of no known stage where it tells none."""
    stages = session.stages
    rows = np.zeros(len(stages.stage) if stages is not None and stages.stage else 1, ROW)
    rows["start"], rows["end"], rows["value"] = session.start_us, session.end_us, Stage.ASLEEP
    rows["offset"] = session.offset_minutes
    if stages is not None and stages.stage:
        rows["start"], rows["end"] = (np.frombuffer(one, "<i8") for one in (stages.start_us, stages.end_us))
        rows["value"] = [STAGES.get(name, Stage.UNKNOWN) for name in stages.stage]
    rows["id_hi"], rows["id_lo"] = rows["start"], rows["end"]
    return rows
