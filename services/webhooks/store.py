"""The queries and writes of webhooks: who gets which message, and what became of it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain
from typing import TypeVar

import msgspec

from services.webhooks.deliveries import Deliveries
from services.webhooks.keys import EndpointKey
from services.webhooks.lines import Lines
from services.webhooks.numbering import Numbering, Told
from services.webhooks.public import OPERATIONAL, TYPES, USER_ERASED, Body, UserErasedData
from services.webhooks.records import (
    COLLECTIONS,
    DELIVERIES,
    ENDPOINTS,
    GRANTS,
    MESSAGES,
    PARTNERS,
    PERSONAL,
    Attempt,
    Delivery,
    Endpoint,
    Grant,
    Message,
    Partner,
    granted_by,
)
from shared.clock import Clock
from shared.documents import Collection, Conflict, Document, Documents
from shared.events.auth import GrantUpdated, PartnerUpdated, UserErased
from shared.ids import derived_id
from shared.telemetry import current_traceparent

__all__ = ["COLLECTIONS", "DELIVERIES", "ENDPOINTS", "PERSONAL", "Attempt", "Delivery", "Endpoint", "Message", "Store"]

SMALL_PAGE = 8
LARGE_PAGE = 200
PAGE = 100
# How far the clocks of machines that write one user's messages may lie apart.
CLOCK_SKEW = timedelta(minutes=5)
D = TypeVar("D", bound=Document)


class Store:
    """The queries and writes of this service; each raises Unavailable("database")."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._numbering = Numbering(documents, clock)
        self.queue = Deliveries(documents, clock)
        self._lines = Lines(documents, self.queue, clock)

    async def number(self, turn: Sequence[Told]) -> list[Message]:
        """Each message of the turn once, as it is stored with its place in its user's sequence."""
        return await self._numbering.number(turn)

    async def last_sequence(self, user_id: str) -> int:
        """The user's newest sequence; 0 before the first message."""
        return await self._numbering.last_sequence(user_id)

    async def messages_after(self, user_id: str, sequence: int, limit: int) -> tuple[Message, ...]:
        """The user's messages above `sequence`, in order."""
        page = await self._documents.find(MESSAGES, "sequence", (user_id,), at_least=sequence + 1, limit=limit)
        return page.documents

    async def fan_out(self, messages: Sequence[Message]) -> int:
        """Make a delivery for every endpoint that may and wants to get one of these; returns how many are new.

        The messages are stored already: see `apply_grant`.
        """
        if not (await self._documents.find(ENDPOINTS, "partner", limit=1)).documents:
            return 0
        by_user: defaultdict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_user[message.user_id].append(message)
        grants = await asyncio.gather(*(self._all(GRANTS, "pair", (user_id,)) for user_id in by_user))
        live = [(grant, by_user[grant.user_id]) for found in grants for grant in found if grant.live]
        partners = sorted({grant.partner_id for grant, _ in live})
        endpoints = dict(zip(partners, await asyncio.gather(*map(self.endpoints, partners)), strict=True))
        work = (self._lines.tell(of_user, grant, endpoints[grant.partner_id]) for grant, of_user in live)
        return sum(await asyncio.gather(*work))

    async def apply_grant(self, event: GrantUpdated) -> int:
        """Take over the grant's state unless a newer one is known; returns how many deliveries that made.

        Messages that were stored since the grant was given but before its news arrived are fanned out now: the two
        come on different topics. A message is stored before its grants are looked up and a grant before its messages,
        so one of both always sees the other.
        """
        known = await self._documents.get(GRANTS, event.grant_id)
        if known is not None and (known.revision > event.revision or _settled(known, event)):
            return 0
        grant = await self._documents.put(GRANTS, granted_by(event, known))
        made = await self._catch_up(grant) if grant.live else 0
        await self._documents.put(GRANTS, msgspec.structs.replace(grant, caught_up=True))
        return made

    async def apply_partner(self, event: PartnerUpdated) -> None:
        """Take over whether the partner may work, unless a newer revision is known."""
        known = await self._documents.get(PARTNERS, event.partner_id)
        if known is not None and known.revision >= event.revision:
            return
        version = known.version if known else 0
        await self._documents.put(
            PARTNERS,
            Partner(id=event.partner_id, version=version, revision=event.revision, active=event.state == "active"),
        )

    async def suspended(self, partner_id: str, message_type: str) -> bool:
        """Does an operator keep messages of this type from the partner? Those of an erasure from none: they ask it to
        forget. One that nobody told of yet was active when it made its endpoint.
        """
        known = await self._documents.get(PARTNERS, partner_id)
        return known is not None and not known.active and message_type != USER_ERASED

    async def tell_erased(self, event: UserErased) -> int:
        """Make a delivery for every enabled endpoint of partners with a grant of the user; returns how many are new.

        The grants end with the user, and the news of both come on different topics: so those count too that ended since
        the erasure was asked for. A repeat makes nothing new.
        """
        grants = await self._all(GRANTS, "pair", (event.user_id,))
        partners = {grant.partner_id for grant in grants if grant.live or grant.since >= event.occurred_at}
        found = await asyncio.gather(*map(self.endpoints, sorted(partners)))
        data = UserErasedData(user_id=event.user_id).model_dump()
        body = Body(type=USER_ERASED, timestamp=event.occurred_at, data=data).model_dump_json().encode()
        told = [endpoint for endpoint in chain.from_iterable(found) if endpoint.state != "disabled"]
        return await self.tell_endpoints(told, USER_ERASED, derived_id(event.event_id, "message"), body)

    async def tell_endpoints(self, endpoints: Iterable[Endpoint], type: str, message_id: str, body: bytes) -> int:
        """Send them a message that is no user's; returns how many deliveries are new."""
        now, cause = self._clock(), current_traceparent()
        return await self.queue.add(
            Delivery(
                id=derived_id(endpoint.id, message_id),
                endpoint_id=endpoint.id,
                partner_id=endpoint.partner_id,
                user_id="",
                message_id=message_id,
                message_type=type,
                created_at=now,
                body=body,
                due_at=now,
                traceparent=cause,
            )
            for endpoint in endpoints
        )

    async def _catch_up(self, grant: Grant) -> int:
        endpoints = await self.endpoints(grant.partner_id)
        made, after = 0, None
        if endpoints and (first := await self._first_since(grant.user_id, grant.since)) is not None:
            after = first - 1
        while after is not None:
            found = await self.messages_after(grant.user_id, after, PAGE)
            reached = [message for message in found if message.stored_at >= grant.since]
            made += await self._lines.tell(reached, grant, endpoints)
            after = found[-1].sequence if len(found) == PAGE else None
        return made

    async def _first_since(self, user_id: str, since: datetime) -> int | None:
        """The lowest sequence that was stored at `since` or later.

        Whoever takes a number looks at the clock after the number before it was stored, so times rise with sequences
        as far as the clocks of all writers agree; the walk down goes on through what their skew may have mixed.
        """
        first, cursor = None, None
        while True:
            page = await self._documents.find(
                MESSAGES, "sequence", (user_id,), descending=True, limit=PAGE, cursor=cursor
            )
            for message in page.documents:
                if message.stored_at >= since:
                    first = message.sequence
                elif message.stored_at < since - CLOCK_SKEW:
                    return first
            cursor = page.cursor
            if cursor is None:
                return first

    async def uncovered(self, deliveries: Sequence[Delivery], partner_id: str) -> set[str]:
        """The ids of those whose messages the user has not let the partner see from when they were stored until now.

        What is no user's needs nobody's grant.
        """
        personal = [one for one in deliveries if one.message_type not in OPERATIONAL]
        users = sorted({one.user_id for one in personal})
        found = await asyncio.gather(*(self._all(GRANTS, "pair", (user_id, partner_id)) for user_id in users))
        grants = dict(zip(users, found, strict=True))
        return {
            one.id
            for one in personal
            # One that an earlier version made was covered when it was made.
            if not _covered(grants[one.user_id], one.message_type, one.stored_at or one.created_at)
        }

    async def covered(self, message: Message, partner_id: str) -> bool:
        """Has the user let the partner see the message's type from when it was stored until now?"""
        grants = await self._all(GRANTS, "pair", (message.user_id, partner_id))
        return _covered(grants, message.type, message.stored_at)

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

    async def replace_keys(self, endpoint: Endpoint, keys: tuple[EndpointKey, ...]) -> None:
        """Keep the endpoint's keys as they are sealed now, unless somebody wrote the endpoint meanwhile."""
        with suppress(Conflict):
            await self._documents.put(ENDPOINTS, msgspec.structs.replace(endpoint, keys=keys))

    async def disable(self, endpoint_id: str, reason: str) -> Endpoint | None:
        """Send nothing to the endpoint any more; its partner is yet to be told. None where it is disabled already."""
        while (endpoint := await self.endpoint(endpoint_id)) is not None and endpoint.state != "disabled":
            disabled = msgspec.structs.replace(
                endpoint, state="disabled", state_reason=reason, untold_since=self._clock()
            )
            with suppress(Conflict):
                return await self._documents.put(ENDPOINTS, disabled)
        return None

    async def deliveries(self, endpoint_id: str) -> tuple[Delivery, ...]:
        """The endpoint's first 1,000 deliveries, oldest first."""
        page = await self._documents.find(DELIVERIES, "endpoint", (endpoint_id,), limit=1000)
        return page.documents


def _covered(grants: Iterable[Grant], message_type: str, at: datetime) -> bool:
    return any(grant.covers(TYPES[message_type].scope, at) for grant in grants)


def _settled(known: Grant, event: GrantUpdated) -> bool:
    return known.revision == event.revision and known.caught_up
