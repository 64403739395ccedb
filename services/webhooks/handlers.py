"""What webhooks does with every event that has a public meaning, and with grants."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.webhooks.mapping import public_message
from services.webhooks.public import PublicMessage
from services.webhooks.store import Message, Store
from shared import kafka, topics
from shared.errors import Unavailable
from shared.events import Event, GrantUpdated, MessagePublished, derived_id
from shared.kafka import Broker
from shared.telemetry import bind, current_traceparent

SERVICE = "webhooks"
# Many small writes of many users meet here; single messages elsewhere.
BATCHED = (topics.RECEIPTS, topics.DAYS)
SINGLE = (topics.READINGS, topics.ENTRIES, topics.LEDGERS, topics.INSIGHTS)

Publish = Callable[[MessagePublished, str | None], Awaitable[None]]


@dataclass(frozen=True)
class Handlers:
    """The handlers and what they need. `nudge` wakes the delivery workers."""

    store: Store
    publish: Publish
    nudge: Callable[[], None]

    async def handle(self, event: Event) -> None:
        """Give one event its public message, tell everybody."""
        await self._tell(public_message(event), current_traceparent())

    async def handle_grant(self, event: Event) -> None:
        """Keep the grant; what was stored between the grant and this news goes out now."""
        if not isinstance(event, GrantUpdated):
            return
        bind(user_id=event.user_id, partner_id=event.partner_id)
        if await self.store.apply_grant(event):
            self.nudge()

    async def write(self, decisions: list[tuple[PublicMessage, str | None]]) -> None:
        """As `handle` for many: each user's messages in their order, users side by side."""
        by_user: defaultdict[str, list[tuple[PublicMessage, str | None]]] = defaultdict(list)
        for public, traceparent in decisions:
            by_user[public.user_id].append((public, traceparent))
        work = (self._tell_all(messages) for messages in by_user.values())
        failures = [one for one in await asyncio.gather(*work, return_exceptions=True) if one is not None]
        if failures:
            # "Later" before anything else: a batch is halved only when the database and the broker answer.
            raise next((one for one in failures if isinstance(one, Unavailable)), failures[0])

    async def _tell_all(self, messages: list[tuple[PublicMessage, str | None]]) -> None:
        for public, traceparent in messages:
            await self._tell(public, traceparent)

    async def _tell(self, public: PublicMessage, traceparent: str | None) -> None:
        """Number, publish from what is stored (also on a repeat), fan out; each step may be repeated."""
        bind(user_id=public.user_id, message_id=public.message_id)
        message = await self.store.number(public, traceparent)
        telling = self.publish(published(message), message.traceparent)
        await asyncio.gather(self._fan_out(message), telling)

    async def _fan_out(self, message: Message) -> None:
        if await self.store.fan_out(message):
            self.nudge()


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


def subscribe(broker: Broker, handlers: Handlers) -> None:
    """One subscriber per topic, each in a group of its own."""
    kafka.subscribe(broker, topics.GRANTS, SERVICE, handlers.handle_grant)
    for topic in SINGLE:
        kafka.subscribe(broker, topic, SERVICE, handlers.handle)
    for topic in BATCHED:
        kafka.subscribe_batches(broker, topic, SERVICE, public_message, handlers.write)
