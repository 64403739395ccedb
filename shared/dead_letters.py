"""Dead letters: the original bytes and key, with where they came from and why they could not be handled."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from shared.clock import utc_now
from shared.errors import Erased, Rejected, Unavailable
from shared.places import Record
from shared.redaction import whereabouts
from shared.topics import Topic

log = logging.getLogger(__name__)


class Undecodable(Exception):
    """The bytes are no event of this topic; the text says where, never what stood there."""


@dataclass(frozen=True)
class DeadLetterCause:
    """Why a record became a dead letter.

    `error` is the exception's class, `reason` a stable code ("undecodable", "failed" or the `Rejected` one's own),
    `detail` what `Rejected` said, for people, `text` where it happened, without personal data.
    """

    topic: str
    partition: int
    offset: int
    service: str
    error: str
    reason: str
    detail: str
    text: str
    attempts: int


OnDeadLetter = Callable[[bytes, DeadLetterCause], Awaitable[None]]


class Send(Protocol):
    """Publish raw bytes; returns after the broker's ack."""

    async def __call__(
        self, topic_name: str, value: bytes, key: bytes | None, headers: dict[str, str], traceparent: str | None
    ) -> None:
        """Send one record."""
        ...


class DeadLetters:
    """The dead letters of one service on one topic."""

    def __init__(self, topic: Topic, service: str, send: Send, on_dead_letter: OnDeadLetter | None) -> None:
        self._topic = topic
        self._service = service
        self._send = send
        self._on_dead_letter = on_dead_letter

    async def bury(self, record: Record, error: Exception, attempts: int) -> None:
        """Tell the subscriber's `on_dead_letter`, then publish; the caller commits.

        Raises:
            Unavailable: the database or the broker does not answer; the record must come again.
        """
        cause = _cause(record, self._service, error, attempts)
        place = f"{cause.topic}-{cause.partition}@{cause.offset}"
        log.error("dead letter %s for %s: %s, %s", place, self._service, cause.reason, cause.text)
        value = record.value or b""
        if self._on_dead_letter is not None:
            try:
                await self._on_dead_letter(value, cause)
            except Unavailable:
                raise
            except Erased:
                return  # of a user who was erased this very moment nothing is kept
            except Exception as second:
                log.error("on_dead_letter of %s failed: %s", place, whereabouts(second))
        headers = {
            "origin-topic": cause.topic,
            "origin-partition": str(cause.partition),
            "origin-offset": str(cause.offset),
            "service": self._service,
            "group": self._topic.group(self._service),
            "error": cause.error,
            "reason": cause.reason,
            "text": cause.text,
            "attempts": str(attempts),
            "failed-at": utc_now().isoformat(),
        }
        await self._send(
            self._topic.dead_letters(self._service), value, record.key, headers, header_of(record, "traceparent")
        )


def header_of(record: Record, name: str) -> str | None:
    """A header's text; None where it is missing or not UTF-8."""
    for key, value in record.headers:
        if key == name:
            try:
                return (value or b"").decode() or None
            except UnicodeDecodeError:
                return None
    return None


def _cause(record: Record, service: str, error: Exception, attempts: int) -> DeadLetterCause:
    reason, detail, text = "failed", "", whereabouts(error)
    if isinstance(error, Rejected):
        reason, detail, text = error.reason, error.detail, error.reason
    elif isinstance(error, Undecodable):
        reason, text = "undecodable", str(error)
    return DeadLetterCause(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        service=service,
        error=type(error).__name__,
        reason=reason,
        detail=detail,
        text=text,
        attempts=attempts,
    )
