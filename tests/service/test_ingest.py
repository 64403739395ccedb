"""The ingest service with its real database."""

import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.ingest.days import MetricDay
from services.ingest.handlers import decide, portions
from services.ingest.records import BUCKETS, DIRTY_DAYS, DirtyDay
from services.ingest.workers import revised
from shared import topics
from shared.documents import Conflict, Documents
from shared.errors import Unavailable
from shared.events.auth import Profile, UserUpdated
from shared.events.ingest import DayRecomputed
from tests.batches import batch, encoded, series
from tests.polling import eventually
from tests.service.ingesting import DEAD, EIGHT, MINUTE, Ingest, heart, ingesting, steps

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncGenerator[Ingest]:
    async with ingesting(tmp_path) as one:
        yield one


async def test_a_batch_is_stored_receipted_and_its_day_told(ingest: Ingest) -> None:
    await ingest.send(batch("r1", heart(90), steps(10, 20, first_index=90)), traceparent=TRACEPARENT)
    answer = (await ingest.receipt("r1")).json()
    assert {name: answer[name] for name in ("state", "received", "stored", "duplicates", "corrections", "refused")} == {
        "state": "stored",
        "received": 92,
        "stored": 92,
        "duplicates": 0,
        "corrections": 0,
        "refused": [],
    }
    (told,) = ingest.told()
    assert [one.receipt_id for one in told.receipts] == ["r1"]
    (day,) = await eventually(ingest.days)
    assert (day.type, day.revision, str(day.date)) == ("day.updated", 1, "2026-03-01")
    assert (day.metrics["steps"].sum, day.metrics["heart_rate"].mean) == (30, 60)
    shown = (await ingest.day("2026-03-01")).json()
    assert shown["metrics"] == {name: one.model_dump() for name, one in day.metrics.items()}
    stored = await ingest.documents.get(DIRTY_DAYS, "user-1/2026-03-01")
    assert stored.traceparent == TRACEPARENT


async def test_the_same_message_twice_is_stored_once_and_answered_alike(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10, 20)))
    before = (await ingest.receipt("r1")).json()
    await ingest.send(batch("r1", steps(10, 20)))
    assert (await ingest.receipt("r1")).json() == before
    first, again = ingest.told()
    assert first == again
    await eventually(ingest.days)
    assert (await ingest.day("2026-03-01")).json()["metrics"]["steps"]["sum"] == 30


async def test_the_same_samples_in_another_batch_are_duplicates_and_change_no_day(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10, 20)))
    await eventually(ingest.days)
    ingest.clock.ahead += timedelta(seconds=10)
    await ingest.send(batch("r2", steps(10, 20)))
    answer = (await ingest.receipt("r2")).json()
    assert (answer["stored"], answer["duplicates"]) == (0, 2)

    async def clean() -> bool:
        return (await ingest.documents.get(DIRTY_DAYS, "user-1/2026-03-01")).due_at is None

    await eventually(clean)
    assert len(ingest.days()) == 1


async def test_a_correction_changes_the_day(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10, 20)))
    await eventually(ingest.days)
    ingest.clock.ahead += timedelta(seconds=10)
    await ingest.send(batch("r2", steps(10, 25)))
    assert (await ingest.receipt("r2")).json()["corrections"] == 1
    days = await eventually(lambda: ingest.days()[1:])
    assert (days[0].revision, days[0].metrics["steps"].sum) == (2, 35)


async def test_a_day_told_again_after_its_end_says_what_it_was(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))
    await eventually(ingest.days)
    ingest.clock.ahead += timedelta(hours=20)
    await ingest.send(batch("r2", steps(5, start=EIGHT + 5 * MINUTE)))
    (late,) = await eventually(lambda: ingest.days()[1:])
    assert isinstance(late, DayRecomputed)
    assert (late.revision, late.reason) == (2, "late-data")
    assert (late.previous["steps"].sum, late.metrics["steps"].sum) == (10, 15)
    ingest.clock.ahead += timedelta(seconds=10)
    await ingest.send(batch("r3", steps(6, start=EIGHT + 5 * MINUTE)))
    (corrected,) = await eventually(lambda: ingest.days()[2:])
    assert isinstance(corrected, DayRecomputed)
    assert corrected.reason == "correction"


async def test_the_first_word_on_an_old_day_is_an_update(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10, start=EIGHT - timedelta(days=40))))
    (day,) = await eventually(ingest.days)
    assert (day.type, day.revision) == ("day.updated", 1)


async def test_a_busy_day_is_computed_at_most_every_two_seconds(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))
    await eventually(ingest.days)

    async def computed_at() -> datetime | None:
        return (await ingest.documents.get(DIRTY_DAYS, "user-1/2026-03-01")).computed_at

    computed = await eventually(computed_at)
    await ingest.send(batch("r2", steps(5, start=EIGHT + 5 * MINUTE)))
    waiting = await ingest.documents.get(DIRTY_DAYS, "user-1/2026-03-01")
    assert waiting.due_at == computed + timedelta(seconds=2)


