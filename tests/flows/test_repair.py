"""What operators mend: dead letters sent again, and readers that lost everything and rebuild it."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from services.gateway.receipts import RECEIPT_PREFIX, Ids
from services.insights.store import COLLECTIONS
from shared import topics
from shared.events.gateway import BatchObject, BatchSubmitted
from shared.internal_tokens import InternalTokenSigner
from tests.flows.people import OF_A_BATCH, Person, signed_in, walk
from tests.flows.whole import Whole
from tests.polling import eventually

DATES = ("2026-03-01", "2026-03-02", "2026-03-03")
PATH = "/internal/days/republish"


async def operate(system: Whole, method: str, path: str, **sent: Any) -> dict[str, Any]:
    """What ingest answers an operator's command, past the gateway."""
    token = InternalTokenSigner(system.folder / "internal.jwk").operator_token("ingest")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "repair"}
    transport = httpx2.ASGITransport(system.apps["ingest"])
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as http:
        answer = await http.request(method, path, headers=headers, **sent)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


async def ledgers(person: Person) -> list[dict[str, Any]]:
    """The ledgers of `DATES`, as far as they are there."""
    answers = [await person.ask("GET", f"/v1/ledger/{date}") for date in DATES]
    return [answer.json() for answer in answers if answer.status_code == 200]


