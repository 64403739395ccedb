"""How batches are kept: tails, devices, zones, batches by reference, crowded buckets and receipts that add up."""

import hashlib
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from services.ingest.buckets import unpack
from services.ingest.records import BUCKETS, DEVICES, TAILS, ZONES
from services.ingest.samples import check
from services.ingest.tails import LARGEST, SMALLEST
from services.ingest.turn import MAX_BUCKET_ROWS
from shared.dead_letters import DeadLetterCause
from shared.events.gateway import BatchObject, BatchSubmitted, SeriesColumns
from shared.objects import Objects
from tests.batches import batch, encoded, series
from tests.polling import eventually
from tests.service.ingesting import DEAD, EIGHT, MINUTE, Ingest, gone, heart, ingesting, session, steps

MILLISECOND, SECOND, DAY = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(days=1)


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncGenerator[Ingest]:
    async with ingesting(tmp_path) as one:
        yield one


def beats(first: int, count: int, value: float = 60) -> SeriesColumns:
    """One a second, within the hour from eight on."""
    times = [EIGHT + n * SECOND for n in range(first, first + count)]
    return series("heart_rate", [(at, at, value) for at in times])


async def sizes(ingest: Ingest) -> tuple[int, int]:
    """How many rows stand in the bucket and in its tail."""
    buckets = await ingest.all(BUCKETS, "user_metric_hour", "user-1")
    tails = await ingest.all(TAILS, "user_metric_hour", "user-1")
    return sum(one.columns.count for one in buckets), sum(one.columns.count for one in tails)


async def test_single_samples_wait_in_a_tail_and_are_read_at_once(ingest: Ingest) -> None:
    await ingest.send(batch("r0", beats(0, 40)))
    for n in range(40, 100):
        await ingest.send(batch(f"r{n}", beats(n, 1, 61)))
        assert await ingest.values("heart_rate") == [60] * 40 + [61] * (n - 39)
    bucket, tail = await sizes(ingest)
    assert bucket + tail == 100
    assert 0 <= tail <= LARGEST
    # It was rewritten when the tail was full.
    (written,) = await ingest.all(BUCKETS, "user_metric_hour", "user-1")
    assert written.version <= 1 + 60 / SMALLEST
    day = (await ingest.day("2026-03-01")).json()
    assert day["metrics"]["heart_rate"]["count"] > 0


async def test_what_waits_in_a_tail_is_a_duplicate_when_it_comes_again_and_can_be_corrected(ingest: Ingest) -> None:
    await ingest.send(batch("r1", beats(0, 40)), batch("r2", beats(40, 1)), batch("r3", beats(40, 1)))
    await ingest.send(batch("r4", beats(40, 1, 99)), batch("r5", beats(3, 1)), batch("r6", beats(3, 1, 98)))
    assert [await ingest.counts(f"r{n}") for n in range(2, 7)] == [
        {"stored": 1},
        {"duplicates": 1},
        {"corrections": 1},
        {"duplicates": 1},
        {"corrections": 1},
    ]
    values = await ingest.values("heart_rate")
    assert (len(values), values[3], values[40]) == (41, 98, 99)


async def test_a_bucket_is_right_where_its_tail_is_stale(ingest: Ingest) -> None:
    await ingest.send(batch("r1", beats(0, 40)), batch("r2", beats(40, 1, 70)))
    (stale,) = await ingest.all(TAILS, "user_metric_hour", "user-1")
    await ingest.send(batch("r3", beats(40, 1, 71), steps(10, first_index=1)))
    await ingest.send(batch("r4", beats(30, 20, 72)))
    # As if the write of the empty tail had been lost in a crash.
    (tail,) = await ingest.all(TAILS, "user_metric_hour", "user-1")
    await ingest.documents.put(TAILS, replace(stale, version=tail.version))
    assert (await ingest.values("heart_rate"))[40] == 72
    await ingest.send(batch("r5", beats(50, 1, 73)))
    values = await ingest.values("heart_rate")
    assert (len(values), values[40], values[50]) == (51, 72, 73)


async def test_a_bucket_takes_no_more_than_it_can_hold(ingest: Ingest) -> None:
    def many(first: int, count: int) -> SeriesColumns:
        start = round(EIGHT.timestamp() * 1_000_000) + 1_000 * np.arange(first, first + count, dtype="<i8")
        one = beats(0, 1)
        return replace(
            one,
            start_us=start.tobytes(),
            end_us=start.tobytes(),
            value=np.full(count, 60, "<f8").tobytes(),
            offset_minutes=np.full(count, 60, "<i2").tobytes(),
            index=np.arange(count, dtype="<u4").tobytes(),
            identity=bytes(16 * count),
            version=bytes(8 * count),
        )

    await ingest.send(batch("r1", many(0, 10_000)), batch("r2", many(10_000, 9_999)))
    await ingest.send(batch("r3", many(19_990, 12)))
    assert await ingest.counts("r3") == {
        "stored": 1,
        "duplicates": 9,
        "refused": [(10, "too-dense"), (11, "too-dense")],
    }
    (bucket,) = await ingest.all(BUCKETS, "user_metric_hour", "user-1")
    assert bucket.columns.count == MAX_BUCKET_ROWS
    await ingest.send(batch("r4", many(0, 5)), batch("r5", many(30_000, 1)))
    assert await ingest.counts("r4") == {"duplicates": 5}
    assert await ingest.counts("r5") == {"refused": [(0, "too-dense")]}
    of_first = gone("", "heart_rate", EIGHT, index=1)
    await ingest.send(batch("r6", many(30_000, 1), received=2, deletions=(of_first,)))
    assert await ingest.counts("r6") == {"deleted": 1, "refused": [(0, "too-dense")]}


