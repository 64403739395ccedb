"""What ingest keeps: buckets, dirty days, receipts, days, and the users' home zones.

A joint write stores buckets, then dirty days, then receipts: a crash between any two leaves a batch that is merged
again as duplicates, its days marked again, its receipt still open.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from msgspec.structs import replace

from services.ingest.buckets import Array, pack, unpack
from services.ingest.days import Series
from services.ingest.records import BUCKETS, DAYS, DIRTY_DAYS, RECEIPTS, USERS, Bucket, Day, DirtyDay, Receipt, User
from services.ingest.turn import BucketKey, DirtyMark
from shared.clock import Clock
from shared.documents import Conflict, Documents, Put
from shared.errors import Unavailable

# A day is computed at once when it was clean for so long, else this long after it was last computed.
DAY_PAUSE = timedelta(seconds=2)
TRIES = 10
PAGE = 500
# So few are read without a thread (shared/documents/sqlite.py); many days are touched in a few hours only.
SMALL_PAGE = 8


def day_id(user_id: str, day: date) -> str:
    """The id of a day's documents."""
    return f"{user_id}/{day.isoformat()}"


class Store:
    """Ingest's documents by what they are for. Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock

    async def ping(self) -> None:
        """Return when the database answers."""
        await self._documents.get(USERS, "")

    async def receipts(self, ids: Sequence[str]) -> dict[str, Receipt]:
        """The receipts known, by id."""
        found = await self._documents.get_many(RECEIPTS, ids)
        return {one.id: one for one in found if one is not None}

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

    async def buckets(self, keys: Sequence[BucketKey]) -> list[Bucket | None]:
        """The buckets of those keys, in their order."""
        return await self._documents.get_many(BUCKETS, [key.id for key in keys])

    async def put_turn(
        self,
        buckets: Sequence[Bucket],
        dirty: Sequence[DirtyMark],
        causes: Mapping[int, tuple[str | None, str]],
        receipts: Sequence[Receipt],
    ) -> datetime | None:
        """The joint write; returns when the first of the days is due.

        `causes`: by the place of a mark's batch, its traceparent and zone.

        Days are marked by their workers too, so what collided there alone is read again here.

        Raises:
            Conflict: a bucket or receipt was changed meanwhile: read again and merge.
        """
        ids = [day_id(mark.user_id, mark.day) for mark in dirty]
        for _ in range(TRIES):
            marked = [
                _marked(held, id, mark, causes[mark.batch], self._clock())
                for id, mark, held in zip(ids, dirty, await self._documents.get_many(DIRTY_DAYS, ids), strict=True)
            ]
            puts = [Put(BUCKETS, one) for one in buckets]
            puts += [Put(DIRTY_DAYS, one) for one in marked]
            puts += [Put(RECEIPTS, one) for one in receipts]
            try:
                await self._documents.put_many(puts)
            except Conflict as conflict:
                if conflict.collection != DIRTY_DAYS.name:
                    raise
            else:
                return min((one.due_at for one in marked if one.due_at is not None), default=None)
        raise Unavailable("database")

    async def series(self, dirty: DirtyDay) -> list[Series]:
        """All samples that may touch the day."""
        found: list[Series] = []
        cursor: str | None = None
        limit = SMALL_PAGE
        while True:
            page = await self._documents.find(
                BUCKETS,
                "user_hour",
                (dirty.user_id,),
                at_least=dirty.from_hour,
                below=dirty.to_hour,
                limit=limit,
                cursor=cursor,
            )
            limit = PAGE
            found.extend(
                Series(one.metric, one.device_id, one.device_kind, unpack(one.columns)) for one in page.documents
            )
            if (cursor := page.cursor) is None:
                return found

    async def day(self, user_id: str, day: date) -> Day | None:
        """The day as last told."""
        return await self._documents.get(DAYS, day_id(user_id, day))

    async def put_day(self, day: Day) -> Day:
        """Store a revision. Raises `Conflict`."""
        return await self._documents.put(DAYS, day)

    async def home_zone(self, user_id: str) -> str:
        """The user's home zone, UTC while nothing is known."""
        user = await self._documents.get(USERS, user_id)
        return user.home_zone if user is not None else "UTC"

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


def bucket_of(key: BucketKey, rows: Array, held: Bucket | None) -> Bucket:
    """The bucket to write over the one held."""
    return Bucket(
        id=key.id,
        version=held.version if held is not None else 0,
        user_id=key.user_id,
        metric=key.metric,
        device_id=key.device_id,
        device_kind=key.device_kind,
        hour=key.hour,
        columns=pack(rows),
    )


def _marked(held: DirtyDay | None, id: str, mark: DirtyMark, cause: tuple[str | None, str], now: datetime) -> DirtyDay:
    """The day's mark after one more write touched it."""
    traceparent, zone = cause
    reason = "late-data" if mark.has_new else "correction"
    if held is None:
        return DirtyDay(
            id=id,
            user_id=mark.user_id,
            day=mark.day,
            from_hour=mark.from_hour,
            to_hour=mark.to_hour,
            zone=zone,
            reason=reason,
            traceparent=traceparent,
            due_at=now,
        )
    return replace(
        held,
        from_hour=min(held.from_hour, mark.from_hour),
        to_hour=max(held.to_hour, mark.to_hour),
        zone=zone or held.zone,
        reason="late-data" if held.reason == "late-data" else reason,
        traceparent=traceparent,
        due_at=_due_at(held, now),
        attempts=0,
    )


def _due_at(held: DirtyDay, now: datetime) -> datetime:
    if held.due_at is not None:
        # Claimed or backing off when attempts > 0: the run under way may have read before this write.
        return held.due_at if held.attempts == 0 else now + DAY_PAUSE
    return now if held.computed_at is None else max(now, held.computed_at + DAY_PAUSE)
