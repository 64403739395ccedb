"""Sends what is due: each endpoint in a lane of its own, so that one that is dead or slow holds up no other."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

from msgspec.structs import replace

from services.webhooks.deliveries import Deliveries
from services.webhooks.health import Health
from services.webhooks.lanes import Lane
from services.webhooks.public import ENDPOINT_TEST
from services.webhooks.records import Delivery, Endpoint
from services.webhooks.sending import BROKEN, GONE, UNSIGNED, Checked, Sender
from shared.clock import Clock
from shared.errors import Erased, Unavailable
from shared.redaction import whereabouts
from shared.telemetry import METRICS, bind, span

SCAN_S = 1.0
# Lines whose process died in between are called again that often.
CALL_EVERY_S = 5.0
# Pauses are at least so many times as long as looking at all lines took.
CALL_PAUSE = 9
GRACE_S = 3.0
# A lane takes this part of the free places at most, so that lanes that hang leave some to all others.
SHARE = 4
# A partner's lanes together take this part of what the other partners leave at most, or one could hold all places with
# receivers that answer slowly.
PARTNER_SHARE = 2
OURS = (UNSIGNED.error, BROKEN.error)
NAME = "deliveries"
OUTCOMES = {"delivered": "delivered", "pending": "failed", "failed": "given_up", "cancelled": "cancelled"}
log = logging.getLogger(__name__)


class Dispatcher:
    """Claims due deliveries lane by lane and runs up to `concurrency` of them at a time in this process.

    A claimed delivery is tried at once, within its lease; what its process does not live to store is due again when
    the lease is over.
    """

    def __init__(
        self,
        queue: Deliveries,
        endpoint_of: Callable[[str], Awaitable[Endpoint | None]],
        sender: Sender,
        health: Health,
        clock: Clock,
        *,
        concurrency: int,
        scan_seconds: float = SCAN_S,
    ) -> None:
        self._queue = queue
        self._endpoint_of = endpoint_of
        self._sender = sender
        self._health = health
        self._clock = clock
        self._free = concurrency
        self._held: Counter[str] = Counter()
        # Lanes whose partner held too much, in the order in which they came.
        self._crowded: dict[str, dict[str, None]] = {}
        self._scan_seconds = scan_seconds
        self._lanes: dict[str, Lane] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._scanned = -scan_seconds
        self._woken: set[str] = set()
        self._wake = asyncio.Event()
        self._turning: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()
        queue.listener = self.wake

    def wake(self, endpoint_id: str) -> None:
        """Something is due for this endpoint."""
        self._woken.add(endpoint_id)
        self._wake.set()

    def nudge(self) -> None:
        """Something may have become due, whoever's."""
        self._scanned = -self._scan_seconds
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then has a few seconds to end, the rest is handed back."""
        calling = asyncio.create_task(self._call_lines())
        try:
            while True:
                self._wake.clear()
                try:
                    if (now := time.monotonic()) - self._scanned >= self._scan_seconds:
                        self._scanned = now
                        await self._scan()
                    await self._turns()
                except Unavailable:
                    log.warning("no deliveries: the database does not answer")
                except Exception as error:
                    log.error("looking for deliveries failed: %s", whereabouts(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._scan_seconds):
                        await self._wake.wait()
        finally:
            calling.cancel()
            await self._wind_down()

    async def _call_lines(self) -> None:
        """Look at all lines now and then, beside the sending: there may be a hundred thousand."""
        while True:
            began = time.monotonic()
            try:
                await self._queue.call_all()
            except Unavailable:
                log.warning("no lines were looked at: the database does not answer")
            except Exception as error:
                log.error("looking at lines failed: %s", whereabouts(error))
            await asyncio.sleep(max(CALL_EVERY_S, CALL_PAUSE * (time.monotonic() - began)))

    async def _scan(self) -> None:
        now = self._clock()
        soon = now + timedelta(seconds=self._scan_seconds)
        async for endpoint_id, due_at in self._queue.lanes():
            if due_at <= now:
                self._woken.add(endpoint_id)
            elif due_at < soon:
                self._wake_in((due_at - now).total_seconds(), endpoint_id)
        self._lanes = {name: lane for name, lane in self._lanes.items() if not lane.quiet(now.timestamp())}

    def _wake_in(self, seconds: float, endpoint_id: str) -> None:
        """Look at the lane then, or earlier: one timer a lane, the rest is found by scanning."""
        # Two milliseconds more, so that the clock has surely reached the stored (millisecond) time.
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds + 0.002
        known = self._timers.get(endpoint_id)
        if known is not None and not known.cancelled() and loop.time() < known.when() <= at:
            return
        if known is not None:
            known.cancel()
        self._timers[endpoint_id] = loop.call_at(at, self._timed, endpoint_id)

    def _timed(self, endpoint_id: str) -> None:
        self._timers.pop(endpoint_id, None)
        self.wake(endpoint_id)

    async def _turns(self) -> None:
        woken, self._woken = self._woken, set()
        if not woken or self._free <= 0:
            self._woken |= woken  # whoever ends wakes them all
            return
        # They go on where this is cancelled: what a turn has claimed would wait until its lease is over.
        self._turning = [asyncio.create_task(self._turn(one)) for one in woken]
        await asyncio.wait(self._turning)
        failed = [error for turn in self._turning if (error := turn.exception()) is not None]
        if failed:
            raise failed[0]

    async def _turn(self, endpoint_id: str) -> None:
        """Start as much as the endpoint's lane has room for."""
        endpoint = await self._endpoint_of(endpoint_id)
        rate = endpoint.rate_per_s if endpoint is not None else None
        lane = self._lanes.setdefault(endpoint_id, Lane())
        now = self._clock().timestamp()
        partner = endpoint.partner_id if endpoint is not None else ""
        left = self._left(partner)
        if left <= 0:
            self._crowded.setdefault(partner, {})[endpoint_id] = None
            return
        room = min(lane.room(now, rate), -(-self._free // SHARE), left)
        if room <= 0:
            if (seconds := lane.wait(now, rate)) is not None:
                self._wake_in(seconds, endpoint_id)
            return
        # Counted before anything is awaited: another lane's turn runs meanwhile.
        lane.started(room)
        self._hold(partner, room)
        begun = 0
        try:
            claimed = await self._claim(endpoint, endpoint_id, room)
            checked = await self._sender.check(endpoint, claimed) if claimed else Checked(endpoint)
            begun = len(claimed)
        finally:
            self._hold(partner, begun - room)
            lane.unused(room - begun)
        if claimed:
            lane.begun(now := self._clock().timestamp())
        for delivery in claimed:
            task = asyncio.create_task(self._attempt(delivery, checked, lane))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, partner))
        if begun == room and (seconds := lane.wait(now, rate)) is not None:
            self._wake_in(seconds, endpoint_id)  # more may wait for the rate alone

    async def _claim(self, endpoint: Endpoint | None, endpoint_id: str, room: int) -> list[Delivery]:
        if endpoint is None or endpoint.state != "paused":
            return await self._queue.claim(endpoint_id, room)
        # All waits for its return but a test, which is due before anything else.
        first = await self._queue.first_due(endpoint_id)
        if first is None or first.message_type != ENDPOINT_TEST:
            return []
        tests: list[Delivery] = []
        for one in await self._queue.claim(endpoint_id, 1):
            if one.message_type == ENDPOINT_TEST:
                tests.append(one)
            else:
                await self._queue.keep(replace(one, due_at=self._clock()))
        return tests

    def _left(self, partner_id: str) -> int:
        """How many more places the partner's lanes may take."""
        return -(-(self._free - (PARTNER_SHARE - 1) * self._held[partner_id]) // PARTNER_SHARE)

    def _hold(self, partner_id: str, count: int) -> None:
        """So many places more are the partner's; fewer than 0: free."""
        self._free -= count
        self._held[partner_id] += count
        if not self._held[partner_id]:
            del self._held[partner_id]

    def _ended(self, partner_id: str, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._hold(partner_id, -1)
        # One place, so one lane; what that leaves is found by scanning.
        if crowded := self._crowded.pop(partner_id, None):
            self._woken.add(next(iter(crowded)))
            crowded.pop(next(iter(crowded)))
            if crowded:
                self._crowded[partner_id] = crowded
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a delivery failed: %s", whereabouts(error))

    async def _attempt(self, delivery: Delivery, checked: Checked, lane: Lane) -> None:
        """One try, then store what came of it. Raises nothing: an outcome that is not stored comes again."""
        succeeded: bool | None = None
        attributes = {"job.id": delivery.id, "job.attempt": delivery.tries + 1}
        try:
            with span(f"{NAME} work", parent=delivery.traceparent, kind="consumer", attributes=attributes):
                bind(job_id=delivery.id)
                result = await self._sender.send(delivery, checked)
            if result.tries > delivery.tries:
                succeeded = result.state == "delivered"
            await self._keep(delivery, result, checked.endpoint)
        except asyncio.CancelledError:
            with suppress(Exception):
                await self._queue.keep(replace(delivery, due_at=self._clock()))
            raise
        except Erased:
            METRICS.jobs.labels(NAME, "erased").inc()
        except Unavailable:
            METRICS.jobs.labels(NAME, "later").inc()
            log.warning("an outcome of a delivery was not stored: the database does not answer")
        finally:
            lane.ended(succeeded, self._clock().timestamp())
            self._woken.add(delivery.endpoint_id)

    async def _keep(self, delivery: Delivery, result: Delivery, endpoint: Endpoint | None) -> None:
        kept = await self._queue.keep(result)
        METRICS.jobs.labels(NAME, "done" if result.due_at is None else "later").inc()
        METRICS.deliveries.labels(OUTCOMES[result.state]).inc()
        if delivery.line is not None and result.line is None:
            await self._queue.next_in_line(delivery)
        if result.due_at is not None and (seconds := (result.due_at - self._clock()).total_seconds()) < 60:
            self._wake_in(max(0.0, seconds), delivery.endpoint_id)
        if endpoint is not None and kept and result.tries > delivery.tries:
            await self._judge(endpoint, result)

    async def _judge(self, endpoint: Endpoint, tried: Delivery) -> None:
        """What the try says of the endpoint. What we could not do is none of its faults, a test is no traffic."""
        last = tried.history[-1]
        if last.error is None:
            await self._health.succeeded(endpoint)
        elif last.status == GONE or (tried.message_type != ENDPOINT_TEST and last.error not in OURS):
            await self._health.failed(endpoint, gone=last.status == GONE)

    async def _wind_down(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*self._turning, return_exceptions=True)
                if self._running:
                    await asyncio.wait(self._running)
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_S)
