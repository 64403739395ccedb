"""What webhooks keeps: public messages in each user's order, grants, endpoints, deliveries."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from services.webhooks.public import TYPES, Body, PublicMessage
from shared.clock import Clock
from shared.documents import Collection, Conflict, Document, Documents, Duplicate, Index
from shared.errors import Unavailable
from shared.events import GrantUpdated, derived_id
from shared.jobs import DUE_INDEX, Job
from shared.telemetry import trace_id_of

# A user's 10 topics can at most all write at once, in a few processes: far fewer collisions than this.
MAX_COLLISIONS = 200
SMALL_PAGE = 8
LARGE_PAGE = 200
D = TypeVar("D", bound=Document)


class Message(Document, frozen=True, kw_only=True):
    """A public message with its place in the user's sequence; `data` as sent. Its id is the `webhook-id`."""

    user_id: str
    sequence: int
    type: str
    time: datetime
    stored_at: datetime
    trace_id: str
    traceparent: str | None
    data: dict[str, Any]

    def body(self) -> bytes:
        """The bytes that are signed and sent."""
        return Body(type=self.type, timestamp=self.time, data=self.data).model_dump_json().encode()


class Grant(Document, frozen=True, kw_only=True):
    """What `auth.grants.v1` last said. `caught_up`: messages that came before this news were fanned out."""

    user_id: str
    partner_id: str
    scopes: tuple[str, ...]
    revision: int
    since: datetime
    live: bool
    caught_up: bool = False


class Endpoint(Document, frozen=True, kw_only=True):
    """A partner's address. No `event_types` means all. `request_hash` recognises a repeated creation."""

    partner_id: str
    url: str
    event_types: tuple[str, ...]
    secret: bytes
    request_hash: str
    created_at: datetime
    state: Literal["enabled", "disabled"] = "enabled"
    state_reason: str | None = None

    def wants(self, message_type: str) -> bool:
        """Is this type among those asked for?"""
        return self.state == "enabled" and (not self.event_types or message_type in self.event_types)


class Attempt(msgspec.Struct, frozen=True):
    """One try: `ms` until its outcome, `error` in words unless it succeeded, `answer` its first 2 kB."""

    at: datetime
    status: int | None
    ms: int
    error: str | None
    answer: str


class Delivery(Job, frozen=True, kw_only=True):
    """One message to one endpoint. `body` is gone once nothing is left to do."""

    endpoint_id: str
    partner_id: str
    user_id: str
    message_id: str
    message_type: str
    created_at: datetime
    body: bytes | None
    state: Literal["pending", "delivered", "failed", "cancelled"] = "pending"
    tries: int = 0
    history: tuple[Attempt, ...] = ()


MESSAGES: Collection[Message] = Collection(
    "messages",
    Message,
    (Index("sequence", ("user_id", "sequence"), unique=True), Index("stored", ("user_id", "stored_at"))),
)
GRANTS: Collection[Grant] = Collection("grants", Grant, (Index("pair", ("user_id", "partner_id")),))
ENDPOINTS: Collection[Endpoint] = Collection("endpoints", Endpoint, (Index("partner", ("partner_id", "created_at")),))
DELIVERIES: Collection[Delivery] = Collection(
    "deliveries", Delivery, (DUE_INDEX, Index("endpoint", ("endpoint_id", "created_at")))
)
COLLECTIONS: tuple[Collection[Any], ...] = (MESSAGES, GRANTS, ENDPOINTS, DELIVERIES)


