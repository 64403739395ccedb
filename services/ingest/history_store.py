"""What samples and sessions were before they were corrected or deleted, and what they are now; nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.ingest.buckets import HOUR_US, Array
from services.ingest.held import read_held
from services.ingest.metrics import Metric
from services.ingest.records import PLACES, REPLACED, SESSIONS, Replaced, Session
from services.ingest.removals import place_id
from shared.documents import Documents, Page

# A sample that was corrected more often comes on several pages.
MOST_AT_ONE_TIME = 1_000


@dataclass(frozen=True)
class Now:
    """The state of a sample in force, or that it was deleted. Times in microseconds since 1970 UTC."""

    deleted: bool
    start_us: int
    end_us: int
    value: float
    offset: int
    source_version: int


@dataclass(frozen=True)
class History:
    """States put out of force. Raises `Unavailable("database")` from everything."""

    documents: Documents

    async def replaced(
        self, user_id: str, metric: str, from_us: int, to_us: int, limit: int, cursor: str | None
    ) -> Page[Replaced]:
        """States put out of force that began in [from_us, to_us), in order. Raises ValueError for a foreign cursor.

        All that began at one time come on one page, so it may be a bit longer; by 1,000 at most.
        """
        index = "user_metric_start"
        page = await self.documents.find(
            REPLACED, index, (user_id, metric), at_least=from_us, below=to_us, limit=limit, cursor=cursor
        )
        found, more = list(page.documents), page.cursor
        while more is not None and len(found) < limit + MOST_AT_ONE_TIME:
            rest = await self.documents.find(
                REPLACED, index, (user_id, metric), at_least=from_us, below=to_us, limit=1, cursor=more
            )
            if not rest.documents or rest.documents[0].start_us != found[-1].start_us:
                break
            found += rest.documents
            more = rest.cursor
        return Page(tuple(found), more)

    async def now(self, user_id: str, metric: Metric, states: Sequence[Replaced]) -> dict[tuple[str, str], Now]:
        """By device and identity, what is in force of the samples or sessions that `states` were.

        Nothing of a sample of a dense metric that moved to another hour.
        """
        found: dict[tuple[str, str], Now] = {}
        if metric.kind == "session":
            for one in await self.documents.get_many(SESSIONS, sorted({one.bucket for one in states})):
                if one is not None:
                    found[one.device_id, one.identity] = _session_now(one)
        if metric.name == "workout":
            return found
        await self._look(user_id, metric.name, states, {one.start_us // HOUR_US for one in states}, found)
        away = [one for one in states if (one.device_id, one.identity) not in found]
        if away and not metric.dense:
            ids = {place_id(user_id, one.device_id, bytes.fromhex(one.identity)) for one in away}
            places = await self.documents.get_many(PLACES, sorted(ids))
            hours = {one.hours[metric.name] for one in places if one is not None and metric.name in one.hours}
            await self._look(user_id, metric.name, away, hours, found)
        return found

    async def _look(
        self,
        user_id: str,
        metric: str,
        states: Sequence[Replaced],
        hours: set[int],
        found: dict[tuple[str, str], Now],
    ) -> None:
        wanted = {(one.device_id, one.identity) for one in states}
        for hour in sorted(hours):
            async for held in read_held(self.documents, user_id, metric, hour, hour + 1, with_deleted=True):
                for place, name in enumerate(identities(held.rows)):
                    if (held.device_id, name) in wanted:
                        found[held.device_id, name] = _now(held.rows[place])


def identities(rows: Array) -> list[str]:
    """The 16 bytes of each row's identity in hex."""
    whole = np.stack((rows["id_hi"], rows["id_lo"]), axis=1).tobytes().hex()
    return [whole[place : place + 32] for place in range(0, len(whole), 32)]


def _now(row: Array) -> Now:
    return Now(
        deleted=bool(row["deleted"]),
        start_us=int(row["start"]),
        end_us=int(row["end"]),
        value=float(row["value"]),
        offset=int(row["offset"]),
        source_version=int(row["version"]),
    )


def _session_now(session: Session) -> Now:
    return Now(
        deleted=session.deleted,
        start_us=session.start_us,
        end_us=session.end_us,
        value=(session.end_us - session.start_us) / 1_000_000,
        offset=session.offset_minutes,
        source_version=session.source_version,
    )