async def test_refused_records_are_listed_and_the_rest_is_stored(ingest: Ingest) -> None:
    far = EIGHT + timedelta(days=3)
    await ingest.send(
        batch(
            "r1",
            series(
                "steps",
                [
                    (EIGHT, EIGHT + MINUTE, 10),
                    (EIGHT, EIGHT + MINUTE, 999_999),
                    (EIGHT, EIGHT - MINUTE, 1),
                    (far, far + MINUTE, 1),
                    (EIGHT, EIGHT + timedelta(days=2), 1),
                    (EIGHT, EIGHT + 2 * MINUTE, float("nan")),
                ],
            ),
            series("mood", [(EIGHT, EIGHT, 3)], first_index=6),
            refused=[(7, "invalid-record")],
        )
    )
    answer = (await ingest.receipt("r1")).json()
    assert (answer["received"], answer["stored"]) == (8, 1)
    assert [(one["index"], one["code"]) for one in answer["refused"]] == [
        (1, "out-of-range"),
        (2, "end-before-start"),
        (3, "in-future"),
        (4, "too-long"),
        (5, "out-of-range"),
        (6, "unknown-metric"),
        (7, "invalid-record"),
    ]


async def test_a_batch_of_refused_records_still_gets_its_receipt(ingest: Ingest) -> None:
    await ingest.send(batch("r1", heart(3, value=999)))
    answer = (await ingest.receipt("r1")).json()
    assert (answer["state"], answer["stored"], len(answer["refused"])) == ("stored", 0, 3)


async def test_ids_and_versions_of_the_source_decide(ingest: Ingest) -> None:
    later = EIGHT + timedelta(minutes=1)
    await ingest.send(batch("r1", series("heart_rate", [(EIGHT, EIGHT, 60, "a", 2)])))
    await ingest.send(batch("r2", series("heart_rate", [(later, later, 70, "a", 1)])))
    assert (await ingest.receipt("r2")).json()["refused"] == [{"index": 0, "code": "superseded"}]
    await ingest.send(batch("r3", series("heart_rate", [(later, later, 80, "a", 3)])))
    assert (await ingest.receipt("r3")).json()["corrections"] == 1
    page = await ingest.documents.find(BUCKETS, "user_metric_hour", ("user-1",))
    assert [one.columns.count for one in page.documents] == [1]


async def test_bad_messages_are_dead_letters_and_close_their_receipt(
    ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await ingest.running.send_bytes(topics.BATCHES, b"\x00nonsense")
    broken = series("steps", [(EIGHT, EIGHT + MINUTE, 10)])
    await ingest.send(batch("r1", replace(broken, value=b"")))
    await ingest.send(batch("r2", steps(10)))
    assert len(ingest.running.published[DEAD]) == 2
    answer = (await ingest.receipt("r1")).json()
    assert (answer["state"], answer["reason"], answer["received"]) == ("failed", "bad-columns", 1)
    assert (await ingest.receipt("r2")).json()["state"] == "stored"
    failed = [one for told in ingest.told() for one in told.receipts if one.state == "failed"]
    assert [one.receipt_id for one in failed] == ["r1"]


async def test_a_failed_receipt_never_replaces_a_stored_one(ingest: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    await ingest.send(batch("r1", steps(10)))
    good = steps(10)
    await ingest.send(
        batch("r1", type(good)(**{**{f: getattr(good, f) for f in good.__struct_fields__}, "value": b""}))
    )
    assert (await ingest.receipt("r1")).json()["state"] == "stored"


async def test_a_bucket_changed_meanwhile_is_read_and_merged_again(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))

    async def other_process(documents: Documents) -> None:
        (bucket,) = (await documents.find(BUCKETS, "user_metric_hour", ("user-1",))).documents
        await documents.put(BUCKETS, bucket)

    ingest.documents.meddle = other_process
    await ingest.send(batch("r2", steps(10, 20)))
    answer = (await ingest.receipt("r2")).json()
    assert (answer["stored"], answer["duplicates"]) == (1, 1)


async def test_a_day_marked_meanwhile_is_marked_again(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))
    await eventually(ingest.days)

    async def worker(documents: Documents) -> None:
        dirty = await documents.get(DIRTY_DAYS, "user-1/2026-03-01")
        assert dirty is not None
        await documents.put(DIRTY_DAYS, dirty)

    ingest.documents.meddle = worker
    ingest.clock.ahead += timedelta(seconds=10)
    await ingest.send(batch("r2", steps(10, 20)))
    assert (await ingest.receipt("r2")).json()["stored"] == 1
    (day,) = await eventually(lambda: ingest.days()[1:])
    assert day.metrics["steps"].sum == 30