class Store:
    """The queries and writes of this service; each raises Unavailable("database")."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock

    async def number(self, public: PublicMessage, traceparent: str | None) -> Message:
        """The message with its place in the user's sequence: a new one at last + 1, a known one as it is stored."""
        for _ in range(MAX_COLLISIONS):
            known, last = await asyncio.gather(
                self._documents.get(MESSAGES, public.message_id), self.last_sequence(public.user_id)
            )
            if known is not None:
                return known
            sequence = last + 1
            trace_id = trace_id_of(traceparent) or ""
            message = Message(
                id=public.message_id,
                user_id=public.user_id,
                sequence=sequence,
                type=public.type,
                time=public.time,
                stored_at=self._clock(),
                trace_id=trace_id,
                traceparent=traceparent,
                data=public.numbered(sequence, trace_id),
            )
            try:
                return await self._documents.insert(MESSAGES, message)
            except Duplicate:
                continue
        # Later, not a dead letter: the message is good, its user's sequence is only crowded.
        raise Unavailable("database")

    async def last_sequence(self, user_id: str) -> int:
        """The user's newest sequence; 0 before the first message."""
        page = await self._documents.find(MESSAGES, "sequence", (user_id,), descending=True, limit=1)
        return page.documents[0].sequence if page.documents else 0

    async def messages_after(self, user_id: str, sequence: int, limit: int) -> tuple[Message, ...]:
        """The user's messages above `sequence`, in order."""
        page = await self._documents.find(MESSAGES, "sequence", (user_id,), at_least=sequence + 1, limit=limit)
        return page.documents

    async def fan_out(self, message: Message) -> int:
        """Make a delivery for every endpoint that may and wants to get the message; returns how many are new."""
        grants = await self._all(GRANTS, "pair", (message.user_id,))
        scope = TYPES[message.type].scope
        partners = {grant.partner_id for grant in grants if grant.live and scope in grant.scopes}
        endpoints = [endpoint for partner in sorted(partners) for endpoint in await self.endpoints(partner)]
        return await self._deliver(message, endpoints)

    async def _deliver(self, message: Message, endpoints: Iterable[Endpoint]) -> int:
        wanting = [endpoint for endpoint in endpoints if endpoint.wants(message.type)]
        body = message.body()
        made = await asyncio.gather(*(self._insert_delivery(message, endpoint, body) for endpoint in wanting))
        return sum(made)

    async def _insert_delivery(self, message: Message, endpoint: Endpoint, body: bytes) -> bool:
        now = self._clock()
        delivery = Delivery(
            id=derived_id(endpoint.id, message.id),
            endpoint_id=endpoint.id,
            partner_id=endpoint.partner_id,
            user_id=message.user_id,
            message_id=message.id,
            message_type=message.type,
            created_at=now,
            body=body,
            due_at=now,
            traceparent=message.traceparent,
        )
        try:
            await self._documents.insert(DELIVERIES, delivery)
        except Duplicate:
            return False
        return True

    async def apply_grant(self, event: GrantUpdated) -> int:
        """Take over the grant's state unless a newer one is known; returns how many deliveries that made.

        Messages that were stored since the grant was given but before its news arrived are fanned out now: the two
        come on different topics. A message is stored before its grants are looked up and a grant before its messages,
        so one of both always sees the other.
        """
        known = await self._documents.get(GRANTS, event.grant_id)
        if known is not None and (known.revision > event.revision or _settled(known, event)):
            return 0
        grant = Grant(
            id=event.grant_id,
            version=known.version if known else 0,
            user_id=event.user_id,
            partner_id=event.partner_id,
            scopes=event.scopes,
            revision=event.revision,
            since=event.occurred_at,
            live=event.revoked_at is None,
        )
        grant = await self._documents.put(GRANTS, grant)
        made = await self._catch_up(grant) if grant.live else 0
        await self._documents.put(GRANTS, msgspec.structs.replace(grant, caught_up=True))
        return made

    async def _catch_up(self, grant: Grant) -> int:
        endpoints = await self.endpoints(grant.partner_id)
        cursor, made = None, 0
        while endpoints:
            page = await self._documents.find(
                MESSAGES, "stored", (grant.user_id,), at_least=grant.since, limit=100, cursor=cursor
            )
            for message in page.documents:
                if TYPES[message.type].scope in grant.scopes:
                    made += await self._deliver(message, endpoints)
            cursor = page.cursor
            if cursor is None:
                break
        return made

    async def granted(self, user_id: str, partner_id: str, message_type: str) -> bool:
        """Does the user let the partner see messages of this type now?"""
        grants = await self._all(GRANTS, "pair", (user_id, partner_id))
        scope = TYPES[message_type].scope
        return any(grant.live and scope in grant.scopes for grant in grants)

    async def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint of that id, whoever owns it."""
        return await self._documents.get(ENDPOINTS, endpoint_id)

    async def endpoints(self, partner_id: str) -> tuple[Endpoint, ...]:
        """The partner's endpoints, oldest first; there are at most 100."""
        return await self._all(ENDPOINTS, "partner", (partner_id,))

    async def _all(self, collection: Collection[D], index: str, equals: tuple[str, ...]) -> tuple[D, ...]:
        """Every document with these values; nearly always there are few, which a small page reads at once."""
        page = await self._documents.find(collection, index, equals, limit=SMALL_PAGE)
        found = [*page.documents]
        while page.cursor is not None:
            page = await self._documents.find(collection, index, equals, limit=LARGE_PAGE, cursor=page.cursor)
            found.extend(page.documents)
        return tuple(found)

    async def add_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Store a new endpoint. Raises Duplicate when its id is known."""
        return await self._documents.insert(ENDPOINTS, endpoint)

    async def disable(self, endpoint_id: str, reason: str) -> None:
        """Send nothing to the endpoint any more."""
        while (endpoint := await self.endpoint(endpoint_id)) is not None and endpoint.state == "enabled":
            disabled = msgspec.structs.replace(endpoint, state="disabled", state_reason=reason)
            try:
                await self._documents.put(ENDPOINTS, disabled)
            except Conflict:
                continue

    async def deliveries(self, endpoint_id: str) -> tuple[Delivery, ...]:
        """The endpoint's first 1,000 deliveries, oldest first."""
        page = await self._documents.find(DELIVERIES, "endpoint", (endpoint_id,), limit=1000)
        return page.documents


def _settled(known: Grant, event: GrantUpdated) -> bool:
    return known.revision == event.revision and known.caught_up
