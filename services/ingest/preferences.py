"""What users set about their days, their zone and their order of devices, and the days that change with it.

A setting's job is written before the setting itself, so a crash in between leaves some days that are computed again
for nothing, never a day that missed the change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from msgspec.structs import replace

from services.ingest.days import HOURS_AFTER, HOURS_BEFORE, number_of
from services.ingest.marks import Touch, day_id, marked
from services.ingest.priorities import EVERY_METRIC, Ranking
from services.ingest.records import (
    DAYS,
    DIRTY_DAYS,
    PRIORITIES,
    RECOMPUTATIONS,
    USERS,
    ZONES,
    Day,
    DirtyDay,
    Priorities,
    Recomputation,
    User,
    Zones,
)
from services.ingest.zones import ZoneChange, ZoneHistory, changed
from shared.clock import Clock
from shared.documents import Conflict, Documents, Put
from shared.errors import Unavailable

TRIES = 10
PAGE = 100
UNKNOWN_HOME = "UTC"
# Marked for a changed setting, a user's days come due one after another, newest first, and let others' days pass.
ONE_AFTER_ANOTHER = timedelta(milliseconds=20)
# A job waits so long for its setting, which is written right after it.
SETTING_WRITTEN = timedelta(seconds=1)


@dataclass(frozen=True)
class UserSettings:
    """What decides about a user's days beside samples."""

    history: ZoneHistory
    order: Mapping[str, tuple[str, ...]]

    @property
    def ranking(self) -> Ranking:
        """The user's order of devices."""
        return Ranking(self.order)