def balances(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # A rebuilt ledger counts its revisions anew.
    return [{name: value for name, value in one.items() if name not in ("revision", "updated_at")} for one in found]


async def days_of_a_walker(system: Whole) -> Person:
    person = await signed_in(system)
    for later in range(len(DATES)):
        await person.send_batch(walk(days_later=later), key=f"day {later}")
    await eventually(lambda: _has(person, len(DATES)))
    return person


async def _has(person: Person, count: int) -> bool:
    return len(await ledgers(person)) == count


async def _messages(person: Person, count: int) -> bool:
    return len(await person.messages()) >= count


def wipe(system: Whole) -> None:
    """Lose everything that insights holds."""
    with sqlite3.connect(system.folder / "insights.sqlite", timeout=5) as database:
        for collection in COLLECTIONS:
            database.execute(f"DELETE FROM {collection.name}")  # noqa: S608 - our own names
    database.close()


async def test_a_reader_that_lost_everything_rebuilds_it_from_days_told_again(system: Whole) -> None:
    person = await days_of_a_walker(system)
    await eventually(lambda: _messages(person, len(DATES) * len(OF_A_BATCH)))
    before, messages = await ledgers(person), await person.messages()

    wipe(system)
    assert await ledgers(person) == []
    # The state topic is read from its beginning again, as a reader with a new group does.
    for record in system.of(topics.USERS.name):
        await system.publish(record.topic, record.value, record.key, record.headers)
    job = await operate(system, "POST", PATH, json={"user_id": person.user_id, "by": "root"})

    await eventually(lambda: _has(person, len(DATES)))
    assert balances(await ledgers(person)) == balances(before)
    done = await eventually(lambda: _ended(system, job["id"]))
    assert (done["seen"], done["sent"]) == (len(DATES), len(DATES))

    # Who knew the days told nobody again; what comes after a further batch would come after that.
    await person.send_batch(walk(1, days_later=9), key="later")
    await eventually(lambda: _messages(person, len(messages) + len(OF_A_BATCH)))
    assert (await person.messages())[: len(messages)] == messages
    assert len(await person.messages()) == len(messages) + len(OF_A_BATCH)


async def _ended(system: Whole, id: str) -> dict[str, Any]:
    found = await operate(system, "GET", f"{PATH}/{id}")
    return found if found["ended_at"] else {}


async def test_days_told_again_are_the_same_records(system: Whole) -> None:
    person = await days_of_a_walker(system)
    first = {record.value for record in system.of(topics.DAYS.name)}
    told = len(system.of(topics.DAYS.name))
    await operate(system, "POST", PATH, json={"user_id": person.user_id, "by": "root"})
    await eventually(lambda: len(system.of(topics.DAYS.name)) >= told + len(DATES))
    again = system.of(topics.DAYS.name)[told:]
    assert {record.value for record in again} <= first
    assert {record.key for record in again} == {person.user_id.encode()}


async def test_no_way_leads_through_the_gateway_to_operators_routes(system: Whole) -> None:
    person = await signed_in(system)
    operator = InternalTokenSigner(system.folder / "internal.jwk").operator_token("ingest")
    body = {"user_id": person.user_id, "by": "me"}
    for path in (PATH, f"/{PATH}", f"/v1/..{PATH}", f"/v1/days/..%2f..{PATH}", f"/v1/days/%2e%2e/%2e%2e{PATH}"):
        assert (await person.ask("POST", path, key="k", json=body)).status_code in (404, 405)
        assert (await person.ask("GET", f"{path}/job")).status_code in (400, 404, 405, 422)
    assert (await person.ask("GET", "/v1/days/2026-03-01", token=operator)).status_code == 401


async def test_a_batch_that_failed_is_stored_once_it_is_sent_again(system: Whole) -> None:
    person = await signed_in(system)
    await person.ended(await person.send_batch(walk()))
    (record,) = system.of(topics.BATCHES.name)
    damaged, path, right = referred(system, person, record.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"damaged")
    await system.publish(record.topic, msgspec.msgpack.encode(damaged), record.key)
    link = f"/v1/receipts/{damaged.receipt_id}"
    failed = await eventually(lambda: _in_state(person, link, "failed"))
    assert failed["reason"] == "object-corrupt"
    (letter,) = system.of(topics.BATCHES.dead_letters("ingest"))

    # What `./mymacro dlq replay` does once the cause is mended.
    path.write_bytes(right)
    await system.publish(letter.headers["origin-topic"], letter.value, letter.key, {"replayed-from": "here"})
    stored = await eventually(lambda: _in_state(person, link, "stored"))
    assert (stored["received"], stored["duplicates"], stored["reason"]) == (60, 60, None)
    assert len(system.of(topics.BATCHES.dead_letters("ingest"))) == 1
    told = [
        summary["state"]
        for message in await eventually(lambda: _told_of(person, damaged.receipt_id, 2))
        for summary in message["data"]["receipts"]
        if summary["receipt_id"] == damaged.receipt_id
    ]
    assert told == ["failed", "stored"]

    # And again: nothing changes.
    await system.publish(letter.headers["origin-topic"], letter.value, letter.key)
    assert await person.get(link) == stored


def referred(system: Whole, person: Person, value: bytes) -> tuple[BatchSubmitted, Path, bytes]:
    """The same samples as another batch that travels by reference: message, the object's file, what belongs there."""
    ids = Ids(bytes.fromhex((system.folder / "receipts.key").read_text().strip()))
    receipt_id = ids.make(RECEIPT_PREFIX, person.user_id, "POST /v1/batches", "another", b"")
    batch = msgspec.structs.replace(msgspec.msgpack.decode(value, type=BatchSubmitted), receipt_id=receipt_id)
    packed = msgspec.msgpack.encode(batch)
    digest = hashlib.sha256(packed).hexdigest()
    key = f"ingest/{person.user_id}/{digest}"
    message = msgspec.structs.replace(batch, series=(), object=BatchObject(key=key, sha256=digest))
    return message, system.folder / "objects" / key, packed


async def _in_state(person: Person, link: str, state: str) -> dict[str, Any]:
    found = await person.get(link)
    return found if found["state"] == state else {}


async def _told_of(person: Person, receipt_id: str, times: int) -> list[dict[str, Any]]:
    found = [one for one in await person.messages() if one["type"] == "receipts.completed"]
    of_it = [one for one in found if any(each["receipt_id"] == receipt_id for each in one["data"]["receipts"])]
    return of_it if len(of_it) >= times else []
