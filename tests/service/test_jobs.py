"""Jobs are worked once under a lease, again when something fails, and never by two at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shared.clock import utc_now
from shared.documents import Collection, Documents, open_documents
from shared.errors import Rejected, Unavailable
from shared.jobs import DUE_INDEX, Job, Workers, pause_after
from shared.outbox import OUTBOX_INDEX, OutboxEvent, with_events
from shared.telemetry import METRICS, current_trace_id
from tests.polling import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Photo(Job, frozen=True, kw_only=True):
    result: str | None = None
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None


PHOTOS = Collection("photos", Photo, (DUE_INDEX, OUTBOX_INDEX))
SHORT = timedelta(seconds=0.3)
Work = Callable[[Photo], Awaitable[Photo | None]]


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[Documents]:
    opened = open_documents(f"sqlite:///{tmp_path}", "jobs")
    await opened.open([PHOTOS])
    yield opened
    await opened.close()


@asynccontextmanager
async def working(documents: Documents, work: Work, **options: Any) -> AsyncIterator[Workers[Photo]]:
    workers = Workers(documents, PHOTOS, work, **{"scan_seconds": 0.05, "grace_seconds": 0.2, **options})
    task = asyncio.create_task(workers.run())
    yield workers
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def photo(documents: Documents, id: str = "p") -> Photo:
    found = await documents.get(PHOTOS, id)
    assert found is not None
    return found


async def finished(documents: Documents, id: str = "p") -> Photo | None:
    found = await documents.get(PHOTOS, id)
    return found if found is not None and found.due_at is None else None


async def done(job: Photo) -> Photo:
    return replace(job, due_at=None, result=f"read at attempt {job.attempts}")


async def test_a_nudged_job_is_worked_and_stored(documents: Documents) -> None:
    stored: list[Photo] = []
    async with working(documents, done, scan_seconds=60, on_stored=stored.append) as workers:
        await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
        workers.nudge()
        job = await eventually(lambda: finished(documents))
    assert job.result == "read at attempt 1"
    assert [one.id for one in stored] == ["p"]


async def test_a_nudge_for_later_comes_in_time(documents: Documents) -> None:
    due_at = utc_now() + timedelta(seconds=0.2)
    worked_at: list[datetime] = []

    async def work(job: Photo) -> None:
        worked_at.append(utc_now())

    async with working(documents, work, scan_seconds=60) as workers:
        await documents.insert(PHOTOS, Photo(id="p", due_at=due_at))
        workers.nudge(due_at)
        await eventually(lambda: finished(documents))
    assert worked_at[0] >= due_at


async def test_the_scan_finds_what_nobody_nudged_and_never_runs_more_than_allowed(documents: Documents) -> None:
    now, most = 0, 0

    async def work(job: Photo) -> Photo:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)  # how long the work takes
        now -= 1
        return await done(job)

    for n in range(30):
        await documents.insert(PHOTOS, Photo(id=str(n), due_at=utc_now()))
    async with working(documents, work, concurrency=3):
        for n in range(30):
            await eventually(lambda n=n: finished(documents, str(n)))
    assert most == 3


async def test_workers_say_when_more_is_due_than_they_have_room_for(documents: Documents) -> None:
    gate = asyncio.Event()

    async def held(job: Photo) -> Photo:
        await gate.wait()
        return await done(job)

    async with working(documents, held, concurrency=2) as workers:
        assert not workers.behind
        for id in ("a", "b", "c"):
            await documents.insert(PHOTOS, Photo(id=id, due_at=utc_now()))
        workers.nudge()
        await eventually(lambda: workers.behind)
        gate.set()
        for id in ("a", "b", "c"):
            await eventually(lambda id=id: finished(documents, id))
        await eventually(lambda: not workers.behind)


async def test_work_continues_the_trace_that_made_the_job(documents: Documents) -> None:
    seen: list[str | None] = []

    async def work(job: Photo) -> None:
        seen.append(current_trace_id())

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now(), traceparent=f"00-{TRACE}-b7ad6b7169203331-01"))
    async with working(documents, work):
        await eventually(lambda: finished(documents))
    assert seen == [TRACE]


@pytest.mark.parametrize("error", [Unavailable("triton"), RuntimeError("a defect")])
async def test_a_failure_is_tried_again_after_a_pause(documents: Documents, error: Exception) -> None:
    async def work(job: Photo) -> Photo:
        if job.attempts < 2:
            raise error
        return replace(await done(job), last_error=job.last_error)

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work):
        job = await eventually(lambda: finished(documents))
    assert job.result == "read at attempt 2"
    assert job.last_error in ("triton unavailable", "RuntimeError")


async def test_a_rejected_job_ends_with_its_reason(documents: Documents) -> None:
    async def work(job: Photo) -> Photo:
        raise Rejected("picture-truncated")

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work):
        job = await eventually(lambda: finished(documents))
    assert (job.last_error, job.attempts) == ("picture-truncated", 1)


async def test_on_rejected_says_what_to_store(documents: Documents) -> None:
    async def work(job: Photo) -> Photo:
        raise Rejected("picture-truncated")

    async def refused(job: Photo, rejected: Rejected) -> Photo:
        return replace(job, due_at=None, result=f"refused: {rejected.reason}")

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work, on_rejected=refused):
        job = await eventually(lambda: finished(documents))
    assert job.result == "refused: picture-truncated"


async def test_a_defect_ends_after_the_last_attempt_and_is_logged_without_its_message(
    documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(job: Photo) -> Photo:
        raise RuntimeError("ate 3 kg of secret sauce")

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now(), attempts=2))
    async with working(documents, work, max_attempts=3):
        job = await eventually(lambda: finished(documents))
    assert (job.last_error, job.attempts) == ("attempts-exhausted", 3)
    assert "a job of photos failed at attempt 3: RuntimeError at tests/service/test_jobs.py" in caplog.text
    assert "secret" not in caplog.text


async def test_a_long_job_keeps_its_lease(documents: Documents) -> None:
    let_go = asyncio.Event()
    runs = 0

    async def work(job: Photo) -> Photo:
        nonlocal runs
        runs += 1
        await let_go.wait()
        return await done(job)

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work, lease=SHORT), working(documents, work, lease=SHORT):
        # Two renewals and more: version 1 at insert, 2 at the claim.
        await eventually(lambda: _version(documents, 6))
        let_go.set()
        job = await eventually(lambda: finished(documents))
    assert (runs, job.attempts) == (1, 1)


async def _version(documents: Documents, least: int) -> bool:
    return (await photo(documents)).version >= least


async def test_a_worker_that_stood_still_is_stopped_and_its_result_refused(documents: Documents) -> None:
    """A second worker's claim after the lease makes the first one's renewal a conflict."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def work(job: Photo) -> Photo:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work, lease=SHORT):
        await asyncio.wait_for(begun.wait(), 5)
        later = utc_now() + timedelta(minutes=1)
        (taken,) = await documents.claim(PHOTOS, "due", now=later, lease=timedelta(minutes=1))
        await asyncio.wait_for(stopped.wait(), 5)
        await documents.put(PHOTOS, replace(taken, due_at=None, result="by the other"))
    assert (await photo(documents)).result == "by the other"