class Preferences:
    """Users' settings by what they are for. Raises `Unavailable("database")` from everything."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self.clock = clock

    async def of(self, user_id: str) -> UserSettings:
        """The user's zones and order of devices; the defaults while nothing is known."""
        user = await self._documents.get(USERS, user_id)
        zones = await self._documents.get(ZONES, user_id)
        priorities = await self._documents.get(PRIORITIES, user_id)
        home = user.home_zone if user is not None else UNKNOWN_HOME
        changes = zones.history.changes if zones is not None else ()
        return UserSettings(ZoneHistory(home, changes), priorities.order if priorities is not None else {})

    async def put_home(self, user_id: str, revision: int, home_zone: str) -> None:
        """Keep a user's newest revision, not an older one; days whose samples came without an offset follow."""
        for _ in range(TRIES):
            known = await self._documents.get(USERS, user_id)
            if known is not None and known.revision >= revision:
                return
            version = known.version if known is not None else 0
            user = Put(USERS, User(id=user_id, version=version, revision=revision, home_zone=home_zone))
            if home_zone == (known.home_zone if known is not None else UNKNOWN_HOME) or not await self._has_days(
                user_id
            ):
                job = None
            else:
                job = self._job(user_id, EVERY_METRIC, "zone-changed", None, floating=True)
            if await self._stored(job, user):
                return
        raise Unavailable("database")

    async def put_zone(self, user_id: str, zone: str, since: datetime) -> None:
        """The user is in `zone` from then on; days whose samples came without an offset are computed again."""
        change = ZoneChange(round(since.timestamp() * 1_000_000), zone)
        # Local days begin up to 14 h before those of UTC.
        first_day = since.astimezone(UTC).date() - timedelta(days=1)
        for _ in range(TRIES):
            held = await self._documents.get(ZONES, user_id)
            history = changed((await self.of(user_id)).history, [change])
            version = held.version if held is not None else 0
            job = self._job(user_id, EVERY_METRIC, "zone-changed", first_day, floating=True)
            if await self._stored(job, Put(ZONES, Zones(id=user_id, version=version, history=history))):
                return
        raise Unavailable("database")

    async def put_order(self, user_id: str, metric: str, order: Sequence[str]) -> None:
        """The user's order of devices for `metric`, empty for the default; days that know it are computed again."""
        for _ in range(TRIES):
            held = await self._documents.get(PRIORITIES, user_id)
            known = held.order if held is not None else {}
            wanted = {name: items for name, items in known.items() if name != metric}
            if order:
                wanted[metric] = tuple(order)
            if wanted == known:
                return
            version = held.version if held is not None else 0
            job = self._job(user_id, metric, "priorities-changed", None, floating=False)
            if await self._stored(job, Put(PRIORITIES, Priorities(id=user_id, version=version, order=wanted))):
                return
        raise Unavailable("database")

    async def mark(self, job: Recomputation) -> None:
        """Mark the days that a changed setting may have changed; repeated, it marks them again."""
        cursor: str | None = None
        due = self.clock()
        while True:
            page = await self._documents.find(
                DAYS,
                "user_day",
                (job.user_id,),
                at_least=job.from_day,
                descending=True,
                limit=PAGE,
                cursor=cursor,
            )
            due = await self._marked(job, _touched(job, page.documents), due)
            if (cursor := page.cursor) is None:
                return

    async def touch(self, touches: Sequence[Touch]) -> None:
        """Mark days, one touch for each of them."""
        for _ in range(TRIES):
            held = await self._documents.get_many(DIRTY_DAYS, [day_id(one.user_id, one.day) for one in touches])
            marks = [marked(known, one, self.clock()) for known, one in zip(held, touches, strict=True)]
            try:
                await self._documents.put_many([Put(DIRTY_DAYS, one) for one in marks])
            except Conflict:
                continue
            return
        raise Unavailable("database")

    def _job(self, user_id: str, metric: str, reason: str, from_day: date | None, *, floating: bool) -> Recomputation:
        return Recomputation(
            id=f"{user_id}/{reason}/{metric}",
            user_id=user_id,
            metric=metric,
            reason=reason,
            from_day=from_day,
            floating=floating,
        )

    async def _has_days(self, user_id: str) -> bool:
        return bool((await self._documents.find(DAYS, "user_day", (user_id,), limit=1)).documents)

    async def _stored(self, job: Recomputation | None, setting: Put) -> bool:
        """Write the job, then the setting, then call the job; False when somebody else was faster."""
        first = [] if job is None else [await self._put(job, self.clock() + SETTING_WRITTEN)]
        try:
            await self._documents.put_many([*first, setting])
        except Conflict:
            return False
        if job is None:
            return True
        for _ in range(TRIES):
            try:
                await self._documents.put_many([await self._put(job, self.clock())])
            except Conflict:
                continue
            return True
        raise Unavailable("database")

    async def _put(self, job: Recomputation, due_at: datetime) -> Put:
        """The job over one that is there already, for the days of both."""
        held = await self._documents.get(RECOMPUTATIONS, job.id)
        since = job.from_day
        if held is not None and held.due_at is not None and since is not None:
            since = None if held.from_day is None else min(since, held.from_day)
        version = held.version if held is not None else 0
        return Put(RECOMPUTATIONS, replace(job, version=version, from_day=since, due_at=due_at))

    async def _marked(self, job: Recomputation, touched: Mapping[date, set[str]], due: datetime) -> datetime:
        """Write those days' marks; returns when the next one would be due."""
        days = sorted(touched, reverse=True)
        for _ in range(TRIES):
            held = await self._documents.get_many(DIRTY_DAYS, [day_id(job.user_id, day) for day in days])
            marks = [
                marked(known, _touch(job, day, known, touched[day]), due + place * ONE_AFTER_ANOTHER)
                for place, (day, known) in enumerate(zip(days, held, strict=True))
            ]
            try:
                await self._documents.put_many([Put(DIRTY_DAYS, one) for one in marks])
            except Conflict:
                continue
            return due + len(days) * ONE_AFTER_ANOTHER
        raise Unavailable("database")


def _touched(job: Recomputation, days: Sequence[Day]) -> dict[date, set[str]]:
    """The metrics to compute again, by day."""
    touched: dict[date, set[str]] = {}
    for one in days:
        metrics = set(one.floating if job.floating else one.metrics)
        if job.metric != EVERY_METRIC:
            metrics &= {job.metric}
        # What has no offset of its own may move: between American Samoa and Kiribati, 25 h apart, by two days.
        for away in range(-2, 3) if job.floating else (0,):
            if metrics:
                touched.setdefault(one.day + timedelta(days=away), set()).update(metrics)
    return touched


def _touch(job: Recomputation, day: date, known: DirtyDay | None, metrics: set[str]) -> Touch:
    begin = number_of(day) * 24
    if job.floating or known is None:
        from_hour, to_hour = max(0, begin - HOURS_BEFORE), begin + HOURS_AFTER
    else:
        from_hour, to_hour = known.from_hour, known.to_hour
    return Touch(job.user_id, day, from_hour, to_hour, metrics, job.reason, traceparent=job.traceparent)
