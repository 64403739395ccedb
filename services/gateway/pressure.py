"""Whether to take more: how far the readers of what was accepted are behind, and how much disk is left.

Looked at every second, beside the requests. What Kafka said last holds for 10 s; when it says nothing for longer,
nobody is turned away on its account, because publishing itself then fails. A disk that cannot be seen counts as full.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndTimestamp

from shared.errors import Problem
from shared.metrics import METRICS
from shared.redaction import whereabouts
from shared.topics import LOG_RETENTION_MS, Topic

Places = dict[TopicPartition, int]
Moments = dict[TopicPartition, OffsetAndTimestamp | None]
logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ANSWER_S = 3.0
HOLDS_S = 10.0
# Half of what the topic keeps: the other half is for those who put the reader right.
OLDEST_MS = LOG_RETENTION_MS // 2
RETRY_AFTER_S = {"behind": 5, "disk": 30}
DETAILS = {
    "behind": "More was sent than could be stored so far.",
    "disk": "The server's disk is nearly full; its operator must make room.",
}


@dataclass(frozen=True)
class Backlog:
    """What a group has yet to read of a topic: how many records, and whether one is older than asked about."""

    records: int
    too_old: bool


class Offsets(Protocol):
    """What Kafka knows of groups and topics."""

    async def backlog(self, topic: Topic, group: str, older_than_ms: int) -> Backlog:
        """What `group` has yet to read. Raises KafkaError, OSError or TimeoutError."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


@dataclass(frozen=True)
class Limits:
    """`readers`: the group of each topic and the most records it may be behind; `disk_path` "": not looked at."""

    readers: Mapping[Topic, tuple[str, int]] = field(default_factory=dict[Topic, tuple[str, int]])
    disk_path: str = ""
    min_free_bytes: int = 0


class Pressure:
    """The latest looks, and what follows from them."""

    def __init__(self, limits: Limits, offsets: Offsets | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._offsets = offsets
        self._clock = clock
        self._behind: dict[str, tuple[bool, float]] = {}
        self._disk_full = False
        self._said: dict[str, bool] = {}

    def admit(self, topic: Topic) -> None:
        """Let a request through whose event goes to `topic`, or raise Problem(503, "overloaded")."""
        reason = self._reason(topic)
        if reason is None:
            return
        METRICS.turned_away.labels(topic.name, reason).inc()
        raise Problem(
            503,
            "overloaded",
            f"{DETAILS[reason]} Nothing of this request was taken: send it again, under the same Idempotency-Key, "
            "after the time in Retry-After.",
            headers={"Retry-After": str(RETRY_AFTER_S[reason])},
            reason=reason,
        )

    def _reason(self, topic: Topic) -> str | None:
        if self._disk_full:
            return "disk"
        behind, seen_at = self._behind.get(topic.name, (False, 0.0))
        return "behind" if behind and self._clock() - seen_at <= HOLDS_S else None

    async def watch(self) -> None:
        """Look until cancelled."""
        try:
            await asyncio.gather(_ever(self.look_at_disk), _ever(self.look_at_readers))
        finally:
            if self._offsets is not None:
                await self._offsets.close()

    async def look_at_disk(self) -> None:
        """See how much room there is."""
        if not self._limits.disk_path:
            return
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._limits.disk_path)).free
        except OSError as error:
            free = 0
            self._say("unseen", True, f"{self._limits.disk_path} cannot be looked at: {type(error).__name__}")
        else:
            self._say("unseen", False, f"{self._limits.disk_path} can be looked at again")
        METRICS.disk_free_bytes.set(free)
        self._disk_full = free < self._limits.min_free_bytes
        told = f"{free} bytes are free, {self._limits.min_free_bytes} are wanted"
        self._say("disk", self._disk_full, told)

    async def look_at_readers(self) -> None:
        """See how far each reader is behind."""
        if self._offsets is None:
            return
        for topic, (group, most) in self._limits.readers.items():
            try:
                async with asyncio.timeout(ANSWER_S):
                    found = await self._offsets.backlog(topic, group, OLDEST_MS)
            except (KafkaError, OSError, TimeoutError) as error:
                # No warning: so it is at every start, and who publishes to a Kafka that is away says so.
                self._say(f"{topic.name} unseen", True, f"{group} is not known: {type(error).__name__}", logging.INFO)
                await self._offsets.close()
                continue
            self._say(f"{topic.name} unseen", False, f"{group} is known again")
            METRICS.backlog.labels(topic.name).set(found.records)
            behind = found.too_old or found.records > most
            self._behind[topic.name] = (behind, self._clock())
            told = f"{group} is {found.records} records behind, {most} are allowed"
            self._say(topic.name, behind, told + (", the oldest is too old" if found.too_old else ""))

    def _say(self, what: str, bad: bool, text: str, level: int = logging.WARNING) -> None:
        """Log it when it changed, what is good again as information."""
        if self._said.get(what, False) != bad:
            self._said[what] = bad
            logger.log(level if bad else logging.INFO, "%s", text)


