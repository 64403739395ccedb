"""Letting go of what is old: messages, deliveries and replays that have ended, a page at a time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TypeVar

from services.webhooks.records import DELIVERIES, LONGEST, MESSAGES, REPLAYS, Delivery, Message, Replay
from services.webhooks.store import Store
from shared.clock import Clock
from shared.documents import Collection, Documents
from shared.errors import Unavailable

EVERY_S = 3600.0
AGAIN_S = 60.0
PAGE = 200
# Sorts right behind the text it is put after.
BEHIND = "\0"
# What still waits then waited for an endpoint that is paused; all others take less than four days.
WAITS_AT_MOST = timedelta(days=5)
D = TypeVar("D", Delivery, Replay)
log = logging.getLogger(__name__)


class Pruner:
    """Deletes what is older than `keep`. Each user's newest message stays: its number must not be given again."""

    def __init__(self, documents: Documents, store: Store, clock: Clock, keep: timedelta) -> None:
        self._documents = documents
        self._store = store
        self._clock = clock
        self._keep = keep

    async def run(self) -> None:
        """Prune every hour until cancelled."""
        while True:
            pause = EVERY_S
            try:
                await self.prune()
            except Unavailable:
                log.warning("nothing was pruned: the database does not answer")
                pause = AGAIN_S
            await asyncio.sleep(pause)

    async def prune(self) -> int:
        """One round; returns how many documents went. Raises Unavailable("database")."""
        oldest = self._clock() - self._keep
        # Deliveries after messages: one that is gone would be made again from its message (`Store.fan_out`).
        return await self._messages(oldest) + await self._deliveries(oldest) + await self._replays(oldest)

    async def _messages(self, oldest: datetime) -> int:
        needed = min([oldest, *[since async for since in self._needed()]])
        # Whatever a replay wants was not old when it was asked for: nobody keeps everybody's messages by replays.
        below = max(needed, oldest - LONGEST)
        gone, cursor = 0, None
        while True:
            page = await self._documents.find(MESSAGES, "stored", below=below, limit=PAGE, cursor=cursor)
            newest = {user: await self._store.last_sequence(user) for user in {one.user_id for one in page.documents}}
            old = [one for one in page.documents if one.sequence < newest[one.user_id]]
            gone += await self._delete(MESSAGES, old)
            if (cursor := page.cursor) is None:
                return gone

    async def _needed(self) -> AsyncIterator[datetime]:
        """From when on replays that have not ended still want messages."""
        for state in ("running", "paused"):
            page = await self._documents.find(REPLAYS, "open", (state,), limit=1)
            for replay in page.documents:
                yield replay.since

    async def _deliveries(self, oldest: datetime) -> int:
        gone = 0
        async for page in self._pages(DELIVERIES, oldest):
            left = oldest - WAITS_AT_MOST
            gone += await self._delete(
                DELIVERIES, [one for one in page if one.state != "pending" or one.created_at < left]
            )
        return gone

    async def _replays(self, oldest: datetime) -> int:
        gone = 0
        async for page in self._pages(REPLAYS, oldest):
            gone += await self._delete(REPLAYS, [one for one in page if not one.open])
        return gone

    async def _pages(self, collection: Collection[D], oldest: datetime) -> AsyncIterator[tuple[D, ...]]:
        """What was made before `oldest`, endpoint by endpoint, also of endpoints that are gone."""
        after = ""
        while first := (await self._documents.find(collection, "endpoint", at_least=after, limit=1)).documents:
            endpoint_id, cursor = first[0].endpoint_id, None
            while True:
                page = await self._documents.find(
                    collection, "endpoint", (endpoint_id,), below=oldest, limit=PAGE, cursor=cursor
                )
                yield page.documents
                if (cursor := page.cursor) is None:
                    break
            after = endpoint_id + BEHIND

    async def _delete(
        self, collection: Collection[Message] | Collection[Delivery] | Collection[Replay], old: list[D] | list[Message]
    ) -> int:
        for one in old:
            await self._documents.delete(collection, one.id)
        return len(old)
