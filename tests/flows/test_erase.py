"""A user is erased, and nothing of them is found any more: not in a database's bytes, objects, traces or logs."""

import sqlite3
import struct
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from services.webhooks.public import USER_ERASED
from shared import topics
from tests.flows.people import (
    DATE,
    MORNING,
    OF_A_BATCH,
    OF_A_PHOTO,
    PICTURE,
    Person,
    register_endpoint,
    signed_in,
    walk,
)
from tests.flows.whole import Whole
from tests.polling import eventually

pytestmark = pytest.mark.timeout(180)

# A value that is no float32, so that its eight bytes stand in the database as they are.
ODD = 71.0625123457
WATCH = "watch-of-ada-canary"
ANSWER = "the signature does not fit"
WITHIN_S = 60
# Tombstones of several kinds: opaque ids and times.
KEPT = {"tombstones", "erasures", "users", "session_cutoffs", "audit_lines"}


async def test_nothing_of_an_erased_user_is_found_within_a_minute(
    system: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    await register_endpoint(system)
    other = await signed_in(system, "babbage")
    await other.ended(await other.send_batch(walk()))
    person = await _known_everywhere(system)
    canaries = await _canaries(person)
    before = _found(system, canaries)
    assert set().union(*before.values()) >= set(canaries) - {"photo"}, before

    link = await _erase(person)
    await _erased(system, link)
    files, spans, after = len(_files(system.folder)), system.spans(), _found(system, canaries)
    told = [system.log.getvalue(), *(f"{span.name} {span.attributes} {span.events}" for span in spans)]
    telling = [name for name, canary in canaries.items() for text in told if canary.decode("latin-1") in text]
    with capsys.disabled():
        sys.stdout.write(
            f"\nerasure: {len(canaries)} canaries ({', '.join(canaries)}), in {len(before)} files before; looked for "
            f"in {files} files of databases and objects, {len(spans)} spans and the log: "
            f"{sum(map(len, after.values())) + len(telling)} found\n"
        )
    assert after == {}
    assert telling == []
    assert not list((system.folder / "objects").glob(f"*/{person.user_id}/*"))
    assert (await other.get(f"/v1/days/{DATE}"))["metrics"]


async def test_partners_hear_of_the_erasure_once_by_the_opaque_id_alone(system: Whole) -> None:
    await register_endpoint(system)
    person = await _known_everywhere(system)
    await _erased(system, await _erase(person))

    def told() -> list[dict[str, object]]:
        return [one.body for one in system.receiver.delivered.values() if one.body["type"] == USER_ERASED]

    (body,) = await eventually(told)
    assert body["data"] == {"user_id": person.user_id}
    assert _owned(system, person.user_id) == {}


async def test_erasing_ends_sessions_and_frees_the_address(system: Whole) -> None:
    person = await signed_in(system)
    await person.grant()
    link = await _erase(person)
    refused = await eventually(lambda: _status_is(person, 401))
    assert refused
    account = {"email": person.email, "password": person.password}
    await _erased(system, link)
    assert (await system.http.post("/v1/tokens", json=account)).status_code == 401
    again = await system.http.post("/v1/users", json=account, headers={"Idempotency-Key": "new"})
    assert again.status_code == 201, again.text
    assert again.json()["user_id"] != person.user_id


async def test_state_topics_end_with_null_records(system: Whole) -> None:
    person = await signed_in(system)
    await person.grant()
    await _erased(system, await _erase(person))
    users = [one.value for one in system.of(topics.USERS.name) if one.key.decode() == person.user_id]
    assert [msgspec.json.decode(value)["type"] for value in users[:-1]] == ["user.updated", "user.erased"]
    assert users[-1] == b""
    grants = [one.value for one in system.of(topics.GRANTS.name)]
    assert msgspec.json.decode(grants[-2])["revoked_at"]
    assert grants[-1] == b""


async def test_work_that_comes_late_is_dropped_and_is_no_dead_letter(system: Whole) -> None:
    person = await _known_everywhere(system)
    sent = [
        (topic.name, record)
        for topic in (topics.BATCHES, topics.PHOTOS, topics.DAYS, topics.ENTRIES, topics.READINGS)
        for record in system.of(topic.name)
    ]
    assert len({name for name, _ in sent}) == 5
    canaries = await _canaries(person)
    await _erased(system, await _erase(person))
    for name, record in sent:
        await system.publish(name, record.value, record.key)
    assert _found(system, canaries) == {}
    assert _owned(system, person.user_id) == {}
    assert _dead_letters(system, person) == []


async def test_work_in_flight_leaves_nothing_behind(system: Whole) -> None:
    person = await signed_in(system)
    await person.grant()
    for number in range(12):
        await person.send_batch(walk(days_later=number), key=f"batch {number}")
    link = await _erase(person)
    for number in range(12, 20):
        body = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": walk(2)}
        await person.ask("POST", "/v1/batches", key=f"batch {number}", json=body)
    await _erased(system, link)
    assert _owned(system, person.user_id) == {}
    assert _dead_letters(system, person) == []


async def _known_everywhere(system: Whole) -> Person:
    """A person of whom every service holds something."""
    person = await signed_in(system)
    await person.grant()
    secret, system.receiver.secret = system.receiver.secret, "whsec_" + "A" * 32
    samples = walk() + [
        {"metric": "heart_rate", "start": MORNING.replace(minute=40 + at).isoformat(), "value": ODD + at}
        for at in range(4)
    ]
    body = {"device": {"id": WATCH, "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": samples}
    assert (await person.ask("POST", "/v1/batches", key="odd", json=body)).status_code == 202
    await person.told(*OF_A_BATCH)
    if secret:
        await eventually(lambda: system.receiver.refused)
    system.receiver.secret = secret
    await person.send_photo()
    await person.told(*OF_A_BATCH, *OF_A_PHOTO)
    if secret:
        await eventually(lambda: len(system.receiver.delivered) >= 3)
    return person


async def _canaries(person: Person) -> Mapping[str, bytes]:
    """What would be found, each by its name, if something was left."""
    food = (await person.get(f"/v1/diary/{DATE}"))["entries"][0]["food_id"]
    return {
        "address": person.email.encode(),
        "device": WATCH.encode(),
        "sample": struct.pack("<d", ODD),
        "answer": ANSWER.encode(),
        "food": food.encode(),
        "photo": PICTURE[200:264],
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in (*folder.rglob("*.sqlite*"), *(folder / "objects").rglob("*")) if path.is_file()]


def _found(system: Whole, canaries: Mapping[str, bytes]) -> dict[str, set[str]]:
    """The canaries by the file that holds them: raw bytes, logs of databases included."""
    found: dict[str, set[str]] = {}
    for path in _files(system.folder):
        data = path.read_bytes()
        if held := {name for name, canary in canaries.items() if canary in data}:
            found[path.name] = held
    return found


def _owned(system: Whole, user_id: str) -> dict[str, int]:
    """How many documents name the user, by service and collection; but for what says that there was an erasure."""
    owned: dict[str, int] = {}
    for path in system.folder.rglob("*.sqlite"):
        with closing(sqlite3.connect(path)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in set(tables) - KEPT:
                rows = database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - our own tables
                if count := sum(user_id in str(row) for row in rows):
                    owned[f"{path.stem} {table}"] = count
    return owned


def _dead_letters(system: Whole, person: Person) -> list[str]:
    own = [record for record in system.records if record.key.decode() == person.user_id]
    return [record.topic for record in own if record.topic.endswith(".dlq")]


async def _erase(person: Person) -> str:
    answer = await person.ask("DELETE", "/v1/me")
    assert answer.status_code == 202, answer.text
    return answer.json()["link"]


async def _erased(system: Whole, link: str) -> None:
    async def done() -> bool:
        answer = await system.http.get(link)
        assert answer.status_code == 200, answer.text
        return answer.json()["state"] == "erased"

    await eventually(done, seconds=WITHIN_S, every=0.1)


async def _status_is(person: Person, status: int) -> bool:
    return (await person.ask("GET", "/v1/me")).status_code == status
