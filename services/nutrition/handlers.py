"""What nutrition does with readings of photos and with users."""

from collections.abc import Callable
from dataclasses import dataclass

from services.nutrition.diary import PlannedEntry, plan_entry
from services.nutrition.foods import NAMELESS, amounts_per_100g, food_id, note_of, provenance_of
from services.nutrition.store import Entry, Food, Store
from shared import kafka, topics
from shared.erasure import Erasure
from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.events.inference import PhotoRead
from shared.events.nutrition import EntryCreated
from shared.ids import derived_id
from shared.kafka import Broker
from shared.outbox import outbox_event, with_events
from shared.telemetry import bind, current_traceparent

SERVICE = "nutrition"


@dataclass(frozen=True)
class Handlers:
    """The handlers and what they need. `nudge` tells the relay which entry has an event to publish."""

    store: Store
    nudge: Callable[[str], None]

    async def handle_reading(self, event: Event) -> None:
        """A label was read: a food arises, and with grams a diary entry. A rejected photo changes nothing here."""
        if not isinstance(event, PhotoRead):
            return
        bind(user_id=event.user_id, photo_id=event.photo_id)
        plan = plan_entry(event, await self.store.home_zone(event.user_id))
        # The food first: after a crash in between the repeat makes the entry.
        await self.store.add_food(food_of(event))
        if plan is not None:
            await self.store.add_entry(entry_of(event, plan))
            self.nudge(plan.entry_id)

    async def handle_user(self, event: Event) -> None:
        """Remember where the user lives."""
        if isinstance(event, UserUpdated):
            bind(user_id=event.user_id)
            await self.store.keep_home(event.user_id, event.revision, event.profile.home_zone)


def food_of(event: PhotoRead) -> Food:
    """The food that a photo makes."""
    return Food(
        id=food_id(event),
        user_id=event.user_id,
        name=event.name or NAMELESS,
        gtin=event.gtin,
        per_100g=amounts_per_100g(event.reading),
        provenance=provenance_of(event),
        created_at=event.occurred_at,
        note=note_of(event),
    )


def entry_of(event: PhotoRead, plan: PlannedEntry) -> Entry:
    """The entry of a plan, its event inside."""
    entry = Entry(
        id=plan.entry_id,
        user_id=event.user_id,
        revision=1,
        date=plan.date,
        eaten_at=plan.eaten_at,
        food_id=food_id(event),
        food_name=plan.food_name,
        grams=plan.grams,
        amounts=plan.amounts,
    )
    created = EntryCreated(
        event_id=derived_id(entry.id, entry.revision, "entry.created"),
        occurred_at=event.occurred_at,
        user_id=event.user_id,
        entry=entry.view(),
    )
    return with_events(entry, outbox_event(topics.ENTRIES, created, current_traceparent()))


def subscribe(broker: Broker, handlers: Handlers, erasure: Erasure) -> None:
    """One subscriber per topic, each in a group of its own."""
    kafka.subscribe(broker, topics.READINGS, SERVICE, handlers.handle_reading)
    kafka.subscribe(broker, topics.USERS, SERVICE, erasure.handler(handlers.handle_user))
