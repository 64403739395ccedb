"""What becomes of each record: committed, a dead letter and then committed, or later at the same place.

Handlers say it by how they end: return, `Rejected`, `Unavailable` ("later"), or any other exception, which is tried
3 times and then is a dead letter. What is about an erased user (`refuses`, or `Erased` from a write) is dropped.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from faststream import StreamMessage

from shared import telemetry
from shared.dead_letters import DeadLetters, Undecodable, header_of
from shared.errors import Erased, Rejected, Unavailable
from shared.places import Places, Record, partition_of
from shared.redaction import whereabouts

ATTEMPTS = 3
log = logging.getLogger(__name__)


class UnknownType(Exception):
    """An event type that came with a newer writer: skipped."""


class TryAgain(Exception):
    """An unknown exception that has attempts left."""


Decode = Callable[[bytes], Any]
# Whether a record is dropped unread.
Refuses = Callable[[Record], bool]
Write = Callable[[list[tuple[Any, str | None]]], Awaitable[None]]


def decoded(decode: Decode, value: bytes) -> Any:
    """What `decode` reads.

    Raises:
        Undecodable, UnknownType: every failure of `decode` is the input's.
    """
    try:
        return decode(value)
    except (Undecodable, UnknownType):
        raise
    except Exception as error:
        raise Undecodable(whereabouts(error)) from error


class SingleRecords:
    """Handles one record after the other."""

    def __init__(
        self,
        places: Places,
        dead_letters: DeadLetters,
        decode: Decode,
        handler: Callable[[Any], Awaitable[None]],
        refuses: Refuses = lambda _: False,
    ) -> None:
        self._places = places
        self._dead_letters = dead_letters
        self._decode = decode
        self._handler = handler
        self._refuses = refuses

    async def __call__(self, message: StreamMessage[Record]) -> None:
        """One turn. Raises only on TestKafkaBroker: `Unavailable`, for nothing there delivers again."""
        with self._places.turn():
            await self._settle(message.raw_message)

    async def _settle(self, record: Record) -> None:
        partition = partition_of(record)
        try:
            with _process_span(record) as span:
                outcome = await self._handle(record)
                if outcome == "dead_letter":
                    span.fail(outcome)
        except (Unavailable, TryAgain) as error:
            self._places.ended("later" if isinstance(error, Unavailable) else "retried")
            if self._places.later({partition: record.offset}):
                return
            if isinstance(error, Unavailable):
                raise
            return await self._settle(record)
        await self._places.commit({partition: record.offset + 1})
        self._places.ended(outcome)

    async def _handle(self, record: Record) -> str:
        if record.value is None:
            return "skipped"
        if self._refuses(record):
            return "erased"
        try:
            await self._handler(decoded(self._decode, record.value))
        except UnknownType:
            return "skipped"
        except Erased:
            return "erased"
        except Unavailable as error:
            log.warning("%s waits: %s", record.topic, error)
            raise
        except Exception as error:
            failures = self._places.failed(record)
            if failures < ATTEMPTS and not isinstance(error, Rejected | Undecodable):
                log.warning("%s failed: %s", record.topic, whereabouts(error))
                raise TryAgain from error
            await self._dead_letters.bury(record, error, failures)
            return "dead_letter"
        return "done"


@dataclass(frozen=True)
class Decided:
    """A record with what was decided on it, and the trace that its consequences continue."""

    record: Record
    decision: Any
    traceparent: str | None


class Batches:
    """Decides record by record, then writes once; a write that fails is halved until the guilty one stands alone."""

    def __init__(
        self,
        places: Places,
        dead_letters: DeadLetters,
        decode: Decode,
        decide: Callable[[Any], Any],
        write: Write,
        refuses: Refuses = lambda _: False,
    ) -> None:
        self._places = places
        self._dead_letters = dead_letters
        self._decode = decode
        self._decide = decide
        self._write = write
        self._refuses = refuses
        # Dead letters whose batch is not committed yet: sent once, however often the batch comes again.
        self._buried: set[tuple[int, int]] = set()

    async def __call__(self, message: StreamMessage[Sequence[Record]]) -> None:
        """One turn. Raises only on TestKafkaBroker: `Unavailable`, for nothing there delivers again."""
        with self._places.turn():
            await self._settle(message.raw_message)

    async def _settle(self, records: Sequence[Record]) -> None:
        # Records of one partition come in order, so the first wins in `firsts` and the last in `nexts`.
        firsts = {partition_of(record): record.offset for record in reversed(records)}
        nexts = {partition_of(record): record.offset + 1 for record in records}
        try:
            decided = [one for record in records if (one := await self._decide_one(record)) is not None]
            if decided:
                await self._write_all(decided)
        except Unavailable as error:
            log.warning("%s waits: %s", records[0].topic, error)
            self._places.ended("later", len(records))
            if not self._places.later(firsts):
                raise
            return
        await self._places.commit(nexts)
        self._buried -= {(record.partition, record.offset) for record in records}

    async def _decide_one(self, record: Record) -> Decided | None:
        if record.value is None:
            self._places.ended("skipped")
            return None
        if (record.partition, record.offset) in self._buried:
            return None
        if self._refuses(record):
            self._places.ended("erased")
            return None
        with _process_span(record):
            try:
                decision = self._decide(decoded(self._decode, record.value))
            except UnknownType:
                self._places.ended("skipped")
                return None
            except Unavailable:
                raise
            except Exception as error:
                await self._bury(record, error, 1)
                return None
            return Decided(record, decision, telemetry.current_traceparent())

    async def _write_all(self, decided: Sequence[Decided]) -> None:
        waiting = deque([decided])
        while waiting:
            part = waiting.popleft()
            try:
                with _write_span(part):
                    await self._write([(one.decision, one.traceparent) for one in part])
            except Unavailable:
                raise
            except Exception as error:
                rest = self._without_erased(part) if isinstance(error, Erased) else None
                waiting.extendleft(await self._narrowed(part, error) if rest is None else rest)
            else:
                self._places.ended("done", len(part))

    def _without_erased(self, part: Sequence[Decided]) -> list[Sequence[Decided]] | None:
        """What is left to write, since somebody was erased while it was written; None when it was none of these."""
        rest = [one for one in part if not self._refuses(one.record)]
        if len(rest) == len(part):
            return None
        self._places.ended("erased", len(part) - len(rest))
        return [rest] if rest else []

    async def _narrowed(self, part: Sequence[Decided], error: Exception) -> list[Sequence[Decided]]:
        """What to write next, last first: both halves, or the lone record again, or nothing once it is buried."""
        if len(part) > 1:
            log.warning("a write of %d records failed and is halved: %s", len(part), whereabouts(error))
            middle = len(part) // 2
            return [part[middle:], part[:middle]]
        record = part[0].record
        failures = self._places.failed(record)
        if failures < ATTEMPTS and not isinstance(error, Rejected):
            return [part]
        await self._bury(record, error, failures)
        return []

    async def _bury(self, record: Record, error: Exception, attempts: int) -> None:
        await self._dead_letters.bury(record, error, attempts)
        self._buried.add((record.partition, record.offset))
        self._places.ended("dead_letter")


def _process_span(record: Record) -> telemetry.span:
    return telemetry.span(
        f"{record.topic} process",
        parent=header_of(record, "traceparent"),
        kind="consumer",
        attributes={"messaging.kafka.partition": record.partition, "messaging.kafka.offset": record.offset},
    )


def _write_span(part: Sequence[Decided]) -> telemetry.span:
    """The joint write: a child of the first record that is sampled, linked to the others (128 links at most)."""
    causes = [one.traceparent for one in part if one.traceparent is not None]
    parent = next((cause for cause in causes if cause.endswith("01")), causes[0] if causes else None)
    links = [cause for cause in causes if cause != parent and cause.endswith("01")][:128]
    attributes = {"messaging.batch.message_count": len(part)}
    return telemetry.span(f"{part[0].record.topic} write", parent=parent, links=links, attributes=attributes)
