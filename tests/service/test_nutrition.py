"""The nutrition service with its real database."""

import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.nutrition.app import create_app
from services.nutrition.foods import food_id
from services.nutrition.settings import Settings
from shared import topics
from shared.events.auth import Profile, UserUpdated
from shared.events.inference import PhotoRead, PhotoRejected
from shared.events.nutrition import EntryCreated
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.running import Running, common_settings, running

USER = "user-1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEAD = topics.READINGS.dead_letters("nutrition")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Running]:
    settings = Settings(**common_settings(tmp_path))
    broker = make_broker(settings, "nutrition")
    app = create_app(settings, broker=broker)
    async with running(app, broker, "nutrition", tmp_path, listen=(topics.ENTRIES.name, DEAD)) as one:
        yield one


def reading(photo_id: str = "p1", energy: str | None = "372", grams: str | None = "40", **changed: Any):
    amounts = {"energy_kcal": energy, "protein_g": "13.5", "salt_g": "0.02"}
    values: dict[str, Any] = {
        "event_id": f"read-{photo_id}",
        "occurred_at": datetime(2026, 3, 1, 8, tzinfo=UTC),
        "user_id": USER,
        "photo_id": photo_id,
        "reading": {
            name: {"amount": amount, "confidence": 0.9} for name, amount in amounts.items() if amount is not None
        },
        "mode": {"model": "label_ocr", "weights_sha256": "0" * 64, "fallback": False},
        "grams": grams,
    }
    return PhotoRead.model_validate(values | changed)


def user(revision: int, zone: str) -> UserUpdated:
    return UserUpdated(
        event_id=f"user-{revision}",
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        user_id=USER,
        revision=revision,
        profile=Profile(home_zone=zone),
    )


def entries(service: Running) -> list[EntryCreated]:
    return [EntryCreated.model_validate_json(value) for value in service.published[topics.ENTRIES.name]]


async def diary(service: Running, day: str, user_id: str = USER) -> Any:
    answer = await service.get(f"/v1/diary/{day}", user_id=user_id, scopes=("diary:read",))
    assert answer.status_code == 200
    return answer.json()


async def test_a_read_label_becomes_a_food_and_an_entry(service: Running):
    event = reading(name="Oats", gtin="4000000000000", warnings=("atwater",))
    await service.send(topics.READINGS, event, traceparent=TRACEPARENT)
    (created,) = await eventually(lambda: entries(service))
    assert created.entry.nutrients.energy_kcal == Decimal("148.8")
    assert created.entry.food_name == "Oats"
    food = await service.app.state.store.food(food_id(event))
    assert (food.per_100g.energy_kcal, food.gtin, food.note) == (Decimal(372), "4000000000000", None)
    assert (food.provenance.photo_id, food.provenance.warnings) == ("p1", ("atwater",))
    shown = await diary(service, "2026-03-01")
    assert shown["entries"] == [created.entry.model_dump(mode="json")]


async def test_the_same_reading_twice_makes_nothing_new(service: Running):
    await service.send(topics.READINGS, reading())
    await eventually(lambda: entries(service))
    await service.send(topics.READINGS, reading())
    await service.send(topics.READINGS, reading(event_id="another"))
    assert len((await diary(service, "2026-03-01"))["entries"]) == 1
    assert len({one.event_id for one in entries(service)}) == 1


async def test_bad_messages_are_dead_letters_and_the_next_one_is_handled(
    service: Running, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL)
    await service.send_bytes(topics.READINGS, b"{")
    await service.send_bytes(topics.READINGS, b'{"type": "photo.read"}')
    await service.send(topics.READINGS, reading("p0", grams="-5"))
    await service.send(topics.READINGS, reading())
    await eventually(lambda: entries(service))
    assert len(service.published[DEAD]) == 3
    assert len((await diary(service, "2026-03-01"))["entries"]) == 1


async def test_rejected_photos_and_unreadable_energy_make_no_entry(service: Running):
    rejected = PhotoRejected(
        event_id="r",
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        user_id=USER,
        photo_id="p",
        reason="no-label",
        detail="Take it closer.",
    )
    without = reading("p2", energy=None)
    await service.send(topics.READINGS, rejected)
    await service.send(topics.READINGS, without)
    await service.send(topics.READINGS, reading("p3", grams=None))
    food = await service.app.state.store.food(food_id(without))
    assert "energy" in food.note
    assert (await diary(service, "2026-03-01"))["entries"] == []
    assert entries(service) == []


async def test_the_day_is_the_one_at_home(service: Running):
    late = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    await service.send(topics.READINGS, reading("before", eaten_at=late))
    await service.send(topics.USERS, user(2, "Europe/Berlin"))
    await service.send(topics.USERS, user(1, "America/New_York"))
    await service.send(topics.READINGS, reading("after", eaten_at=late))
    await service.send(topics.READINGS, reading("told", eaten_at=late, local_date="2026-02-28"))
    days = [(await diary(service, day))["entries"] for day in ("2026-03-01", "2026-03-02", "2026-02-28")]
    assert [len(found) for found in days] == [1, 1, 1]


async def test_totals_are_the_sums_and_say_what_is_missing(service: Running):
    await service.send(topics.READINGS, reading("a", grams="33"))
    await service.send(topics.READINGS, reading("b", energy="89.9", grams="71.5"))
    shown = await diary(service, "2026-03-01")
    for name, amount in shown["totals"].items():
        parts = [one["nutrients"][name] for one in shown["entries"]]
        known = [Decimal(part) for part in parts if part is not None]
        assert (amount is None) == (known == [])
        assert amount is None or Decimal(amount) == sum(known)
    assert shown["incomplete"] == ["carbohydrate_g", "sugar_g", "fat_g"]


async def test_a_diary_is_its_owners_alone(service: Running):
    await service.send(topics.READINGS, reading())
    assert (await diary(service, "2026-03-01", user_id="another"))["entries"] == []
    assert (await service.get("/v1/diary/2026-03-01", user_id=USER, scopes=())).status_code == 403
    for text in ("yesterday", "86400", "2026-03-01T00:00:00", "2026-3-1", "2026-02-30"):
        assert (await service.get(f"/v1/diary/{text}", user_id=USER)).status_code == 422, text
