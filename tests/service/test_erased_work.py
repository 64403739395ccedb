"""Work of erased users is dropped, record by record, and partners hear of the erasure whichever news comes first."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord
from faststream.kafka import TestKafkaBroker

from services.webhooks.records import COLLECTIONS, DELIVERIES, ENDPOINTS, Endpoint
from services.webhooks.store import Store
from shared.documents import Documents, open_documents
from shared.errors import Erased
from shared.events.auth import GrantUpdated, UserErased
from shared.kafka import Broker, make_broker, publish_bytes, subscribe, subscribe_batches
from shared.objects import Objects
from shared.settings import ServiceSettings
from shared.topics import BATCHES, PHOTOS
from tests.service.kafka_letters import collect

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
EVENT = UserErased(event_id="e", occurred_at=AT, user_id="ada", revision=2)


@pytest.fixture
def broker() -> Broker:
    made = make_broker(ServiceSettings(), "ingest")
    made.refuses = lambda user_id: user_id == "ada"
    return made


def _record(key: bytes | None, value: bytes, offset: int) -> ConsumerRecord[Any, Any]:
    return ConsumerRecord(BATCHES.name, 0, offset, 0, 0, key, value, None, 1, len(value), ())


async def _deliver(broker: Broker, *records: ConsumerRecord[Any, Any]) -> None:
    subscriber = next(one for one in broker.subscribers if one.group_id == BATCHES.group("ingest"))
    await subscriber.process_message(records)


async def test_a_batch_goes_on_without_the_records_of_erased_users(broker: Broker) -> None:
    dead, written = collect(broker, BATCHES.dead_letters("ingest")), list[bytes]()

    async def write(decisions: list[tuple[bytes, str | None]]) -> None:
        written.extend(value for value, _ in decisions)

    subscribe_batches(broker, BATCHES, "ingest", lambda value: value, write)
    async with TestKafkaBroker(broker):
        await _deliver(broker, _record(b"eve", b"1", 0), _record(b"ada", b"\xff", 1), _record(None, b"3", 2))
    assert (written, dead) == ([b"1", b"3"], [])


async def test_who_is_erased_while_a_batch_is_written_drops_out_of_it(broker: Broker) -> None:
    dead, turns = collect(broker, BATCHES.dead_letters("ingest")), list[list[bytes]]()
    erased = set[str]()
    broker.refuses = erased.__contains__

    async def write(decisions: list[tuple[bytes, str | None]]) -> None:
        turns.append([value for value, _ in decisions])
        if not erased:
            erased.add("ada")
            raise Erased

    subscribe_batches(broker, BATCHES, "ingest", lambda value: value, write)
    async with TestKafkaBroker(broker):
        await _deliver(broker, _record(b"eve", b"1", 0), _record(b"ada", b"2", 1))
    assert (turns, dead) == ([[b"1", b"2"], [b"1"]], [])


@pytest.mark.parametrize(("key", "seen"), [("ada", 0), ("eve", 1)])
async def test_single_records_of_erased_users_are_not_even_read(broker: Broker, key: str, seen: int) -> None:
    dead = collect(broker, PHOTOS.dead_letters("ingest"))

    async def handle(_: object) -> None:
        raise AssertionError

    subscribe(broker, PHOTOS, "ingest", handle)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, PHOTOS.name, b"no event", key)
    assert len(dead) == seen


async def test_what_fails_while_its_user_is_erased_is_no_dead_letter(broker: Broker) -> None:
    dead = collect(broker, PHOTOS.dead_letters("ingest"))

    async def handle(_: object) -> None:
        raise AssertionError

    async def on_dead_letter(*_: object) -> None:
        raise Erased

    subscribe(broker, PHOTOS, "ingest", handle, on_dead_letter=on_dead_letter)
    async with TestKafkaBroker(broker):
        await publish_bytes(broker, PHOTOS.name, b"no event", "eve")
    assert dead == []


async def test_all_objects_of_a_user_go_and_nobody_elses(tmp_path: Path) -> None:
    objects = Objects(f"file:///{tmp_path}/objects")
    for key in ("ingest/ada/1", "ingest/ada/2", "ingest/adam/1", "inference/ada/1"):
        await objects.put(key, b"x")
    assert [await objects.delete_all("ingest/ada") for _ in range(2)] == [2, 0]
    assert await objects.get("ingest/adam/1") == await objects.get("inference/ada/1") == b"x"
    with pytest.raises(ValueError, match="key"):
        await objects.delete_all("")


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncGenerator[Documents]:
    opened = open_documents(f"sqlite:///{tmp_path}", "webhooks")
    await opened.open(COLLECTIONS)
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("revoked_at", "told"), [(None, 1), (AT + timedelta(seconds=1), 1), (AT - timedelta(seconds=1), 0)]
)
async def test_partners_are_told_though_the_grants_end_comes_first(
    documents: Documents, revoked_at: datetime | None, told: int
) -> None:
    store = Store(documents, lambda: AT)
    await documents.insert(
        ENDPOINTS,
        Endpoint(
            id="endpoint",
            partner_id="partner",
            url="https://partner.example/",
            event_types=("day.updated",),
            keys=(),
            request_hash="",
            created_at=AT,
        ),
    )
    await store.apply_grant(_grant(1, AT - timedelta(days=1), None))
    if revoked_at is not None:
        await store.apply_grant(_grant(2, revoked_at, revoked_at))
    assert [await store.tell_erased(EVENT) for _ in range(2)] == [told, 0]
    found = await documents.find(DELIVERIES, "endpoint", ("endpoint",))
    assert [msgspec.json.decode(one.body or b"")["data"] for one in found.documents] == [{"user_id": "ada"}] * told
    assert await documents.count(DELIVERIES, "user", ("ada",)) == 0
    assert await store.uncovered(found.documents, "partner") == set()


def _grant(revision: int, at: datetime, revoked_at: datetime | None) -> GrantUpdated:
    return GrantUpdated(
        event_id=f"g{revision}",
        occurred_at=at,
        grant_id="g",
        user_id="ada",
        partner_id="partner",
        revision=revision,
        scopes=("days:read",),
        revoked_at=revoked_at,
    )
