"""How a service forgets a user: a tombstone first, then everything that it declared to be about users.

The tombstone is a job, so that whatever kills the process, the rest is erased at the next start. It makes several
passes: one at once; one after `SETTLE`, for what another process of the service had in hand, after which auth is told;
a last one after `AFTERWARDS`; and one whenever work of the user comes late. A pass that finds nothing costs one look at
each index. After 30 days, longer than any topic keeps anything of the user, the tombstone goes too.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from shared.cancelling import together
from shared.clock import Clock, truncated
from shared.documents import Collection, Conflict, Document, Documents, Duplicate, Index
from shared.erased import Declared, ErasedUsers, Personal
from shared.errors import Unavailable
from shared.events.auth import UserErased
from shared.events.event import Event
from shared.events.personal import UserDataErased
from shared.ids import derived_id
from shared.jobs import DUE_INDEX, Job, Workers
from shared.objects import Objects
from shared.outbox import OUTBOX_INDEX, OutboxEvent, Relay, outbox_event, with_events
from shared.redaction import whereabouts
from shared.telemetry import bind, current_traceparent
from shared.topics import ERASURES

KEPT = timedelta(days=30)
SETTLE = timedelta(seconds=3)
AFTERWARDS = timedelta(minutes=10)
# How soon all processes of a service know of a tombstone.
LOOK_EVERY_S = 1.0
# Tombstones are looked up again for so long after they were written: more than clocks of machines lie apart.
SKEW = timedelta(minutes=5)
PAGE = 200
Handle = Callable[[Any], Awaitable[None]]
log = logging.getLogger(__name__)


class Tombstone(Job, frozen=True, kw_only=True):
    """A user (its id) who was erased, until `expires_at`. `told`: auth knows how much was deleted."""

    noted_at: datetime
    expires_at: datetime
    told: bool = False
    documents: int = 0
    objects: int = 0
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None


TOMBSTONES = Collection(
    "tombstones",
    Tombstone,
    (DUE_INDEX, OUTBOX_INDEX, Index("noted", ("noted_at",)), Index("expiry", ("expires_at",))),
)


class Erasure:
    """Erases users in one service. `forget` drops what memory holds of a user.

    Subscribe `handler(...)` to `auth.users.v1`, call `load` before anything is written, and
    run `run`.
    """

    def __init__(
        self,
        service: str,
        documents: Documents,
        declared: Sequence[Declared],
        erased: ErasedUsers,
        relay: Relay,
        clock: Clock,
        *,
        objects: Objects | None = None,
        forget: Callable[[str], None] = lambda _: None,
        settle: timedelta = SETTLE,
    ) -> None:
        self._service = service
        self._documents = documents
        self._personal = [one for one in declared if isinstance(one, Personal)]
        self._erased = erased
        self._relay = relay
        self._clock = clock
        self._objects = objects
        self._forget = forget
        self._settle = settle
        self._looked_at: datetime | None = None
        self._learned: list[str] = []  # since the last look, which has them forgotten again
        self._workers = Workers(documents, TOMBSTONES, self.work, concurrency=2, clock=clock, on_stored=self._stored)

    async def begin(self, event: UserErased) -> None:
        """Take nothing of the user from now on, and have everything erased; a repeat has it looked for again."""
        bind(user_id=event.user_id)
        now = truncated(self._clock())
        self._learn(event.user_id, now + KEPT)
        tombstone = Tombstone(
            id=event.user_id,
            noted_at=now,
            expires_at=now + KEPT,
            due_at=now,
            traceparent=current_traceparent(),
        )
        try:
            await self._documents.insert(TOMBSTONES, tombstone)
        except Duplicate:
            await self._again(event.user_id)
        self._workers.nudge()

    def handler(self, other: Handle | None = None, *, first: Handle | None = None) -> Handle:
        """A handler of one of auth's topics: begins to erase, and gives `other` the rest, but nothing of erased users.

        `first` is given the news of an erasure while everything of the user is still there.
        """

        async def handle(event: Event) -> None:
            if isinstance(event, UserErased):
                if first is not None:
                    await first(event)
                await self.begin(event)
            elif other is not None and not self._erased.refuses(getattr(event, "user_id", "")):
                await other(event)

        return handle

    async def load(self) -> None:
        """Know all tombstones that were written so far, or since the last look. Raises `Unavailable("database")`."""
        since, now = self._looked_at, self._clock()
        cursor: str | None = None
        while True:
            page = await self._documents.find(
                TOMBSTONES, "noted", at_least=since - SKEW if since else None, limit=PAGE, cursor=cursor
            )
            for tombstone in page.documents:
                self._learn(tombstone.id, tombstone.expires_at)
            cursor = page.cursor
            if cursor is None:
                self._looked_at = now
                return

    def _learn(self, user_id: str, until: datetime) -> None:
        if user_id not in self._erased:
            self._forget(user_id)
            self._learned.append(user_id)
        self._erased.add(user_id, until)

    async def run(self) -> None:
        """Erase what there is to erase until cancelled."""
        await together(self._workers.run(), self._look())

    async def work(self, tombstone: Tombstone) -> Tombstone:
        """One pass, and what follows from it."""
        bind(user_id=tombstone.id)
        self._erased.add(tombstone.id, tombstone.expires_at)
        self._forget(tombstone.id)
        documents = sum([await self._erase(one, tombstone.id) for one in self._personal])
        objects = 0
        if self._objects is not None:
            objects = await self._objects.delete_all(f"{self._service}/{tombstone.id}")
        if documents or not tombstone.told:
            await self._documents.scrub()
        self._forget(tombstone.id)
        if tombstone.told and documents + objects:
            log.warning("%d documents and objects of an erased user came late and are gone", documents + objects)
        return self._passed(tombstone, documents, objects)

    def _passed(self, tombstone: Tombstone, documents: int, objects: int) -> Tombstone:
        now = truncated(self._clock())
        settled, last = tombstone.noted_at + self._settle, tombstone.noted_at + AFTERWARDS
        passed = replace(
            tombstone,
            documents=tombstone.documents + documents,
            objects=tombstone.objects + objects,
            told=now >= settled,
            attempts=0,
            last_error=None,
            due_at=settled if now < settled else last if now < last else None,
        )
        if tombstone.told or not passed.told:
            return passed
        event = UserDataErased(
            event_id=derived_id(self._service, tombstone.id, "user_data.erased"),
            occurred_at=now,
            user_id=tombstone.id,
            service=self._service,
            documents=passed.documents,
            objects=passed.objects,
            finished_at=now,
        )
        return with_events(passed, outbox_event(ERASURES[self._service], event, tombstone.traceparent))

    async def _erase(self, personal: Personal, user_id: str) -> int:
        """Delete the user's documents of a collection, page by page; returns how many."""
        collection = personal.collection
        if not personal.indexes:
            return int(await self._documents.delete(collection, user_id))
        gone = 0
        for index in personal.indexes:
            while True:
                page = await self._documents.find(collection, index, (user_id,), limit=PAGE)
                gone += sum(await asyncio.gather(*(self._deleted(collection, one) for one in page.documents)))
                if page.cursor is None:
                    break
        return gone

    async def _deleted(self, collection: Collection[Document], document: Document) -> int:
        return int(await self._documents.delete(collection, document.id))

    def _stored(self, tombstone: Tombstone) -> None:
        if tombstone.outbox:
            self._relay.nudge(TOMBSTONES, tombstone.id)

    async def _look(self) -> None:
        """Learn what other processes know, look again for what came late, and forget what is over; each second."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            # What work in hand read again since.
            learned, self._learned = self._learned, []
            for user_id in learned:
                self._forget(user_id)
            try:
                await self.load()
                for user_id in tuple(self._erased.late):
                    if await self._again(user_id):
                        self._erased.late.discard(user_id)
                now = self._clock()
                await self._documents.delete_where(TOMBSTONES, "expiry", (), below=now)
                self._erased.forget(now)
            except Unavailable:
                log.warning("tombstones are not looked at: the database does not answer")
            except Exception as error:
                log.error("looking at tombstones failed: %s", whereabouts(error))

    async def _again(self, user_id: str) -> bool:
        """Have the user's data looked for once more; False while a pass is under way, which may have looked already."""
        known = await self._documents.get(TOMBSTONES, user_id)
        if known is not None and known.attempts:
            return False
        if known is not None and (known.due_at is None or known.due_at > self._clock()):
            try:
                await self._documents.put(TOMBSTONES, replace(known, due_at=truncated(self._clock())))
            except Conflict:
                return False
            self._workers.nudge()
        return True
