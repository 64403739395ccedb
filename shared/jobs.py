"""Slow or outside work as documents: claimed under a lease, renewed while it runs, repeated until it ends."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from shared.clock import Clock, utc_now
from shared.documents import Claimable, Collection, Conflict, Documents, Index
from shared.errors import Erased, Rejected, Unavailable
from shared.redaction import whereabouts
from shared.telemetry import METRICS, bind, span

logger = logging.getLogger(__name__)

DUE_INDEX = Index("due", ("due_at",))
LEASE = timedelta(seconds=15)
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
# Of a job that carries events (shared.outbox); a relay clears them while the job may be claimed again.
OUTBOX_FIELDS = ("outbox", "outbox_at")


class Job(Claimable, frozen=True, kw_only=True):
    """Work to be done at `due_at`. The version is the lease's fencing token, so only workers write a claimed job."""

    last_error: str | None = None
    traceparent: str | None = None


class HandedBack(Conflict):
    """The job's input changed while it was worked: it is due again, which is nothing to worry about."""


J = TypeVar("J", bound=Job)
Work = Callable[[J], Awaitable[J | None]]


class Workers(Generic[J]):
    """Claims due jobs of one collection and runs up to `concurrency` of them at a time.

    `work(job)` returns the job to store: `due_at` None (or no job at all) when it is finished, a later time when it
    is to run again. It may run twice, so its effects are idempotent. What it raises means:

    * `Unavailable`: tried again with back-off (0.5 s doubling to 20 s);
    * `Rejected`: `on_rejected(job, rejected)` returns the job to store; without it the job ends with that reason;
    * anything else: as `Unavailable`, until `max_attempts` claims (None: for ever), then as `Rejected`.

    A worker that lost its lease (its process stood still) is cancelled, or its result refused.
    `on_stored(job)` runs after each write of a result, to nudge a relay.
    """

    def __init__(
        self,
        documents: Documents,
        collection: Collection[J],
        work: Work[J],
        *,
        concurrency: int = 4,
        lease: timedelta = LEASE,
        clock: Clock = utc_now,
        index: str = DUE_INDEX.name,
        equals: Sequence[Any] = (),
        on_rejected: Callable[[J, Rejected], Awaitable[J]] | None = None,
        on_stored: Callable[[J], None] | None = None,
        max_attempts: int | None = None,
        scan_seconds: float = 1.0,
        grace_seconds: float = 3.0,
    ) -> None:
        self._documents = documents
        self._collection = collection
        self._work = work
        self._concurrency = concurrency
        self._lease = lease
        self._clock = clock
        self._index = index
        self._equals = tuple(equals)
        self._on_rejected = on_rejected
        self._on_stored = on_stored
        self._max_attempts = max_attempts
        self._scan_seconds = scan_seconds
        self._grace_seconds = grace_seconds
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._behind = False

    @property
    def behind(self) -> bool:
        """Whether more was due at the last look than there was room for."""
        return self._behind

    def nudge(self, due_at: datetime | None = None) -> None:
        """Look for due jobs now, or at `due_at`; without a nudge it happens each second."""
        delay = 0.0 if due_at is None else (due_at - self._clock()).total_seconds()
        if delay <= 0:
            self._wake.set()
        elif delay < 60:
            # Two milliseconds more, so that the clock has surely reached the stored (millisecond) time.
            asyncio.get_running_loop().call_later(delay + 0.002, self._wake.set)

    async def run(self) -> None:
        """Work until cancelled; jobs then have a few seconds to end, the rest is handed back."""
        try:
            while True:
                self._wake.clear()
                await self._claim()
                await self._pause()
        finally:
            await self._wind_down()

    async def _claim(self) -> None:
        """Start what is due, as far as there is room; an ending job makes room and wakes the loop."""
        free = self._concurrency - len(self._running)
        if free <= 0:
            self._behind = True
            return
        try:
            jobs = await self._documents.claim(
                self._collection, self._index, self._equals, now=self._clock(), lease=self._lease, limit=free
            )
        except Unavailable:
            logger.warning("no jobs of %s: the database does not answer", self._collection.name)
            return
        except Exception as error:
            logger.error("claiming jobs of %s failed: %s", self._collection.name, whereabouts(error))
            return
        self._behind = len(jobs) == free
        for job in jobs:
            task = asyncio.create_task(self._run(job))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a worker of %s failed: %s", self._collection.name, whereabouts(error))

    async def _pause(self) -> None:
        # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the result.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._scan_seconds):
                await self._wake.wait()

    async def _run(self, job: J) -> None:
        """One attempt: work under renewed leases, then store what came out."""
        attempt = asyncio.create_task(self._attempt(job))
        held = job
        try:
            while not attempt.done():
                await asyncio.wait({attempt}, timeout=self._lease.total_seconds() / 3)
                if not attempt.done():
                    held = await self._renew(held)
        except (Conflict, Erased) as cause:
            self._stale("was taken over while it was worked", cause)
            return
        except asyncio.CancelledError:
            attempt.cancel()
            await asyncio.wait({attempt})
            if attempt.cancelled():
                await self._store(replace(held, due_at=self._clock()), held, "later")
                raise
        finally:
            attempt.cancel()
        result, outcome = attempt.result()
        await self._store(result, held, outcome)

    async def _attempt(self, job: J) -> tuple[J, str]:
        """The job to store, and the outcome to count."""
        name = self._collection.name
        attributes = {"job.id": job.id, "job.attempt": job.attempts}
        with (
            METRICS.job_seconds.labels(name).time(),
            span(f"{name} work", parent=job.traceparent, kind="consumer", attributes=attributes) as place,
        ):
            bind(job_id=job.id)
            try:
                result = await self._work(job)
            except Rejected as rejected:
                place.fail(rejected.reason)
                return await self._refuse(job, rejected)
            except Erased:
                return self._later(job, "erased")  # which is not stored: the job is gone by then
            except Unavailable as unavailable:
                place.fail(f"{unavailable.system} unavailable")
                return self._later(job, f"{unavailable.system} unavailable")
            except Exception as error:
                place.fail(type(error).__name__)
                logger.error("a job of %s failed at attempt %d: %s", name, job.attempts, whereabouts(error))
                if self._max_attempts is not None and job.attempts >= self._max_attempts:
                    return await self._refuse(job, Rejected("attempts-exhausted", type(error).__name__))
                return self._later(job, type(error).__name__)
        return (replace(job, due_at=None, last_error=None) if result is None else result), "done"

    async def _refuse(self, job: J, rejected: Rejected) -> tuple[J, str]:
        if self._on_rejected is None:
            return replace(job, due_at=None, last_error=rejected.reason), "rejected"
        try:
            return await self._on_rejected(job, rejected), "rejected"
        except Exception as error:
            logger.error("on_rejected of %s failed: %s", self._collection.name, whereabouts(error))
            return self._later(job, type(error).__name__)

    def _later(self, job: J, reason: str) -> tuple[J, str]:
        return replace(job, due_at=self._clock() + pause_after(job.attempts), last_error=reason), "later"

    async def _renew(self, held: J) -> J:
        """The job under another lease; a database that is away is no reason to stop. Raises `Conflict`."""
        try:
            return await self._put(replace(held, due_at=self._clock() + self._lease), held)
        except Unavailable:
            return held

    async def _store(self, job: J, held: J, outcome: str) -> None:
        try:
            stored = await self._put(job, held)
        except (Conflict, Erased) as cause:
            self._stale("was taken over before its result came", cause)
            return
        except Unavailable:
            # The lease runs out and the job is worked again.
            outcome = "later"
            logger.warning("a result of %s was not stored: the database does not answer", self._collection.name)
        else:
            if self._on_stored is not None:
                self._on_stored(stored)
            if stored.due_at is not None:
                self.nudge(stored.due_at)
        self._count(outcome)

    async def _put(self, job: J, held: J) -> J:
        """Store `job` over `held`, also where a relay has cleared events of `held` since.

        Raises:
            Conflict: the job is somebody else's.
            HandedBack: its input changed; it is to be worked again.
        """
        while True:
            try:
                return await self._documents.put(self._collection, replace(job, version=held.version))
            except Conflict:
                fresh = await self._documents.get(self._collection, held.id)
                if fresh is not None and fresh.due_at is not None and not fresh.attempts:
                    # Whoever changed the input has said when it is due.
                    raise HandedBack(self._collection.name, [held.id]) from None
                if fresh is None or (fresh.attempts, fresh.due_at) != (held.attempts, held.due_at):
                    raise
                if not _same_work(fresh, held):
                    await self._documents.put(self._collection, replace(fresh, due_at=self._clock()))
                    self._wake.set()
                    raise HandedBack(self._collection.name, [held.id]) from None
                job, held = _without_sent(job, held, fresh), fresh

    def _stale(self, what: str, cause: Conflict | Erased) -> None:
        if isinstance(cause, HandedBack | Erased):
            self._count("erased" if isinstance(cause, Erased) else "handed_back")
            return
        self._count("stale")
        logger.warning("a job of %s %s", self._collection.name, what)

    def _count(self, outcome: str) -> None:
        METRICS.jobs.labels(self._collection.name, outcome).inc()

    async def _wind_down(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace_seconds)
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace_seconds)


def _same_work(one: Job, other: Job) -> bool:
    """Whether two states of a job differ in nothing but the events that wait in it."""
    fields = set(one.__struct_fields__) - {"version", *OUTBOX_FIELDS}
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _without_sent(job: J, held: J, fresh: J) -> J:
    """`job`, made from `held`, without the events that `fresh` shows to be sent."""
    before, now, outbox = (getattr(each, "outbox", ()) for each in (held, fresh, job))
    rest = tuple(event for event in outbox if event not in before or event in now)
    return replace(job, outbox=rest, **({} if rest else {"outbox_at": None})) if rest != outbox else job


def pause_after(attempts: int) -> timedelta:
    """How long to wait after that many attempts: 0.5 s doubling to 20 s, ± 20 % so that jobs do not march in step."""
    seconds = min(FIRST_PAUSE_S * 2 ** min(attempts - 1, 10), LONGEST_PAUSE_S)
    return timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing
