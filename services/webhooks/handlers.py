"""What webhooks does with every event that has a public meaning, and with grants."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.webhooks.mapping import public_message
from services.webhooks.public import PublicMessage
from services.webhooks.store import Message, Store
from shared import kafka, topics
from shared.erasure import Erasure
from shared.errors import Unavailable
from shared.events.auth import GrantUpdated, PartnerUpdated, UserErased
from shared.events.event import Event
from shared.events.webhooks import MessagePublished
from shared.ids import derived_id
from shared.kafka import Broker
from shared.telemetry import bind, current_traceparent

SERVICE = "webhooks"
# Many small writes of many users meet here; single messages elsewhere.
BATCHED = (topics.RECEIPTS, topics.DAYS, topics.LEDGERS)
SINGLE = (topics.READINGS, topics.ENTRIES, topics.INSIGHTS)

Publish = Callable[[MessagePublished, str | None], Awaitable[None]]


@dataclass(frozen=True)
class Handlers:
    """The handlers and what they need. `forget` takes an erased user out of what partners asked for."""

    store: Store
    publish: Publish
    forget: Callable[[str], Awaitable[None]]

    async def handle(self, event: Event) -> None:
        """Give one event its public message, tell everybody."""
        public = public_message(event)
        bind(user_id=public.user_id, message_id=public.message_id)
        await self.write([(public, current_traceparent())])

    async def handle_grant(self, event: Event) -> None:
        """Keep the grant; what was stored between the grant and this news goes out now."""
        if not isinstance(event, GrantUpdated):
            return
        bind(user_id=event.user_id, partner_id=event.partner_id)
        await self.store.apply_grant(event)

    async def handle_partner(self, event: PartnerUpdated) -> None:
        """Keep whether the partner may work."""
        bind(partner_id=event.partner_id)
        await self.store.apply_partner(event)

    async def handle_erased(self, event: UserErased) -> None:
        """Tell the user's partners, whose grants and endpoints can still be found."""
        await self.store.tell_erased(event)
        await self.forget(event.user_id)

    async def write(self, decisions: list[tuple[PublicMessage, str | None]]) -> None:
        """Number together, then publish from what is stored (also on a repeat) and fan out; each may be repeated.

        Each user's messages are published in their order, users side by side.
        """
        messages = await self.store.number(decisions)
        by_user: defaultdict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_user[message.user_id].append(message)
        work = [self.store.fan_out(messages), *(self._publish(of_user) for of_user in by_user.values())]
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        failures = [one for one in outcomes if isinstance(one, BaseException)]
        if failures:
            # "Later" before anything else: a batch is halved only when the database and the broker answer.
            raise next((one for one in failures if isinstance(one, Unavailable)), failures[0])

    async def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            bind(user_id=message.user_id, message_id=message.id)
            await self.publish(published(message), message.traceparent)


def published(message: Message) -> MessagePublished:
    """The message as live readers get it."""
    return MessagePublished(
        event_id=derived_id(message.id, "published"),
        occurred_at=message.stored_at,
        user_id=message.user_id,
        message_id=message.id,
        sequence=message.sequence,
        message_type=message.type,
        message_time=message.time,
        trace_id=message.trace_id,
        data=message.data,
    )


def subscribe(broker: Broker, handlers: Handlers, erasure: Erasure) -> None:
    """One subscriber per topic, each in a group of its own."""
    kafka.subscribe(broker, topics.USERS, SERVICE, erasure.handler(first=handlers.handle_erased))
    kafka.subscribe(broker, topics.GRANTS, SERVICE, erasure.handler(handlers.handle_grant))
    kafka.subscribe(broker, topics.PARTNERS, SERVICE, handlers.handle_partner)
    for topic in SINGLE:
        kafka.subscribe(broker, topic, SERVICE, handlers.handle)
    for topic in BATCHED:
        kafka.subscribe_batches(broker, topic, SERVICE, public_message, handlers.write)
