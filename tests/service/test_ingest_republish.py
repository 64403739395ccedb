"""Days told again: the same events, page after page, asked for by operators alone."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.ingest.app import create_app
from services.ingest.day_events import day_event
from services.ingest.days import MetricDay
from services.ingest.records import COLLECTIONS, DAYS, REPUBLICATIONS, Day, Republication
from services.ingest.republish import PAGE, Republisher
from services.ingest.settings import Settings
from shared import topics
from shared.callers import OPERATOR_SCOPE, SCOPES
from shared.documents import Documents, open_documents
from shared.errors import Rejected, Unavailable
from shared.events.ingest import DayRecomputed, DayUpdated
from shared.kafka import make_broker
from tests.polling import eventually
from tests.service.running import SCAN_S, Running, common_settings, running

FIRST = date(2026, 3, 1)
TOLD_AT = datetime(2026, 3, 1, 19, tzinfo=UTC)
PATH = "/internal/days/republish"


def day(user_id: str, number: int, *, reason: str = "", told_at: datetime = TOLD_AT) -> Day:
    on = FIRST + timedelta(days=number)
    steps = MetricDay("{steps}", 2, sum=100.0 + number)
    return Day(
        id=f"{user_id}/{on}",
        user_id=user_id,
        day=on,
        zone="Europe/Berlin",
        revision=3,
        metrics={"steps": steps},
        updated_at=told_at,
        reason=reason,
        previous={"steps": replace(steps, sum=7.0)} if reason else {},
    )


HELD = (
    *(day("ada", number, told_at=TOLD_AT + timedelta(hours=number)) for number in range(3)),
    day("bo", 0, reason="correction"),
)


@dataclass
class Ingest:
    running: Running
    documents: Documents

    async def ask(self, body: dict[str, Any], key: str = "k1", **headers: str) -> Any:
        token = {"Authorization": f"Bearer {self.running.signer.operator_token('ingest')}", "Idempotency-Key": key}
        return await self.running.http.post(PATH, json={"by": "root"} | body, headers=token | headers)

    async def ended(self, id: str) -> dict[str, Any]:
        token = {"Authorization": f"Bearer {self.running.signer.operator_token('ingest')}"}

        async def known() -> dict[str, Any]:
            found = (await self.running.http.get(f"{PATH}/{id}", headers=token)).json()
            return found if found["ended_at"] else {}

        return await eventually(known)

    async def republished(self, body: dict[str, Any], key: str = "k1") -> dict[str, Any]:
        answer = await self.ask(body, key)
        assert answer.status_code == 202, answer.text
        return await self.ended(answer.json()["id"])

    def told(self) -> list[bytes]:
        return self.running.published[topics.DAYS.name]


async def held(folder: Path, days: Sequence[Day] = HELD) -> Documents:
    documents = open_documents(f"sqlite:///{folder}", "ingest")
    await documents.open(COLLECTIONS)
    for one in days:
        await documents.insert(DAYS, one)
    return documents


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncGenerator[Ingest]:
    await (await held(tmp_path)).close()
    settings = Settings(**common_settings(tmp_path))
    broker = make_broker(settings, "ingest")
    documents = open_documents(settings.database_url, "ingest")
    app = create_app(settings, broker=broker, documents=documents, scan_seconds=SCAN_S)
    async with running(app, broker, "ingest", tmp_path, listen=(topics.DAYS.name,)) as one:
        yield Ingest(one, documents)


async def test_all_days_of_a_user_are_told_word_for_word(ingest: Ingest) -> None:
    done = await ingest.republished({"user_id": "ada", "note": "insights restored"})
    assert (done["seen"], done["sent"], done["skipped"], done["note"]) == (3, 3, 0, "insights restored")
    assert sorted(ingest.told()) == sorted(day_event(one).model_dump_json().encode() for one in HELD[:3])


async def test_a_recomputed_day_keeps_its_id_and_what_it_said_before(ingest: Ingest) -> None:
    await ingest.republished({"user_id": "bo"})
    (told,) = ingest.told()
    event = DayRecomputed.model_validate_json(told)
    assert (event.event_id, event.reason, event.revision) == (day_event(HELD[3]).event_id, "correction", 3)
    assert (event.metrics["steps"].sum, event.previous["steps"].sum) == (100.0, 7.0)
    assert event.occurred_at == TOLD_AT


async def test_since_means_when_a_day_was_told(ingest: Ingest) -> None:
    since = (TOLD_AT + timedelta(hours=1)).isoformat()
    done = await ingest.republished({"since": since})
    assert (done["seen"], done["sent"]) == (4, 2)
    assert {DayUpdated.model_validate_json(one).date for one in ingest.told()} == {date(2026, 3, 2), date(2026, 3, 3)}


async def test_a_dry_run_counts_and_tells_nothing(ingest: Ingest) -> None:
    done = await ingest.republished({"everything": True, "dry_run": True})
    assert (done["seen"], done["sent"]) == (4, 4)
    assert ingest.told() == []


async def test_the_same_key_is_the_same_job(ingest: Ingest) -> None:
    first = await ingest.republished({"user_id": "ada"})
    again = await ingest.republished({"user_id": "ada"})
    other = await ingest.republished({"user_id": "ada"}, key="k2")
    assert first == again
    assert other["id"] != first["id"]
    assert len(ingest.told()) == 6


async def test_an_unknown_user_has_no_days(ingest: Ingest) -> None:
    done = await ingest.republished({"user_id": "nobody"})
    assert (done["seen"], done["sent"]) == (0, 0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": "ada", "everything": True},
        {"user_id": ""},
        {"since": "2026-03-01"},
        {"since": "2026-03-01T08:00:00"},
        {"since": "0001-01-01T00:00:00+02:00"},
        {"user_id": "ada", "rate_per_s": 0},
        {"user_id": "ada", "more": 1},
        {"user_id": "ada", "by": ""},
    ],
)
async def test_a_wish_that_is_not_clear_is_refused(ingest: Ingest, body: dict[str, Any]) -> None:
    assert (await ingest.ask(body)).status_code == 422
    assert ingest.told() == []


async def test_who_names_no_days_is_told_how(ingest: Ingest) -> None:
    says = "Send user_id, since or both, or else everything as true"
    assert (await ingest.ask({})).json()["errors"] == [{"where": "body", "message": says}]


async def test_a_key_is_needed_and_an_unknown_job_is_not_there(ingest: Ingest) -> None:
    token = {"Authorization": f"Bearer {ingest.running.signer.operator_token('ingest')}"}
    answer = await ingest.running.http.post(PATH, json={"user_id": "ada", "by": "root"}, headers=token)
    assert answer.status_code == 422
    assert (await ingest.running.http.get(f"{PATH}/none", headers=token)).status_code == 404


async def test_nobody_but_an_operator_may_ask(ingest: Ingest) -> None:
    scopes = (*SCOPES, OPERATOR_SCOPE)
    one = ingest.running
    elsewhere = {"Authorization": f"Bearer {one.signer.operator_token('insights')}"}
    for headers, status in (
        (one.headers(user_id="ada", scopes=scopes), 403),
        (one.headers(partner_id="p", scopes=scopes), 403),
        (one.headers(scopes=scopes), 403),
        (elsewhere, 401),
        ({}, 401),
    ):
        body = {"user_id": "ada", "by": "ada"}
        posted = await one.http.post(PATH, json=body, headers=headers | {"Idempotency-Key": "k"})
        read = await one.http.get(f"{PATH}/any", headers=headers)
        assert (posted.status_code, read.status_code) == (status, status)
    assert ingest.told() == []


def wish(**said: Any) -> Republication:
    fields = {
        "id": "job",
        "user_id": "",
        "since": None,
        "rate_per_s": 1000,
        "dry_run": False,
        "by": "root",
        "note": "",
        "created_at": TOLD_AT,
    }
    return Republication(**{**fields, **said})


async def test_a_job_whose_process_died_goes_on_where_it_was(tmp_path: Path) -> None:
    documents = await held(tmp_path, [day("ada", number) for number in range(PAGE + 5)])

    async def nowhere(_: DayUpdated | DayRecomputed) -> None:
        return

    first = await Republisher(documents, nowhere, lambda: TOLD_AT).work(wish())
    assert (first.seen, first.sent, first.ended_at) == (PAGE, PAGE, None)
    assert first.cursor is not None
    # As it lies there when its process was killed in the second page: under a lease that has run out.
    await documents.insert(REPUBLICATIONS, replace(first, attempts=1, due_at=TOLD_AT))
    await documents.close()

    settings = Settings(**common_settings(tmp_path))
    broker = make_broker(settings, "ingest")
    app = create_app(settings, broker=broker)
    async with running(app, broker, "ingest", tmp_path, listen=(topics.DAYS.name,)) as one:
        done = await Ingest(one, documents).ended("job")
    assert (done["seen"], done["sent"]) == (PAGE + 5, PAGE + 5)
    assert len(one.published[topics.DAYS.name]) == 5


async def test_pages_come_at_the_rate_asked_for(tmp_path: Path) -> None:
    documents = await held(tmp_path)
    told: list[str] = []

    async def tell(event: DayUpdated | DayRecomputed) -> None:
        told.append(event.event_id)

    job = await Republisher(documents, tell, lambda: TOLD_AT).work(wish(rate_per_s=2))
    await documents.close()
    assert len(told) == 2
    assert job.due_at == TOLD_AT + timedelta(seconds=1)


async def test_a_day_too_large_to_tell_is_skipped_and_a_silent_broker_is_waited_for(tmp_path: Path) -> None:
    documents = await held(tmp_path)

    async def too_large(event: DayUpdated | DayRecomputed) -> None:
        if event.user_id == "bo":
            raise Rejected("event-too-large")

    async def silent(_: DayUpdated | DayRecomputed) -> None:
        raise Unavailable("broker")

    job = await Republisher(documents, too_large, lambda: TOLD_AT).work(wish())
    assert (job.seen, job.sent, job.skipped, job.ended_at) == (4, 3, 1, TOLD_AT)
    with pytest.raises(Unavailable):
        await Republisher(documents, silent, lambda: TOLD_AT).work(wish())
    await documents.close()
