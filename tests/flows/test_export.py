"""A user asks for everything, and gets it: what went in, each once, in one archive that any tool opens."""

import io
import json
import zipfile
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from services.inference.triton import OcrResult
from shared import topics
from shared.errors import Unavailable
from tests.flows.people import DATE, MORNING, OF_A_BATCH, OF_A_PHOTO, PICTURE, Person, signed_in, walk
from tests.flows.whole import Whole
from tests.polling import eventually

pytestmark = pytest.mark.timeout(120)

SERVICES = {"auth", "ingest", "inference", "nutrition", "insights", "webhooks"}
SLEEP = {"type": "sleep", "id": "night", "start": "2026-02-28T23:00:00+01:00", "end": "2026-03-01T06:30:00+01:00"}
RUN = {
    "type": "workout",
    "sport": "running",
    "id": "run",
    "start": f"{DATE}T17:00:00+01:00",
    "end": f"{DATE}T17:30:00+01:00",
}


async def test_everything_that_went_in_comes_out_once(system: Whole) -> None:
    person = await _with_data(system)
    files = await _exported(person)
    sent = Counter(
        (one["metric"], _at(one["start"]), one["value"])
        for one in [*walk(), {"metric": "heart_rate", "start": _minute(41), "value": 77.25}]
    )
    found = Counter(
        (metric, _at(row["start"]), row["value"])
        for metric in ("heart_rate", "steps")
        for row in _rows(files, f"samples/{metric}.jsonl")
    )
    assert found == sent
    assert {row["device"] for row in _rows(files, "samples/steps.jsonl")} == {"watch-1"}

    assert {row["reason"] for row in _rows(files, "history.jsonl")} == {"correction", "deleted"}
    assert [(row["type"], row["sport"]) for row in _rows(files, "sessions.jsonl")] == [
        ("sleep", None),
        ("workout", "run"),
    ]
    assert _rows(files, "receipts.jsonl") == (await person.get("/v1/receipts"))["receipts"]
    assert _rows(files, "devices.jsonl") == (await person.get("/v1/devices"))["devices"]
    (day,) = [row for row in _rows(files, "days.jsonl") if row["date"] == DATE]
    assert day == await person.get(f"/v1/days/{DATE}")
    assert _rows(files, "diary.jsonl") == (await person.get(f"/v1/diary/{DATE}"))["entries"]
    assert [row["food_id"] for row in _rows(files, "foods.jsonl")] == [_rows(files, "diary.jsonl")[0]["food_id"]]
    assert await person.get(f"/v1/ledger/{DATE}") in _rows(files, "ledgers.jsonl")
    insights = (await person.get("/v1/insights"))["insights"]
    assert {row["insight_id"] for row in _rows(files, "insights.jsonl")} == {one["insight_id"] for one in insights}
    assert _rows(files, "messages.jsonl") == await person.messages()
    (photo,) = _rows(files, "photos.jsonl")
    assert photo == await person.get(f"/v1/photos/{photo['photo_id']}")


async def test_the_account_is_in_it_without_what_proves_who_one_is(system: Whole) -> None:
    person = await signed_in(system)
    await person.grant()
    moved = await person.ask("PUT", "/v1/me/zone", json={"zone": "Asia/Tokyo", "from": f"{DATE}T00:00:00Z"})
    assert moved.status_code == 200, moved.text
    order = await person.ask("PUT", "/v1/device-priorities/steps", json={"order": ["kind:phone"]})
    assert order.status_code == 200, order.text
    files = await _exported(person)
    (profile,) = _rows(files, "profile.jsonl")
    assert (profile["user_id"], profile["email"]) == (person.user_id, person.email)
    assert profile["profile"]["birth_date"] == "1991-04-12"
    (grant,) = _rows(files, "grants.jsonl")
    assert "samples:read" in grant["scopes"]
    (session,) = (await person.get("/v1/me/sessions"))["sessions"]
    assert [row["session_id"] for row in _rows(files, "sign_ins.jsonl")] == [session["session_id"]]
    kinds = {row["kind"] for row in _rows(files, "security_events.jsonl")}
    assert {"account-created", "signed-in", "grant-given", "export-asked"} <= kinds
    assert _rows(files, "zones.jsonl") == [
        {"from": None, "zone": "Europe/Berlin"},
        {"from": f"{DATE}T00:00:00Z", "zone": "Asia/Tokyo"},
    ]
    assert _rows(files, "device_priorities.jsonl") == [{"metric": "steps", "order": ["kind:phone"]}]
    text = files["README.txt"].decode()
    assert all(name in text for name in files if name != "README.txt")
    assert not [name for name, data in files.items() if b"$argon2" in data or b"hash" in data.replace(b"hashes", b"")]


async def test_a_photo_that_waits_is_in_it_as_sent(system: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: bytes) -> OcrResult:
        raise Unavailable("triton")

    monkeypatch.setattr(system.ocr, "read", away)
    person = await signed_in(system)
    photo_id = (await person.send_photo()).json()["photo_id"]
    files = await _exported(person)
    assert files[f"photos/{photo_id}.png"] == PICTURE
    assert [(row["photo_id"], row["state"]) for row in _rows(files, "photos.jsonl")] == [(photo_id, "queued")]