async def test_a_relay_that_clears_meanwhile_costs_nothing(documents: Documents) -> None:
    old, new = (OutboxEvent(event_id=name, topic="t", key="k", value=b"") for name in ("old", "new"))
    runs = 0

    async def work(job: Photo) -> Photo:
        nonlocal runs
        runs += 1
        current = await photo(documents)
        await documents.put(PHOTOS, replace(current, outbox=(), outbox_at=None))
        return with_events(await done(job), new)

    await documents.insert(PHOTOS, with_events(Photo(id="p", due_at=utc_now()), old))
    async with working(documents, work):
        job = await eventually(lambda: finished(documents))
    assert runs == 1
    assert job.outbox == (new,)


async def test_an_input_changed_meanwhile_is_worked_again_at_once(documents: Documents) -> None:
    async def work(job: Photo) -> Photo:
        if job.attempts == 1:
            await documents.put(PHOTOS, replace(await photo(documents), traceparent="changed"))
        return replace(job, due_at=None, result=f"{job.traceparent}")

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work, scan_seconds=60):
        job = await eventually(lambda: finished(documents), seconds=5)
    assert job.result == "changed"


async def test_a_job_scheduled_anew_while_it_is_worked_keeps_its_time_and_alarms_nobody(
    documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    later = utc_now() + timedelta(hours=1)

    async def work(job: Photo) -> Photo:
        await documents.put(PHOTOS, replace(await photo(documents), due_at=later, attempts=0))
        return replace(job, due_at=None)

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    before = METRICS.jobs.labels(PHOTOS.name, "handed_back")._value.get()
    async with working(documents, work):
        await eventually(lambda: METRICS.jobs.labels(PHOTOS.name, "handed_back")._value.get() > before)
    assert (await photo(documents)).due_at == later
    assert not caplog.records


async def test_an_end_hands_back_what_is_not_done(documents: Documents) -> None:
    begun = asyncio.Event()

    async def work(job: Photo) -> Photo:
        begun.set()
        await asyncio.Event().wait()
        return job

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work):
        await asyncio.wait_for(begun.wait(), 5)
    handed_back = await photo(documents)
    assert handed_back.due_at is not None
    assert handed_back.due_at <= utc_now()


async def test_an_end_lets_a_short_job_finish(documents: Documents) -> None:
    begun = asyncio.Event()

    async def work(job: Photo) -> Photo:
        begun.set()
        await asyncio.sleep(0.1)  # how long the work takes
        return await done(job)

    await documents.insert(PHOTOS, Photo(id="p", due_at=utc_now()))
    async with working(documents, work, grace_seconds=5):
        await asyncio.wait_for(begun.wait(), 5)
    assert (await photo(documents)).result == "read at attempt 1"


def test_pauses_grow_to_twenty_seconds() -> None:
    for attempts, seconds in ((1, 0.5), (2, 1), (4, 4), (7, 20), (1000, 20)):
        pause = pause_after(attempts).total_seconds()
        assert 0.8 * seconds <= pause <= 1.2 * seconds
