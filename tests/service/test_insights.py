"""The insights service with its real database."""

import logging
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.insights.app import create_app
from services.insights.handlers import SERVICE, Handlers, measured_day
from services.insights.settings import Settings
from services.insights.store import LEDGERS, Ledger, Store
from shared import topics
from shared.documents import Documents, open_documents
from shared.errors import Unavailable
from shared.events.auth import Profile, UserUpdated
from shared.events.ingest import DayMetric, DayRecomputed, DayUpdated
from shared.events.insights import InsightCreated, LedgerUpdated
from shared.events.nutrition import DiaryEntry, EntryCreated, EntryDeleted, EntryUpdated, Nutrients
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.running import Running, common_settings, running

USER = "user-1"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = date(2026, 3, 1)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD = topics.DAYS.dead_letters(SERVICE)
LISTEN = (topics.LEDGERS.name, topics.INSIGHTS.name, DEAD)


class Meddled:
    """The real documents; before a joint write, `meddle` may write something else."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.meddle: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put_many(self, puts: Any) -> Any:
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            await meddle(self._documents)
        return await self._documents.put_many(puts)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    settings = Settings(**common_settings(tmp_path))
    broker = make_broker(settings, SERVICE)
    documents = Meddled(open_documents(settings.database_url, SERVICE))
    app = create_app(settings, broker=broker, documents=documents)
    app.state.documents = documents
    async with running(app, broker, SERVICE, tmp_path, listen=LISTEN) as one:
        yield one


def ledgers(service: Running) -> list[LedgerUpdated]:
    return [LedgerUpdated.model_validate_json(one) for one in service.published[topics.LEDGERS.name]]


def insights(service: Running) -> list[InsightCreated]:
    return [InsightCreated.model_validate_json(one) for one in service.published[topics.INSIGHTS.name]]


def day(revision: int, on: date = DAY, **sums: float) -> DayUpdated:
    metrics = {
        name: DayMetric(unit="kcal" if name == "energy_active" else "{steps}", count=3, sum=value)
        for name, value in sums.items()
    }
    return DayUpdated(
        event_id=f"day-{on}-{revision}",
        occurred_at=NOW,
        user_id=USER,
        date=on,
        zone="UTC",
        revision=revision,
        metrics=metrics,
    )


def entry(revision: int, kcal: str | None, on: date = DAY, id: str = "e1") -> DiaryEntry:
    return DiaryEntry(
        entry_id=id,
        revision=revision,
        date=on,
        eaten_at=NOW,
        food_id="f1",
        food_name="Oats",
        grams=Decimal(40),
        nutrients=Nutrients(energy_kcal=None if kcal is None else Decimal(kcal)),
    )


def created(one: DiaryEntry) -> EntryCreated:
    return EntryCreated(event_id=f"{one.entry_id}-{one.revision}", occurred_at=NOW, user_id=USER, entry=one)


def updated(one: DiaryEntry) -> EntryUpdated:
    return EntryUpdated(event_id=f"{one.entry_id}-{one.revision}", occurred_at=NOW, user_id=USER, entry=one)


def deleted(revision: int, on: date = DAY, id: str = "e1") -> EntryDeleted:
    return EntryDeleted(
        event_id=f"{id}-{revision}", occurred_at=NOW, user_id=USER, entry_id=id, date=on, revision=revision
    )


def profile(revision: int = 1, height: int = 170) -> UserUpdated:
    return UserUpdated(
        event_id=f"user-{revision}",
        occurred_at=NOW,
        user_id=USER,
        revision=revision,
        profile=Profile(sex="female", birth_date=date(1990, 3, 2), height_cm=Decimal(height)),
    )


async def shown(service: Running, on: str = "2026-03-01") -> Any:
    answer = await service.get(f"/v1/ledger/{on}", user_id=USER)
    return answer.json() if answer.status_code == 200 else answer.status_code


async def test_a_day_becomes_a_ledger_and_an_insight(service: Running) -> None:
    await service.send(topics.USERS, profile())
    await service.send(topics.DAYS, day(1, steps=11_142.857, energy_active=300), traceparent=TRACEPARENT)
    (ledger,) = await eventually(lambda: ledgers(service))
    assert [(line.source, line.energy_kcal) for line in ledger.lines] == [
        ("resting", Decimal("1362.3")),
        ("energy_active", Decimal("300.0")),
    ]
    assert (ledger.expenditure_kcal, ledger.balance_kcal) == (Decimal("1662.3"), Decimal("-1662.3"))
    assert ledger.missing == ("weight", "intake")
    (insight,) = await eventually(lambda: insights(service))
    assert insight.text.startswith("You took 11,143 steps")
    assert {fact.id for fact in insight.facts} == {"steps", "energy_active", "expenditure"}
    answer = await shown(service)
    assert answer["expenditure_kcal"] == "1662.3"
    assert answer["lines"] == [line.model_dump(mode="json") for line in ledger.lines]


async def test_the_same_day_twice_and_an_older_one_tell_nothing_new(service: Running) -> None:
    await service.send(topics.DAYS, day(2, steps=1000))
    await service.send(topics.DAYS, day(2, steps=1000))
    await service.send(topics.DAYS, day(1, steps=5))
    await service.send(topics.DAYS, day(3, steps=1000))
    assert (await shown(service))["revision"] == 1
    await eventually(lambda: ledgers(service))
    assert len({one.event_id for one in ledgers(service)}) == 1
    recomputed = DayRecomputed(**day(4, steps=3000).model_dump(exclude={"type"}), previous={}, reason="late-data")
    await service.send(topics.DAYS, recomputed)
    assert (await shown(service))["revision"] == 2


async def test_a_turn_of_days_takes_the_newest_of_each_and_goes_on_from_its_trace(service: Running) -> None:
    documents = service.app.state.documents
    told: list[Ledger] = []
    handlers = Handlers(Store(documents), lambda ledger, _: told.append(ledger), lambda: NOW)
    other = date(2026, 3, 2)
    turn = [day(3, steps=3000), day(2, steps=2000), day(1, other, steps=10)]
    causes = [TRACEPARENT, None, TRACEPARENT.replace("0af7", "1bf8")]
    decisions = [(measured_day(one), cause) for one, cause in zip(turn, causes, strict=True)]
    await handlers.on_days(decisions)
    ledgers_told = {one.day: one for one in told}
    assert {on: (one.revision, one.measured and one.measured.revision) for on, one in ledgers_told.items()} == {
        DAY: (1, 3),
        other: (1, 1),
    }
    assert [event.traceparent for event in ledgers_told[DAY].outbox] == [TRACEPARENT]
    assert [event.traceparent for event in ledgers_told[other].outbox] == [causes[2]]
    told.clear()
    await handlers.on_days(decisions)
    assert {one.day: one.revision for one in told} == {DAY: 1, other: 1}


async def test_a_turn_of_days_waits_for_the_database_as_a_whole(service: Running) -> None:
    documents = service.app.state.documents

    async def away(_: object) -> None:
        raise Unavailable("database")

    documents.meddle = away
    handlers = Handlers(Store(documents), lambda *_: None, lambda: NOW)
    with pytest.raises(Unavailable):
        await handlers.on_days(
            [(measured_day(one), None) for one in (day(1, steps=1), day(1, date(2026, 3, 2), steps=2))]
        )


async def test_entries_come_change_move_and_go(service: Running) -> None:
    await service.send(topics.ENTRIES, created(entry(1, "148.84")))
    assert (await shown(service))["intake_kcal"] == "148.8"
    await service.send(topics.ENTRIES, updated(entry(2, "200")))
    await service.send(topics.ENTRIES, created(entry(1, "148.84")))
    assert (await shown(service))["intake_kcal"] == "200.0"
    await service.send(topics.ENTRIES, updated(entry(3, "200", date(2026, 3, 2))))
    assert (await shown(service))["intake_kcal"] == "0.0"
    assert (await shown(service, "2026-03-02"))["intake_kcal"] == "200.0"
    await service.send(topics.ENTRIES, updated(entry(2, "200")))
    assert (await shown(service))["intake_kcal"] == "0.0"
    await service.send(topics.ENTRIES, deleted(4, date(2026, 3, 2)))
    await service.send(topics.ENTRIES, updated(entry(3, "200", date(2026, 3, 2))))
    assert (await shown(service, "2026-03-02"))["lines"] == []


async def test_a_deletion_of_something_unknown_tells_nothing_and_is_remembered(service: Running) -> None:
    await service.send(topics.ENTRIES, deleted(2))
    assert await shown(service) == 404
    await service.send(topics.ENTRIES, created(entry(1, "100")))
    assert await shown(service) == 404
    assert ledgers(service) == []


async def test_an_entry_of_unknown_energy_is_missing_not_zero(service: Running) -> None:
    await service.send(topics.ENTRIES, created(entry(1, None)))
    answer = await shown(service)
    assert (answer["lines"], answer["missing"]) == ([], ["profile", "activity", "entry_energy"])


async def test_a_profile_changes_the_ledgers_there_are(service: Running) -> None:
    await service.send(topics.DAYS, day(1, steps=1000))
    await service.send(topics.DAYS, day(1, date(2026, 2, 27), energy_active=10))
    assert "profile" in (await shown(service))["missing"]
    await service.send(topics.USERS, profile(2))
    await service.send(topics.USERS, profile(1, height=200))
    for on in ("2026-03-01", "2026-02-27"):
        answer = await shown(service, on)
        assert answer["lines"][0]["energy_kcal"] == "1362.3"
        assert answer["revision"] == 2


async def test_insights_are_written_when_facts_changed_materially(service: Running) -> None:
    for revision, steps in ((1, 1000), (2, 1050), (3, 1500), (4, 1000)):
        await service.send(topics.DAYS, day(revision, steps=steps))
    answer = (await service.get("/v1/insights", user_id=USER)).json()
    assert [one["text"].split(" steps")[0] for one in answer["insights"]] == ["You took 1,500", "You took 1,000"]
    assert answer["next_cursor"] is None
    await eventually(lambda: len(insights(service)) == 2)


async def test_insights_come_page_by_page(service: Running) -> None:
    for number in range(1, 6):
        await service.send(topics.DAYS, day(1, date(2026, 3, number), steps=1000))
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        answer = (await service.get(f"/v1/insights?limit=2{query}", user_id=USER)).json()
        seen += [one["date"] for one in answer["insights"]]
        cursor = answer["next_cursor"]
    assert sorted(seen) == [f"2026-03-0{number}" for number in range(1, 6)]
    assert (await service.get("/v1/insights?cursor=nonsense", user_id=USER)).status_code == 400
    assert (await service.get("/v1/insights?limit=0", user_id=USER)).status_code == 422
    assert (await service.get("/v1/insights", user_id="user-2")).json()["insights"] == []


async def test_a_ledger_changed_meanwhile_keeps_both_inputs(service: Running) -> None:
    await service.send(topics.DAYS, day(1, steps=1000))

    async def other(documents: Documents) -> None:
        ledger = await documents.get(LEDGERS, f"{USER}/2026-03-01")
        assert ledger is not None
        await documents.put(LEDGERS, ledger)

    service.app.state.documents.meddle = other
    await service.send(topics.ENTRIES, created(entry(1, "100")))
    assert [line["source"] for line in (await shown(service))["lines"]] == ["steps", "entry:e1"]


async def test_a_profile_that_comes_while_a_days_first_ledger_is_written_counts(service: Running) -> None:
    async def other(_: Documents) -> None:
        await service.send(topics.USERS, profile(1))

    service.app.state.documents.meddle = other
    await service.send(topics.DAYS, day(1, steps=1000))
    assert "profile" not in (await shown(service))["missing"]


async def test_bad_messages_are_dead_letters_and_the_next_one_is_handled(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await service.send_bytes(topics.DAYS, b'{"type": "day.updated"}')
    await service.send(topics.DAYS, day(1, steps=1000))
    assert len(service.published[DEAD]) == 1
    assert (await shown(service))["revision"] == 1


async def test_ledgers_are_their_owners_alone_and_need_their_scope(service: Running) -> None:
    await service.send(topics.DAYS, day(1, steps=1000))
    assert (await service.get("/v1/ledger/2026-03-01", user_id="user-2")).status_code == 404
    assert (await service.get("/v1/ledger/2026-03-01", user_id=USER, scopes=("days:read",))).status_code == 403
    for text in ("yesterday", "86400", "2026-03-01T00:00:00", "2026-3-1", "2026-02-30"):
        assert (await service.get(f"/v1/ledger/{text}", user_id=USER)).status_code == 422, text
    assert (await service.http.get("/v1/insights")).status_code == 401
