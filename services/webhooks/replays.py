"""Sending messages once more: jobs that make deliveries at a given pace, at most one per message and replay."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.webhooks.deliveries import Deliveries
from services.webhooks.public import OPERATIONAL
from services.webhooks.records import (
    DELIVERIES,
    LONGEST,
    MESSAGES,
    REPLAYS,
    Delivery,
    Endpoint,
    Message,
    Replay,
    delivery_of,
)
from services.webhooks.store import Store
from shared.clock import Clock
from shared.documents import Conflict, Documents, Duplicate, Page
from shared.errors import Problem, Unavailable

TICK = timedelta(seconds=1)
PAGE = 100
# Of other partners' messages a replay passes over so many at a time.
PAGES = 20
# A replay adds nothing while so much waits for its endpoint: what is new would have to wait behind it.
BACKLOG = 100
MAX_OPEN = 10
LISTED = 100
ATTEMPTS = 20


class Replays:
    """Replays as partners ask for them, and one turn of one. Each verb raises Unavailable("database")."""

    def __init__(self, documents: Documents, store: Store, clock: Clock) -> None:
        self._documents = documents
        self._store = store
        self._queue: Deliveries = store.queue
        self._clock = clock
        self._inserting = asyncio.Lock()

    async def create(self, wanted: Replay) -> Replay:
        """The replay as stored; one that is there under its id already, as it is.

        Raises:
            Problem: 404 the partner may not see the message, 409 too many are open, 422 another request was sent under
                the same Idempotency-Key.
        """
        known = await self._documents.get(REPLAYS, wanted.id)
        if known is None:
            if wanted.kind == "message" and await self._message(wanted) is None:
                raise Problem(
                    404,
                    "not-found",
                    "There is no message of this id that a user lets you see; GET /v1/events lists them.",
                )
            try:
                return await self._insert(wanted)
            except Duplicate:
                known = await self._documents.get(REPLAYS, wanted.id) or wanted
        if known.request_hash != wanted.request_hash:
            raise Problem(
                422, "idempotency-key-reused", "This Idempotency-Key came with another request; use a fresh one."
            )
        return known

    async def _insert(self, wanted: Replay) -> Replay:
        # One at a time, or all that come at once would find room; other processes let in one each at that moment.
        async with self._inserting:
            known = await self._documents.get(REPLAYS, wanted.id)
            if known is None and await self._open(wanted.endpoint_id) >= MAX_OPEN:
                raise Problem(
                    409, "too-many-replays", f"{MAX_OPEN} replays of this endpoint are under way; wait or cancel one."
                )
            return await self._documents.insert(REPLAYS, wanted)

    async def _open(self, endpoint_id: str) -> int:
        counts = [
            await self._documents.count(REPLAYS, "standing", (endpoint_id, state)) for state in ("running", "paused")
        ]
        return sum(counts)

    async def of(self, endpoint_id: str) -> tuple[Replay, ...]:
        """The endpoint's last 100 replays, newest first."""
        page = await self._documents.find(REPLAYS, "endpoint", (endpoint_id,), descending=True, limit=LISTED)
        return page.documents

    async def own(self, partner_id: str, replay_id: str) -> Replay:
        """The partner's replay of that id. Raises Problem: 404, it has none."""
        found = await self._documents.get(REPLAYS, replay_id)
        if found is None or found.partner_id != partner_id:
            raise Problem(404, "not-found", "You have no replay of this id; they are listed at their endpoint.")
        return found

    async def change(self, partner_id: str, replay_id: str, state: str) -> Replay:
        """The replay in that state: running, paused or cancelled, which leaves one that has ended as it is.

        Raises:
            Problem: 404 as in `own`, 409 it has ended.
        """
        for _ in range(ATTEMPTS):
            known = await self.own(partner_id, replay_id)
            if known.state == state or (not known.open and state == "cancelled"):
                return known
            if not known.open:
                raise Problem(409, "replay-ended", f"This replay is {known.state}; make another one.")
            # A paused one is looked at once more, when its time is over: messages are kept for it until then.
            due_at = {"running": self._clock(), "paused": known.ends_at}.get(state)
            try:
                return await self._documents.put(REPLAYS, replace(known, state=state, due_at=due_at, attempts=0))
            except Conflict:
                continue
        raise Unavailable("database")

    async def work(self, replay: Replay) -> Replay:
        """One turn: as many messages as go out in a second."""
        now = self._clock()
        endpoint = await self._store.endpoint(replay.endpoint_id)
        if endpoint is None or endpoint.state == "disabled":
            return _ended(replay, "failed", "the endpoint is disabled or gone")
        if now >= replay.ends_at:
            return _ended(replay, "failed", f"it did not come to its end within {LONGEST.days} days")
        if replay.kind == "message":
            message = await self._message(replay)
            if message is None:
                return _ended(replay, "failed", "the message is not kept any more, or the user lets you see it no more")
            made = await self._send(replay, endpoint, [message])
            return _ended(replace(replay, made=made, reached=replay.until), "done", None)
        if await self._queue.waiting(endpoint.id) >= max(BACKLOG, 2 * replay.rate_per_s):
            return replace(replay, due_at=now + TICK, attempts=0)
        return await self._advance(replay, endpoint, now)

    async def _message(self, replay: Replay) -> Message | None:
        """The one message it is to send; None where there is none that its partner may see."""
        message = await self._documents.get(MESSAGES, replay.message_id)
        if message is None or not await self._store.covered(message, replay.partner_id):
            return None
        return message

    async def _advance(self, replay: Replay, endpoint: Endpoint, now: datetime) -> Replay:
        made = 0
        for _ in range(PAGES):
            limit = min(PAGE, replay.rate_per_s - made)
            if replay.kind == "failed":
                failed = await self._failed(replay, limit)
                made += await self._retry(replay, endpoint, failed.documents)
                cursor, last = failed.cursor, [one.created_at for one in failed.documents]
            else:
                stored = await self._stored(replay, limit)
                made += await self._send(replay, endpoint, stored.documents)
                cursor, last = stored.cursor, [one.stored_at for one in stored.documents]
            reached = max([replay.reached or replay.since, *(at for at in last if at < replay.until)])
            replay = replace(replay, cursor=cursor, reached=reached)
            if cursor is None:
                return _ended(replace(replay, made=replay.made + made, reached=replay.until), "done", None)
            if made >= replay.rate_per_s:
                break
        return replace(replay, made=replay.made + made, due_at=now + TICK, attempts=0, last_error=None)

    async def _stored(self, replay: Replay, limit: int) -> Page[Message]:
        if replay.user_id:
            return await self._documents.find(
                MESSAGES, "sequence", (replay.user_id,), limit=limit, cursor=replay.cursor
            )
        return await self._documents.find(
            MESSAGES, "stored", at_least=replay.since, below=replay.until, limit=limit, cursor=replay.cursor
        )

    async def _failed(self, replay: Replay, limit: int) -> Page[Delivery]:
        return await self._documents.find(
            DELIVERIES,
            "state",
            (replay.endpoint_id, "failed"),
            at_least=replay.since,
            below=replay.until,
            limit=limit,
            cursor=replay.cursor,
        )

    async def _send(self, replay: Replay, endpoint: Endpoint, messages: Sequence[Message]) -> int:
        """How many of these go out again; a turn that is repeated counts those that it made before."""
        now = self._clock()
        wanted = [
            message
            for message in messages
            if (replay.kind == "message" or _ranges(replay, endpoint, message))
            and (not replay.types or message.type in replay.types)
            and await self._store.covered(message, endpoint.partner_id)
        ]
        await self._queue.add([delivery_of(message, endpoint, now, replay.id) for message in wanted])
        return len(wanted)

    async def _retry(self, replay: Replay, endpoint: Endpoint, failed: Sequence[Delivery]) -> int:
        made = 0
        for delivery in failed:
            if delivery.replay_id == replay.id or (replay.types and delivery.message_type not in replay.types):
                continue
            if replay.user_id and delivery.user_id != replay.user_id:
                continue
            if not await self._queue.superseded(delivery, replay.since):
                made += await retried(self._documents, self._store, delivery, endpoint, replay.id) is not None
        return made


async def retried(
    documents: Documents, store: Store, delivery: Delivery, endpoint: Endpoint, replay_id: str | None = None
) -> Delivery | None:
    """An ended delivery, due again; None where its message is not kept any more, may not be seen, or is no user's.

    That a user was erased is told again from the delivery itself, as long as nobody took it.
    """
    if delivery.message_type in OPERATIONAL:
        kept = delivery.body
        return None if kept is None else await store.queue.again(delivery, kept, None, replay_id)
    message = await documents.get(MESSAGES, delivery.message_id)
    if message is None or not await store.covered(message, delivery.partner_id):
        return None
    line = message.sequence if endpoint.ordered else None
    return await store.queue.again(delivery, message.body(endpoint.payload), line, replay_id)


def _ranges(replay: Replay, endpoint: Endpoint, message: Message) -> bool:
    """Was the message stored in the replay's time, and is it one that the endpoint asks for?"""
    return replay.since <= message.stored_at < replay.until and endpoint.wants(message.type, message.user_id)


def _ended(replay: Replay, state: str, reason: str | None) -> Replay:
    return replace(replay, state=state, due_at=None, cursor=None, attempts=0, last_error=reason)
