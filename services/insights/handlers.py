"""What insights does with what it hears: days, diary entries and profiles become ledgers and insights."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from msgspec.structs import replace

from services.insights.energy import Body
from services.insights.facts import facts_hash, facts_of, is_news, written
from services.insights.ledger import DayInput, EntryInput, balance
from services.insights.store import TRIES, EntryPlace, Insight, Ledger, Store, ledger_id
from shared import topics
from shared.clock import Clock
from shared.documents import Conflict
from shared.erasure import Erasure
from shared.errors import Unavailable
from shared.events.auth import UserUpdated
from shared.events.event import Event
from shared.events.ingest import DayMetric, DayRecomputed, DayUpdated
from shared.events.insights import Fact, InsightCreated, LedgerLine, LedgerUpdated
from shared.events.nutrition import EntryCreated, EntryDeleted, EntryUpdated
from shared.ids import derived_id
from shared.kafka import Broker, subscribe_batches
from shared.kafka import subscribe as subscribe_to
from shared.outbox import outbox_event, with_events

SERVICE = "insights"
Change = Callable[[Ledger], Ledger]


@dataclass(frozen=True)
class MeasuredDay:
    """What a ledger takes from an event of a user's day."""

    user_id: str
    day: date
    measured: DayInput


def subscribe(broker: Broker, handlers: "Handlers", erasure: Erasure) -> None:
    """Connect the handlers to what they listen to."""
    subscribe_batches(broker, topics.DAYS, SERVICE, measured_day, handlers.on_days)
    subscribe_to(broker, topics.ENTRIES, SERVICE, handlers.on_entry)
    subscribe_to(broker, topics.USERS, SERVICE, erasure.handler(handlers.on_user))


@dataclass(frozen=True)
class Handlers:
    """`told` gets each ledger that was stored, and the insight stored with it, if any: the relay looks at them."""

    store: Store
    told: Callable[[Ledger, Insight | None], None]
    clock: Clock

    async def on_days(self, days: Sequence[tuple[MeasuredDay, str | None]]) -> None:
        """Take each day's newest revision into its ledger; ledgers are written side by side."""
        newest: dict[str, tuple[MeasuredDay, str | None]] = {}
        for one, cause in days:
            id = ledger_id(one.user_id, one.day)
            if id not in newest or newest[id][0].measured.revision <= one.measured.revision:
                newest[id] = (one, cause)
        work = (
            self._change(one.user_id, one.day, _with_measured(one.measured), cause) for one, cause in newest.values()
        )
        failures = [one for one in await asyncio.gather(*work, return_exceptions=True) if one is not None]
        if failures:
            # "Later" before anything else: a batch is halved only when the database answers.
            raise next((one for one in failures if isinstance(one, Unavailable)), failures[0])

    async def on_entry(self, event: EntryCreated | EntryUpdated | EntryDeleted) -> None:
        """Take an entry's newest revision into the ledger of its day, and out of the one it was in before."""
        if isinstance(event, EntryDeleted):
            id, day, entry = event.entry_id, event.date, EntryInput(event.revision, gone=True)
        else:
            id, day = event.entry.entry_id, event.entry.date
            entry = EntryInput(event.entry.revision, event.entry.nutrients.energy_kcal)
        for _ in range(TRIES):
            place = await self.store.entry_place(id)
            if place is not None and place.revision > entry.revision:
                return
            if place is not None and place.day != day:
                await self._change(event.user_id, place.day, _with_entry(id, EntryInput(entry.revision, gone=True)))
            await self._change(event.user_id, day, _with_entry(id, entry))
            version = place.version if place is not None else 0
            try:
                await self.store.put_entry_place(
                    EntryPlace(id=id, version=version, user_id=event.user_id, day=day, revision=entry.revision)
                )
            except Conflict:
                continue
            return
        raise Unavailable("database")

    async def on_user(self, event: Event) -> None:
        """Keep the body, and compute the user's ledgers again; those that stay the same are not told."""
        if not isinstance(event, UserUpdated):
            return
        profile = event.profile
        body = Body(profile.sex, profile.birth_date, profile.height_cm)
        await self.store.put_user(event.user_id, event.revision, body)
        for day in await self.store.days_of(event.user_id):
            await self._change(event.user_id, day, lambda ledger: ledger)

    async def _change(self, user_id: str, day: date, change: Change, cause: str | None = None) -> None:
        """Change one input of a ledger, and tell what follows from it as part of `cause` (or of the current trace)."""
        for _ in range(TRIES):
            held = await self.store.ledger(user_id, day)
            body = await self.store.body(user_id)
            blank = Ledger(id=ledger_id(user_id, day), user_id=user_id, day=day, updated_at=self.clock())
            changed, insight = settled(change(held or blank), body, self.clock(), cause)
            if changed == held:
                self.told(changed, insight)
                return
            try:
                await self.store.put_ledger(changed, insight)
            except Conflict:
                continue
            self.told(changed, insight)
            # `on_user` may have put another before this ledger was there to be found.
            if await self.store.body(user_id) == body:
                return
        raise Unavailable("database")