async def test_corrections_move_no_more_into_a_bucket_than_it_can_hold(ingest: Ingest) -> None:
    def weighed(day: int, first: int, count: int, version: int = 0) -> SeriesColumns:
        at = EIGHT + day * DAY
        return series(
            "body_mass",
            [(at + n * MILLISECOND, at + n * MILLISECOND, 70, f"i{n}", version) for n in range(first, first + count)],
        )

    await ingest.send(batch("r1", weighed(0, 0, 10_000)), batch("r2", weighed(0, 10_000, 9_998)))
    await ingest.send(batch("r3", weighed(1, 19_998, 4)), batch("r4", weighed(0, 19_998, 4, version=1)))
    assert await ingest.counts("r4") == {"corrections": 2, "refused": [(2, "too-dense"), (3, "too-dense")]}
    found = await ingest.all(BUCKETS, "user_metric_hour", "user-1")
    assert [one.columns.count for one in found] == [MAX_BUCKET_ROWS, 2]


async def test_a_device_is_written_when_there_is_news_of_it(ingest: Ingest) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for n, (app, minutes) in enumerate((("a/1", 0), ("a/1", 9), ("a/2", 9), ("a/2", 12), ("a/2", 19))):
        moment = noon + minutes * MINUTE
        await ingest.send(batch(f"r{n}", steps(10 + n), app=app, occurred_at=moment))
    device = await ingest.documents.get(DEVICES, "user-1/watch-1")
    assert (device.app, device.version) == ("a/2", 3)
    assert (device.first_seen_at, device.seen_at) == (noon, noon + 19 * MINUTE)


async def test_a_device_that_another_process_wrote_is_read_again(ingest: Ingest) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await ingest.send(batch("r1", steps(10), occurred_at=noon))
    device = await ingest.documents.get(DEVICES, "user-1/watch-1")
    await ingest.documents.put(DEVICES, replace(device, kind="ring"))
    await ingest.send(batch("r2", steps(11), occurred_at=noon + 20 * MINUTE))
    assert (await ingest.documents.get(DEVICES, "user-1/watch-1")).kind == "watch"
    assert await ingest.counts("r2") == {"corrections": 1}


async def test_a_batch_from_another_zone_adds_to_the_users_zones(ingest: Ingest) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for n, zone in enumerate(("Europe/Berlin", "Europe/Berlin", "Not/AZone", "", "Asia/Tokyo")):
        await ingest.send(batch(f"r{n}", steps(10 + n), zone=zone, occurred_at=noon + n * MINUTE))
    zones = await ingest.documents.get(ZONES, "user-1")
    assert [one.zone for one in zones.history.changes] == ["Europe/Berlin", "Asia/Tokyo"]
    assert zones.version == 2


async def test_a_time_without_offset_belongs_to_the_day_of_the_users_zone_then(ingest: Ingest) -> None:
    late = datetime(2026, 2, 28, 23, 30, tzinfo=UTC)
    await ingest.send(batch("r1", steps(1, start=late - 2 * DAY), zone="Europe/Berlin", occurred_at=late - DAY))
    await eventually(ingest.days)
    await ingest.send(batch("r2", heart(1, start=late)))
    (day,) = await eventually(lambda: [one for one in ingest.days() if "heart_rate" in one.metrics])
    assert str(day.date) == "2026-03-01"
    (bucket,) = await ingest.all(BUCKETS, "user_metric_hour", "user-1", "heart_rate")
    assert unpack(bucket.columns)["offset"].tolist() == [-(2**15)]


async def test_a_correction_with_an_offset_marks_the_day_that_the_time_without_one_lay_in(ingest: Ingest) -> None:
    late = datetime(2026, 2, 28, 16, 30, tzinfo=UTC)
    await ingest.send(batch("r1", heart(1, start=late - 2 * DAY), zone="Asia/Tokyo", occurred_at=late - DAY))
    await ingest.send(batch("r2", heart(1, start=late)))
    await eventually(lambda: [one for one in ingest.days() if str(one.date) == "2026-03-01"])
    ingest.clock.ahead += timedelta(seconds=10)
    told = late.astimezone(timezone(timedelta(hours=1)))
    await ingest.send(batch("r3", heart(1, 61, start=told)))
    assert await ingest.counts("r3") == {"corrections": 1}
    await eventually(lambda: [one for one in ingest.days() if str(one.date) == "2026-02-28"])
    (gone_from,) = await eventually(lambda: [one for one in ingest.days()[2:] if str(one.date) == "2026-03-01"])
    assert "heart_rate" not in gone_from.metrics


