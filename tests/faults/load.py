"""Phones that send batches all the time, some twice and out of order, and follow every receipt to its end."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from tests.faults.door import Door
from tests.faults.ledger import Batch, Ledger

SENDERS = 8
FOLLOWERS = 4
SAMPLES = 160
# Each sender rests so long between two batches: about 25 batches a second while all is well.
REST_S = (0.15, 0.45)
SENT_TWICE = 0.10
# Batches leave in any order within a window of so many.
SHUFFLED = 16
RECENT = 64
POLL_S = 0.03
# A phone goes on for as long as it takes; this only ends a run that will never end.
PATIENCE_S = 300.0


@dataclass
class Mark:
    """A fault in the load: when it hit and was over (`time.monotonic`), and what was under way when it hit.

    `in_flight`: requests without an answer; `waiting`: batches acknowledged whose receipt was not seen yet.
    `recovered_at`: when, after it was over, the first receipt was seen of a batch that was sent after it had hit.
    """

    name: str
    hit_at: float = 0.0
    in_flight: int = 0
    waiting: int = 0
    healed_at: float = 0.0
    recovered_at: float | None = None
    note: str = ""
    ends_processes: bool = False


@dataclass
class Load:
    """The phones of `users`. `every_hundredth` is called once per hundred batches."""

    door: Door
    ledger: Ledger
    rng: Random
    users: Sequence[str]
    every_hundredth: Callable[[], None]
    stored_at: list[float] = field(default_factory=list[float])
    started_at: float = 0.0
    ended_at: float = 0.0
    _marks: list[Mark] = field(default_factory=list[Mark])
    _pressed: asyncio.Event = field(default_factory=asyncio.Event)
    _to_follow: "asyncio.Queue[Batch]" = field(default_factory=lambda: asyncio.Queue())
    _window: list[Batch] = field(default_factory=list[Batch])
    _recent: list[Batch] = field(default_factory=list[Batch])
    _turn: int = 0
    _followed: int = 0
    _acknowledged: int = 0
    _ending: bool = False
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])

    def start(self) -> None:
        """Begin to send and to follow."""
        self.started_at = time.monotonic()
        self._tasks = [asyncio.create_task(self._send_on(), name="sender") for _ in range(SENDERS)]
        self._tasks += [asyncio.create_task(self._follow_on(), name="follower") for _ in range(FOLLOWERS)]

    @property
    def waiting(self) -> int:
        """Batches acknowledged whose receipt was not seen yet."""
        return self._acknowledged - self._followed

    def check(self) -> None:
        """Raise what ended a sender or follower early."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def press(self) -> None:
        """Let all resting senders send at once."""
        pressed, self._pressed = self._pressed, asyncio.Event()
        pressed.set()

    def watch(self, mark: Mark) -> None:
        """Note when the load recovers from that fault."""
        self._marks.append(mark)

    async def finish(self, quiet_s: float) -> None:
        """Send no more, and wait until all is acknowledged and followed, or nothing has moved for `quiet_s`."""
        self._ending = True
        self.press()
        senders, followers = self._tasks[:SENDERS], self._tasks[SENDERS:]
        await asyncio.gather(*senders)
        self.ended_at = time.monotonic()
        moved, since = self._followed, time.monotonic()
        while self.waiting and time.monotonic() - since < quiet_s:
            await asyncio.sleep(POLL_S)
            if self._followed != moved:
                moved, since = self._followed, time.monotonic()
        for follower in followers:
            follower.cancel()
        await asyncio.wait(followers)

    async def send(self, batch: Batch) -> None:
        """Post until it is acknowledged, then hand it to the followers."""
        batch.sent_at = time.monotonic()
        answer = await self.door.post_batch(batch.user_id, batch.key, batch.body(), patience_s=PATIENCE_S)
        self.ledger.acknowledge(batch, answer["receipt_id"])
        self._acknowledged += 1
        self._to_follow.put_nowait(batch)

    async def _send_on(self) -> None:
        while not self._ending:
            batch = self._next()
            await self.send(batch)
            if batch.number % 100 == 0:
                self.every_hundredth()
            try:
                await asyncio.wait_for(self._pressed.wait(), self.rng.uniform(*REST_S))
            except TimeoutError:
                continue

    def _next(self) -> Batch:
        if self._recent and self.rng.random() < SENT_TWICE:
            return self.ledger.copy(self.rng.choice(self._recent), self.rng)
        while len(self._window) < SHUFFLED:
            self._turn += 1
            user_id = self.users[self._turn % len(self.users)]
            self._window.append(self.ledger.fresh(user_id, self.rng, SAMPLES))
        batch = self._window.pop(self.rng.randrange(len(self._window)))
        self._recent = [*self._recent[-RECENT:], batch]
        return batch

    async def _follow_on(self) -> None:
        while True:
            batch = await self._to_follow.get()
            path = f"/v1/receipts/{batch.receipt_id}"
            receipt = await self.door.get(path, batch.user_id, patience_s=PATIENCE_S)
            if receipt["state"] == "queued":
                # One that never comes must not hide the others.
                self._to_follow.put_nowait(batch)
                await asyncio.sleep(POLL_S)
            else:
                batch.receipt = receipt
                self._followed += 1
                self._seen(batch)

    def _seen(self, batch: Batch) -> None:
        now = time.monotonic()
        self.stored_at.append(now)
        for mark in self._marks:
            if mark.recovered_at is None and mark.healed_at and batch.sent_at > mark.hit_at:
                mark.recovered_at = now

    def longest_pause(self, begin: float, end: float) -> float:
        """The longest time between two receipts seen in that stretch, its ends included."""
        moments = [begin, *(at for at in self.stored_at if begin < at < end), end]
        return max(late - early for early, late in pairwise(moments))