def _with_measured(measured: DayInput) -> Change:
    def change(ledger: Ledger) -> Ledger:
        if ledger.measured is not None and ledger.measured.revision >= measured.revision:
            return ledger
        return replace(ledger, measured=measured)

    return change


def _with_entry(id: str, entry: EntryInput) -> Change:
    def change(ledger: Ledger) -> Ledger:
        known = ledger.entries.get(id)
        if known is not None and known.revision >= entry.revision:
            return ledger
        return replace(ledger, entries={**ledger.entries, id: entry})

    return change


def settled(ledger: Ledger, body: Body, now: datetime, cause: str | None = None) -> tuple[Ledger, Insight | None]:
    """The ledger with what follows from its inputs: a revision if it changed, an insight if there is news."""
    made = balance(ledger.day, body, ledger.measured, ledger.entries)
    # A deletion may be the first that is heard of a day; it alone is nothing to tell.
    known = ledger.revision > 0 or ledger.measured is not None or not all(one.gone for one in ledger.entries.values())
    if known and made != ledger.balance:
        ledger = replace(ledger, balance=made, revision=ledger.revision + 1, updated_at=now)
        ledger = with_events(ledger, outbox_event(topics.LEDGERS, _ledger_event(ledger), cause))
    insight = _insight(ledger, now, cause)
    if insight is not None:
        ledger = replace(ledger, spoken={fact.id: fact.value for fact in insight.facts})
    return ledger, insight


def measured_day(event: DayUpdated | DayRecomputed) -> MeasuredDay:
    """What a ledger takes from a day."""
    steps, active, heart = (event.metrics.get(name) for name in ("steps", "energy_active", "heart_rate"))
    measured = DayInput(
        revision=event.revision,
        steps=_decimal(steps, "sum"),
        energy_active=_decimal(active, "sum"),
        heart_rate_mean=_decimal(heart, "mean"),
        heart_rate_low=_decimal(heart, "min"),
        n={name: metric.count for name, metric in sorted(event.metrics.items())},
        active_derived=active is not None and active.derived,
    )
    return MeasuredDay(event.user_id, event.date, measured)


def _decimal(metric: DayMetric | None, name: str) -> Decimal | None:
    value: float | None = getattr(metric, name, None)
    return None if value is None else Decimal(str(value))


def _ledger_event(ledger: Ledger) -> LedgerUpdated:
    made = ledger.balance
    return LedgerUpdated(
        event_id=derived_id(ledger.id, ledger.revision, "ledger.updated"),
        occurred_at=ledger.updated_at,
        user_id=ledger.user_id,
        date=ledger.day,
        revision=ledger.revision,
        lines=tuple(
            LedgerLine(source=line.source, direction=line.direction, energy_kcal=line.energy_kcal, note=line.note)
            for line in made.lines
        ),
        intake_kcal=made.intake_kcal,
        expenditure_kcal=made.expenditure_kcal,
        balance_kcal=made.balance_kcal,
        missing=made.missing,
    )


def _insight(ledger: Ledger, now: datetime, cause: str | None) -> Insight | None:
    """What is to be said about the day now, if it is news; the same facts always make the same insight."""
    facts = facts_of(ledger.measured, ledger.balance)
    words = written(facts) if is_news(ledger.spoken, facts) else None
    if words is None:
        return None
    insight = Insight(
        id=derived_id(ledger.id, facts_hash(facts), "insight"),
        user_id=ledger.user_id,
        day=ledger.day,
        created_at=now,
        title=words.title,
        text=words.text,
        facts=facts,
        mode="deterministic",
    )
    event = InsightCreated(
        event_id=derived_id(insight.id, "insight.created"),
        occurred_at=now,
        user_id=insight.user_id,
        insight_id=insight.id,
        date=insight.day,
        title=insight.title,
        text=insight.text,
        facts=tuple(Fact(id=fact.id, value=fact.value, unit=fact.unit, window=fact.window, n=fact.n) for fact in facts),
        mode="deterministic",
    )
    return with_events(insight, outbox_event(topics.INSIGHTS, event, cause))