async def test_asking_twice_makes_one_and_the_progress_is_told(system: Whole) -> None:
    person = await signed_in(system)
    none = await person.ask("GET", "/v1/me/export")
    assert (none.status_code, "POST /v1/me/exports" in none.json()["detail"]) == (404, True)
    first, second = [(await person.ask("POST", "/v1/me/exports")) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    done = await _ready(person)
    assert {one["service"] for one in done["services"]} == SERVICES
    assert {one["state"] for one in done["services"]} == {"ready"}
    if second.json()["export_id"] == first.json()["export_id"]:
        assert len(system.of(topics.EXPORTS.name)) == 1
    assert await person.get(done["link"]) == done
    answer = await person.ask("GET", done["file"])
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="mymacrotracker-export-')
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_export_is_nobody_elses(system: Whole) -> None:
    person, other = await signed_in(system), await signed_in(system, "babbage")
    await _exported(person)
    done = await _ready(person)
    for path in (done["link"], done["file"], "/v1/me/exports/exp_nowhere", "/v1/me/exports/exp_nowhere/file"):
        answer = await other.ask("GET", path)
        assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (404, "not-found")
    assert (await other.ask("GET", "/v1/me/export")).status_code == 404


async def test_a_request_that_comes_again_makes_no_second_part(system: Whole) -> None:
    person = await _with_data(system)
    before = await _exported(person)
    (request,) = system.of(topics.EXPORTS.name)
    await system.publish(topics.EXPORTS.name, request.value, request.key)
    parts = [record for topic in topics.EXPORT_PARTS.values() for record in system.of(topic.name)]
    for part in parts:
        await system.publish(part.topic, part.value, part.key)
    assert len(parts) == len(topics.EXPORT_PARTS)
    assert (await _archive(person)).keys() == before.keys()
    assert not [record.topic for record in system.records if record.topic.endswith(".dlq")]


async def test_erasing_deletes_exports_too(system: Whole) -> None:
    person = await _with_data(system)
    await _exported(person)
    assert list((system.folder / "objects").glob(f"*/{person.user_id}/exports/*/*"))
    # Asked for just before the end.
    assert (await person.ask("POST", "/v1/me/exports")).status_code == 202
    link = (await person.ask("DELETE", "/v1/me")).json()["link"]

    async def erased() -> bool:
        return (await system.http.get(link)).json()["state"] == "erased"

    await eventually(erased, seconds=60, every=0.1)
    assert not [path for path in (system.folder / "objects").rglob(f"*{person.user_id}*/**/*") if path.is_file()]
    assert not [record.topic for record in system.records if record.topic.endswith(".dlq")]


async def test_a_lost_part_is_told_in_words(system: Whole) -> None:
    person = await _with_data(system)
    await _exported(person)
    done = await _ready(person)
    (part,) = (system.folder / "objects" / "ingest" / person.user_id / "exports").rglob("*/*")
    part.unlink()
    answer = await person.ask("GET", done["file"])
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (410, "export-lost")
    assert "ingest" in answer.json()["detail"]
    failed = await person.get("/v1/me/export")
    assert (failed["state"], failed["file"]) == ("failed", None)
    assert "Ask for a new export" in failed["problem"]
    assert await _exported(person)


async def _with_data(system: Whole) -> Person:
    """A person with samples, one of them corrected and one deleted, sessions, a photo and what follows from them."""
    person = await signed_in(system)
    await person.grant()
    odd = [
        {"metric": "heart_rate", "start": _minute(40 + at), "value": 70 + at, "id": f"odd-{at}", "version": 1}
        for at in range(2)
    ]
    bodies: list[dict[str, Any]] = [
        {"samples": [*walk(), *odd], "sessions": [SLEEP, RUN]},
        {"samples": [odd[1] | {"value": 77.25, "version": 2}], "deletions": [{"id": "odd-0", "version": 2}]},
    ]
    for number, body in enumerate(bodies):
        common = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC"}
        sent = await person.ask("POST", "/v1/batches", key=f"batch {number}", json=common | body)
        receipt = await person.ended(sent)
        assert (receipt["state"], receipt["refused"]) == ("stored", []), receipt
    await person.ended(await person.send_photo())
    await person.told(*OF_A_BATCH, *OF_A_PHOTO)
    await eventually(lambda: _settled(person))
    return person


async def _settled(person: Person) -> bool:
    """Whether all that follows from what was sent has followed: no message for a while."""
    before = await person.messages()
    ledger = (await person.get(f"/v1/ledger/{DATE}"))["lines"]
    explained = await person.get(f"/v1/days/{DATE}/explain")
    return bool(ledger) and not explained["pending"] and await person.messages() == before


async def _exported(person: Person) -> dict[str, bytes]:
    answer = await person.ask("POST", "/v1/me/exports")
    assert answer.status_code == 202, answer.text
    return await _archive(person)


async def _ready(person: Person) -> dict[str, Any]:
    async def ready() -> dict[str, Any]:
        state = await person.get("/v1/me/export")
        return state if state["state"] == "ready" else {}

    return await eventually(ready, seconds=20)


async def _archive(person: Person) -> dict[str, bytes]:
    """The files of the newest archive once it is ready, each looked at by its checksum."""
    answer = await person.ask("GET", (await _ready(person))["file"])
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        assert names[0] == "README.txt"
        return {name: archive.read(name) for name in names}


def _rows(files: dict[str, bytes], name: str) -> list[Any]:
    return [json.loads(line) for line in files[name].splitlines()]


def _minute(minute: int) -> str:
    return MORNING.replace(minute=minute).isoformat()


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