async def test_a_write_that_lost_the_race_for_ever_is_tried_later(ingest: Ingest) -> None:
    async def conflict(documents: Documents) -> None:
        ingest.documents.meddle = conflict
        raise Conflict(BUCKETS.name, ["x"])

    ingest.documents.meddle = conflict
    with pytest.raises(Unavailable):
        await ingest.send(batch("r1", steps(10)))
    ingest.documents.meddle = None
    assert (await ingest.receipt("r1")).status_code == 404
    await ingest.send(batch("r1", steps(10)))
    assert (await ingest.receipt("r1")).json()["stored"] == 1


async def test_batches_of_one_turn_share_buckets_and_one_event_per_user(ingest: Ingest) -> None:
    handlers = ingest.running.app.state.handlers
    turn = [
        batch("r1", steps(10)),
        batch("r2", steps(10, 20)),
        batch("r1", steps(10)),
        batch("r3", steps(10), user_id="user-2"),
        batch("r4", steps(11)),
    ]
    await handlers.on_batches([(decide(encoded(one)), None) for one in turn])
    counts = {
        one: [(await ingest.receipt(one, user)).json()[name] for name in ("stored", "duplicates", "corrections")]
        for one, user in (("r1", "user-1"), ("r2", "user-1"), ("r3", "user-2"), ("r4", "user-1"))
    }
    assert counts == {"r1": [1, 0, 0], "r2": [1, 1, 0], "r3": [1, 0, 0], "r4": [0, 0, 1]}
    assert sorted(sorted(one.receipt_id for one in told.receipts) for told in ingest.told()) == [
        ["r1", "r2", "r4"],
        ["r3"],
    ]
    # One of the group comes again: the whole group is told again, word for word.
    before = next(told for told in ingest.told() if told.user_id == "user-1")
    await ingest.send(turn[1])
    assert ingest.told()[-1] == before


async def test_receipts_and_days_are_their_owners_alone(ingest: Ingest) -> None:
    await ingest.send(batch("r1", steps(10)))
    await eventually(ingest.days)
    foreign, unknown = await ingest.receipt("r1", "user-2"), await ingest.receipt("r9", "user-2")
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    without_place = [{**one.json(), "instance": None} for one in (foreign, unknown)]
    assert without_place[0] == without_place[1]
    assert (await ingest.day("2026-03-01", "user-2")).status_code == 404
    assert (await ingest.day("2026-03-09")).json()["type"].endswith("/not-found")
    for text in ("yesterday", "86400", "2026-03-01T00:00:00", "2026-3-1", "2026-02-30"):
        assert (await ingest.day(text)).status_code == 422, text


async def test_scopes_are_checked(ingest: Ingest) -> None:
    answer = await ingest.running.get("/v1/days/2026-03-01", user_id="user-1", scopes=("samples:read",))
    assert answer.status_code == 403
    assert (await ingest.running.http.get("/v1/days/2026-03-01")).status_code == 401


async def test_zones_come_from_the_batch_and_else_from_home(ingest: Ingest) -> None:
    utc = datetime(2026, 3, 1, 23, 30, tzinfo=UTC) - timedelta(days=1)
    await ingest.send(batch("r1", heart(1, start=utc), zone="Europe/Berlin"))
    (day,) = await eventually(ingest.days)
    assert (str(day.date), day.zone) == ("2026-03-01", "Europe/Berlin")
    for revision, zone in ((2, "Asia/Tokyo"), (1, "America/New_York")):
        await ingest.running.send(
            topics.USERS,
            UserUpdated(
                event_id=f"u{revision}",
                occurred_at=utc,
                user_id="user-2",
                revision=revision,
                profile=Profile(home_zone=zone),
            ),
        )
    await ingest.send(batch("r2", heart(1), user_id="user-2", zone="Not/AZone"))
    (second,) = await eventually(lambda: ingest.days()[1:])
    assert second.zone == "Asia/Tokyo"


async def test_sparse_history_is_stored_in_bounded_writes() -> None:
    hours = [EIGHT - timedelta(hours=place) for place in range(8)]
    sparse = [batch(f"r{number}", series("heart_rate", [(at, at, 60) for at in hours])) for number in range(3)]
    dense = [batch(f"d{number}", heart(60)) for number in range(4)]
    turn = [(decide(encoded(one)), None) for one in (*sparse, *dense)]
    parts = [[one.receipt_id for one, _ in part] for part in portions(turn, most=10)]
    assert parts == [["r0"], ["r1"], ["r2", "d0"], ["d1", "d2", "d3"]]


def test_a_day_goes_on_with_the_trace_of_its_newest_cause() -> None:
    dirty = DirtyDay(
        id="user-1/2026-03-01",
        user_id="user-1",
        day=EIGHT.date(),
        from_hour=0,
        to_hour=1,
        traceparent=TRACEPARENT,
    )
    told = revised(None, dirty, "UTC", {"steps": MetricDay("{steps}", 1, sum=10)}, EIGHT.astimezone(UTC))
    assert [(one.topic, one.key, one.traceparent) for one in told.outbox] == [(topics.DAYS.name, "user-1", TRACEPARENT)]
