"""What is to be sent where: deliveries in lanes (one an endpoint) and lines (one a user at an ordered endpoint)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from services.webhooks.records import DELIVERIES, Delivery, State, first_id
from shared.clock import Clock
from shared.documents import Conflict, Documents, Page, Put
from shared.errors import Erased, Unavailable
from shared.telemetry import METRICS

# Longer than any try may take (15 s) and its result may wait for the database, so leases need no renewing.
LEASE = timedelta(seconds=60)
# When a message is due that goes before everything else that waits for its endpoint.
AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)
# Deliveries in one write.
AT_ONCE_STORED = 200
# Whoever meets a delivery that another turn has just made tries the rest again.
ATTEMPTS = 20
# Sorts right behind the text it is put after.
BEHIND = "\0"
logger = logging.getLogger(__name__)


class Deliveries:
    """Deliveries that wait, are claimed, and end. Each verb raises Unavailable("database").

    `listener` is told the endpoint of everything that became due.
    """

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self.listener: Callable[[str], None] = lambda _: None
        self._ended: list[tuple[Delivery, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, deliveries: Iterable[Delivery]) -> int:
        """Store those that are not known yet, in the order given; returns how many are new.

        One with a `line` waits for its turn: no line has a later one while an earlier one is still to come.
        """
        wanted = list(deliveries)
        new = 0
        for start in range(0, len(wanted), AT_ONCE_STORED):
            new += await self._insert(wanted[start : start + AT_ONCE_STORED])
        for endpoint_id, user_id in dict.fromkeys(
            (one.endpoint_id, one.user_id) for one in wanted if one.line is not None
        ):
            await self._call(endpoint_id, user_id)
        for endpoint_id in {one.endpoint_id for one in wanted if one.line is None}:
            self.listener(endpoint_id)
        return new

    async def _insert(self, wanted: Sequence[Delivery]) -> int:
        new = 0
        for _ in range(ATTEMPTS):
            try:
                await self._documents.put_many([Put(DELIVERIES, one) for one in wanted])
                return new + len(wanted)
            except Conflict as conflict:
                # SQLite has written none of them, MongoDB those before the one that is known.
                tried = [one.id for one in wanted].index(conflict.ids[0])
            known = await self._documents.get_many(DELIVERIES, [one.id for one in wanted])
            new += sum(one is not None for one in known[:tried])
            wanted = [one for one, old in zip(wanted, known, strict=True) if old is None]
        raise Unavailable("database")

    async def claim(self, endpoint_id: str, limit: int) -> list[Delivery]:
        """Up to `limit` due deliveries of the endpoint, nobody else's until their lease is over."""
        return await self._documents.claim(
            DELIVERIES, "lane", (endpoint_id,), now=self._clock(), lease=LEASE, limit=limit
        )

    async def first_due(self, endpoint_id: str) -> Delivery | None:
        """What a claim for the endpoint would get first."""
        below = self._clock() + timedelta(microseconds=1)
        page = await self._documents.find(DELIVERIES, "lane", (endpoint_id,), below=below, limit=1)
        return page.documents[0] if page.documents else None

    async def lanes(self) -> AsyncIterator[tuple[str, datetime]]:
        """Every endpoint for which something waits, and when the first of that is due; one small read each."""
        after = ""
        while True:
            page = await self._documents.find(DELIVERIES, "lane", at_least=after, limit=1)
            if not page.documents:
                return
            first = page.documents[0]
            if first.due_at is not None:
                yield first.endpoint_id, first.due_at
            after = first.endpoint_id + BEHIND

    async def get(self, delivery_id: str) -> Delivery | None:
        """The delivery of that id, whoever's."""
        return await self._documents.get(DELIVERIES, delivery_id)

    async def superseded(self, delivery: Delivery, since: datetime) -> bool:
        """Has its message arrived by another delivery, or may it yet by an earlier one that was made from `since` on?

        `delivery` is one that failed; of several that stand for one message the earliest is the one to send again.
        """
        own = first_id(delivery.endpoint_id, delivery.message_id)
        others = [] if delivery.id == own else [await self.get(own)]
        page = await self._documents.find(DELIVERIES, "copies", (own, "delivered"), limit=1)
        others += page.documents
        until = delivery.created_at + timedelta(milliseconds=1)
        for state in ("failed", "pending"):
            page = await self._documents.find(DELIVERIES, "copies", (own, state), at_least=since, below=until, limit=1)
            others += page.documents
        return any(one is not None and _stands_for(one, delivery, since) for one in others)

    async def waiting(self, endpoint_id: str) -> int:
        """How many wait for the endpoint, be it until a time or for their turn."""
        # Of a line, the first alone is in both.
        counts = [await self._documents.count(DELIVERIES, index, (endpoint_id,)) for index in ("lane", "line")]
        return max(counts)

    async def page(
        self, endpoint_id: str, *, state: State | None, user_id: str | None, limit: int, cursor: str | None
    ) -> Page[Delivery]:
        """Those made last for the endpoint, newest first. Raises ValueError for a cursor that is not one of ours."""
        if user_id is not None:
            index, equals = "user", (user_id, endpoint_id)
        elif state is not None:
            index, equals = "state", (endpoint_id, state)
        else:
            index, equals = "endpoint", (endpoint_id,)
        return await self._documents.find(DELIVERIES, index, equals, descending=True, limit=limit, cursor=cursor)

    async def keep(self, delivery: Delivery) -> bool:
        """Store the outcome of a claimed delivery, together with others; False when it is somebody else's by now."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ended.append((replace(delivery, attempts=0), future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def next_in_line(self, delivery: Delivery) -> None:
        """`delivery`, which stood in a line, has ended: the one behind it is due."""
        await self._call(delivery.endpoint_id, delivery.user_id)

    async def call_all(self) -> None:
        """Make the first of each line due where a process died before it could; two small reads a line."""
        endpoint_id = ""
        while (first := await self._first_in_line(endpoint_id)) is not None:
            endpoint_id = first.endpoint_id
            one: Delivery | None = first
            while one is not None:
                if one.due_at is None:
                    await self._call(one.endpoint_id, one.user_id)
                page = await self._documents.find(
                    DELIVERIES, "line", (endpoint_id,), at_least=one.user_id + BEHIND, limit=1
                )
                one = page.documents[0] if page.documents else None
            endpoint_id += BEHIND

    async def _first_in_line(self, endpoint_id: str) -> Delivery | None:
        page = await self._documents.find(DELIVERIES, "line", at_least=endpoint_id, limit=1)
        return page.documents[0] if page.documents else None

    async def _call(self, endpoint_id: str, user_id: str) -> None:
        """Whoever is first in the line is due now, unless it has a time already."""
        page = await self._documents.find(DELIVERIES, "line", (endpoint_id, user_id), limit=1)
        for first in page.documents:
            if first.due_at is None:
                with suppress(Conflict, Erased):
                    await self._documents.put(DELIVERIES, replace(first, due_at=self._clock()))
                self.listener(endpoint_id)

    async def again(
        self, delivery: Delivery, body: bytes, line: int | None, replay_id: str | None = None
    ) -> Delivery | None:
        """The delivery due now with the whole schedule before it; None when somebody wrote it meanwhile."""
        fresh = replace(
            delivery,
            state="pending",
            tries=0,
            attempts=0,
            body=body,
            line=line,
            replay_id=replay_id,
            last_error=None,
            due_at=None if line is not None else self._clock(),
        )
        try:
            stored = await self._documents.put(DELIVERIES, fresh)
        except Conflict:
            return None
        if line is not None:
            await self._call(stored.endpoint_id, stored.user_id)
        self.listener(stored.endpoint_id)
        return stored

    async def hasten(self, delivery: Delivery) -> Delivery:
        """Store the new due time of one that nobody has claimed, unless somebody wrote it meanwhile."""
        with suppress(Conflict):
            delivery = await self._documents.put(DELIVERIES, delivery)
        self.listener(delivery.endpoint_id)
        return delivery

    async def _write(self) -> None:
        """Store all outcomes that are there, as long as there are some."""
        while self._ended:
            turn, self._ended = self._ended, []
            try:
                await self._documents.put_many([Put(DELIVERIES, delivery) for delivery, _ in turn])
            except (Conflict, Erased):
                for delivery, future in turn:
                    await self._write_one(delivery, future)
            except Exception as error:
                for _, future in turn:
                    _settle(future, error)
            else:
                for _, future in turn:
                    _settle(future, True)

    async def _write_one(self, delivery: Delivery, future: asyncio.Future[bool]) -> None:
        try:
            await self._documents.put(DELIVERIES, delivery)
        except (Conflict, Erased):
            METRICS.jobs.labels(DELIVERIES.name, "stale").inc()
            _settle(future, False)
        except Exception as error:
            _settle(future, error)
        else:
            _settle(future, True)


def _stands_for(one: Delivery, other: Delivery, since: datetime) -> bool:
    earlier = since <= one.created_at and (one.created_at, one.id) < (other.created_at, other.id)
    return one.state == "delivered" or (one.state in ("failed", "pending") and earlier)


def _settle(future: asyncio.Future[bool], result: bool | Exception) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
