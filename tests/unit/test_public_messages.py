from datetime import UTC, date, datetime
from decimal import Decimal
from typing import get_args

import pytest

from services.webhooks.mapping import REFUSED_SHOWN, public_message
from services.webhooks.public import TYPES, Body, EventType
from shared import topics
from shared.callers import SCOPES
from shared.events.auth import Profile, UserUpdated
from shared.events.event import Event
from shared.events.inference import LabelReading, NutrientReading, PhotoRead, PhotoRejected, ReadingMode
from shared.events.ingest import DayMetric, DayRecomputed, DayUpdated, ReceiptsCompleted, ReceiptSummary
from shared.events.insights import Fact, InsightCreated, LedgerLine, LedgerUpdated
from shared.events.nutrition import DiaryEntry, EntryCreated, EntryDeleted, EntryUpdated, Nutrients
from shared.ids import derived_id

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
COMMON = {"occurred_at": AT, "user_id": "u"}
DAY = {"date": date(2026, 3, 1), "zone": "UTC", "revision": 2}
METRIC = DayMetric(unit="{steps}", count=2, sum=11143.0)
ENTRY = DiaryEntry(
    entry_id="en",
    revision=1,
    date=date(2026, 3, 1),
    eaten_at=AT,
    food_id="f",
    food_name="Oats",
    grams=Decimal(40),
    nutrients=Nutrients(energy_kcal=Decimal("148.8")),
)
SUMMARY = ReceiptSummary(
    receipt_id="r", state="stored", received=100, stored=70, duplicates=0, refused=tuple((i, "bad") for i in range(30))
)
EVENTS: list[Event] = [
    ReceiptsCompleted(event_id="1", receipts=(SUMMARY,), **COMMON),
    DayUpdated(event_id="2", metrics={"steps": METRIC}, **DAY, **COMMON),
    DayRecomputed(event_id="3", metrics={"steps": METRIC}, previous={}, reason="late", **DAY, **COMMON),
    LedgerUpdated(
        event_id="4",
        date=date(2026, 3, 1),
        revision=1,
        lines=(LedgerLine(source="food", direction="in", energy_kcal=Decimal("148.8")),),
        intake_kcal=Decimal("148.8"),
        expenditure_kcal=Decimal(0),
        balance_kcal=Decimal("148.8"),
        **COMMON,
    ),
    EntryCreated(event_id="5", entry=ENTRY, **COMMON),
    EntryUpdated(event_id="6", entry=ENTRY, **COMMON),
    EntryDeleted(event_id="7", entry_id="en", date=date(2026, 3, 1), revision=2, **COMMON),
    PhotoRead(
        event_id="8",
        photo_id="p",
        reading=LabelReading(energy_kcal=NutrientReading(amount=Decimal(372), confidence=0.9)),
        mode=ReadingMode(model="label_ocr", weights_sha256="0" * 64, fallback=False),
        grams=Decimal(40),
        **COMMON,
    ),
    PhotoRejected(event_id="9", photo_id="p", reason="no-label", detail="Take it closer.", **COMMON),
    InsightCreated(
        event_id="10",
        insight_id="i",
        date=date(2026, 3, 1),
        title="t",
        text="x",
        facts=(Fact(id="f", value=Decimal("1.5"), unit="kcal", window="1 d", n=1),),
        mode="deterministic",
        **COMMON,
    ),
]


def test_a_days_parts_and_what_is_derived_are_public():
    sleep = DayMetric(unit="s", count=1, sum=9_000.0, parts={"deep": 3_600.0, "light": 5_400.0})
    energy = DayMetric(unit="kcal", count=0, sum=2_100.5, derived=True)
    event = DayUpdated(event_id="2", metrics={"sleep": sleep, "energy_total": energy}, **DAY, **COMMON)
    metrics = public_message(event).numbered(1, "")["metrics"]
    assert metrics["sleep"] == sleep.model_dump()
    assert (metrics["energy_total"]["derived"], metrics["energy_total"]["parts"]) == (True, {})


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_every_type_maps_to_its_model(event: Event):
    message = public_message(event)
    assert type(message.data) is TYPES[event.type].data
    assert message.message_id == derived_id(event.event_id, "message")
    data = message.numbered(7, "ab" * 16)
    assert (data["user_id"], data["sequence"], data["trace_id"]) == ("u", 7, "ab" * 16)
    assert data["link"].startswith("/v1/")
    body = Body(type=message.type, timestamp=message.time, data=data).model_dump_json()
    assert len(body) < 20_000
    assert Body.model_validate_json(body).data == data


# What webhooks reads of auth says what to do, and is no news for partners.
COMMANDS = (topics.GRANTS, topics.USERS, topics.PARTNERS, topics.EXPORTS)


def test_the_list_is_closed_and_covers_every_event_we_read():
    told = [topic for topic in topics.TOPICS if "webhooks" in topic.readers and topic not in COMMANDS]
    read = {model for topic in told for model in topic.events}
    assert {type(event) for event in EVENTS} == read
    assert {event.type for event in EVENTS} == set(TYPES) == set(get_args(EventType))
    assert all(kind.scope in SCOPES for kind in TYPES.values())


def test_an_event_without_public_meaning_has_no_message():
    user = UserUpdated(event_id="e", occurred_at=AT, user_id="u", revision=1, profile=Profile())
    with pytest.raises(KeyError):
        public_message(user)


def test_decimals_are_text_and_long_lists_are_cut():
    entry = public_message(EVENTS[4]).numbered(1, "")
    assert entry["entry"]["nutrients"]["energy_kcal"] == "148.8"
    receipt = public_message(EVENTS[0]).numbered(1, "")["receipts"][0]
    assert receipt["refused_count"] == 30
    assert len(receipt["refused"]) == REFUSED_SHOWN