async def _ever(look: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await look()
        except Exception as error:
            # A defect must not end the looking; what was seen last runs out by itself.
            logger.error("a look failed: %s", whereabouts(error))
        await asyncio.sleep(LOOK_EVERY_S)


class KafkaOffsets:
    """The real one. It connects when first asked, and again after `close`."""

    def __init__(
        self,
        servers: list[str],
        now_ms: Callable[[], float] = lambda: time.time() * 1000,
        access: Mapping[str, Any] | None = None,
    ) -> None:
        """`access`: how to get into Kafka, as arguments of aiokafka's clients."""
        self._servers = servers
        self._access = dict(access or {})
        self._now_ms = now_ms
        self._clients: tuple[AIOKafkaAdminClient, AIOKafkaConsumer] | None = None

    async def backlog(self, topic: Topic, group: str, older_than_ms: int) -> Backlog:
        """As in the protocol."""
        admin, consumer = await self._connected()
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        committed = await admin.list_consumer_group_offsets(group, partitions=partitions)
        places = {one: found.offset for one, found in committed.items() if found.offset >= 0}
        ends = cast(Places, await consumer.end_offsets(partitions))
        unread = [one for one in partitions if places.get(one, 0) < ends[one]]
        if not unread:
            return Backlog(0, too_old=False)
        # Where nothing was committed yet, reading begins with the first record there is; so it does where that one
        # lies beyond the place committed, because the topic no longer keeps what was there.
        firsts = cast(Places, await consumer.beginning_offsets(unread))
        at = {one: max(places.get(one, 0), firsts[one]) for one in unread}
        since = int(self._now_ms()) - older_than_ms
        young = cast(Moments, await consumer.offsets_for_times({one: since for one in unread}))
        young_at = {one: ends[one] if (first := young.get(one)) is None else first.offset for one in unread}
        return Backlog(
            sum(ends[one] - at[one] for one in unread),
            too_old=any(at[one] < min(young_at[one], ends[one]) for one in unread),
        )

    async def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        if self._clients is None:
            servers = ",".join(self._servers)
            timeout_ms = int(ANSWER_S * 1000)
            admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=timeout_ms, **self._access)
            consumer = AIOKafkaConsumer(bootstrap_servers=servers, request_timeout_ms=timeout_ms, **self._access)
            try:
                await admin.start()
                await consumer.start()
            except BaseException:
                await _closed((admin.close, consumer.stop))
                raise
            self._clients = admin, consumer
        return self._clients

    async def close(self) -> None:
        """As in the protocol."""
        if self._clients is not None:
            (admin, consumer), self._clients = self._clients, None
            await _closed((admin.close, consumer.stop))


async def _closed(closing: Iterable[Callable[[], Awaitable[None]]]) -> None:
    for close in closing:
        try:
            await close()
        except (KafkaError, OSError):
            continue
        except asyncio.CancelledError:
            # With the broker gone, aiokafka lets the CancelledError of a task of its own escape.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