async def referred(whole: BatchSubmitted, objects: Objects, data: bytes | None = None) -> BatchSubmitted:
    """The message of a batch whose records lie in the object store."""
    packed = encoded(whole)
    digest = hashlib.sha256(packed).hexdigest()
    key = f"ingest/{whole.user_id}/{digest}"
    await objects.put(key, packed if data is None else data)
    return replace(whole, series=(), sessions=(), deletions=(), object=BatchObject(key=key, sha256=digest))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(f"file:///{tmp_path}/objects")


async def test_a_batch_by_reference_is_stored_and_its_object_deleted(ingest: Ingest, objects: Objects) -> None:
    slept = session("sleep", "n", EIGHT - timedelta(hours=8), EIGHT, index=90)
    whole = batch("r1", heart(90), refused=[(92, "invalid-record")], received=93, sessions=(slept,))
    whole = replace(whole, deletions=(gone("x", "body_mass", index=91),))
    message = await referred(whole, objects)
    await ingest.send(message)
    expected = {"stored": 91, "deleted": 1, "refused": [(92, "invalid-record")]}
    assert await ingest.counts("r1") == expected
    assert message.object is not None
    assert await objects.get(message.object.key) is None
    # The message comes again, and once more with the object as a second acceptance put it there.
    await ingest.send(message)
    again = await referred(whole, objects)
    await ingest.send(again)
    assert await ingest.counts("r1") == expected
    assert await objects.get(message.object.key) is None
    assert not ingest.running.published[DEAD]


async def test_a_batch_whose_object_is_gone_or_damaged_fails_and_says_so(
    ingest: Ingest, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    missing = await referred(batch("r1", heart(9)), objects)
    assert missing.object is not None
    await objects.delete(missing.object.key)
    damaged = await referred(batch("r2", heart(9)), objects, b"something else")
    await ingest.send(missing, damaged, batch("r3", heart(9)))
    assert [(await ingest.receipt(one)).json()["reason"] for one in ("r1", "r2", "r3")] == [
        "object-missing",
        "object-corrupt",
        None,
    ]
    # Its sender accepts it anew: the receipt that said failed now says stored.
    await ingest.send(await referred(batch("r1", heart(9)), objects))
    assert (await ingest.receipt("r1")).json()["state"] == "stored"


async def test_a_failed_batch_that_is_replayed_is_stored(ingest: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    good = batch("r1", steps(10, 20))
    await ingest.send(replace(good, series=(replace(good.series[0], value=b""),)))
    assert (await ingest.receipt("r1")).json()["state"] == "failed"
    await ingest.send(good)
    answer = (await ingest.receipt("r1")).json()
    assert (answer["state"], answer["stored"], answer["reason"]) == ("stored", 2, None)
    assert [one.receipts[0].state for one in ingest.told()] == ["failed", "stored"]


async def test_97_of_100_are_stored_and_the_receipt_names_the_3(ingest: Ingest) -> None:
    bad = {7, 42, 99}
    values = [999.0 if n in bad else 60.0 for n in range(100)]
    times = [EIGHT + n * SECOND for n in range(100)]
    await ingest.send(batch("r1", series("heart_rate", list(zip(times, times, values, strict=True)))))
    assert await ingest.counts("r1") == {"stored": 97, "refused": [(n, "out-of-range") for n in sorted(bad)]}
    assert len(await ingest.values("heart_rate")) == 97


async def test_one_id_with_two_values_in_one_batch_ends_with_the_last(ingest: Ingest) -> None:
    await ingest.send(batch("r1", series("heart_rate", [(EIGHT, EIGHT, value, "a") for value in (60, 61, 60, 62)])))
    assert await ingest.counts("r1") == {"stored": 1, "corrections": 3}
    assert await ingest.values("heart_rate") == [62]


async def test_a_batch_that_became_a_dead_letter_after_it_was_stored_is_told_as_before(ingest: Ingest) -> None:
    handlers = ingest.running.app.state.handlers
    both = batch("r1", steps(10)), batch("r2", steps(20, start=EIGHT + DAY))
    await handlers.on_batches([(check(one), None) for one in both])
    cause = DeadLetterCause("gateway.batches.v1", 0, 1, "ingest", "OSError", "failed", "", "somewhere", 3)
    await handlers.on_dead_letter(encoded(both[0]), cause)
    first, again = await eventually(lambda: ingest.told()[1:] and ingest.told())
    assert [one.receipt_id for one in first.receipts] == ["r1", "r2"]
    assert again == first
