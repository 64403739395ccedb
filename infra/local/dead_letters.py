"""A dead letter as operators see it, and which of them they mean: nothing here talks to Kafka.

A dead letter's headers and bytes may come from anybody, so every text is made printable and short, and only the name
of its own topic decides where it is sent again.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from shared import spans
from shared.events.gateway import BatchSubmitted

SUFFIX = ".dlq"
UNKNOWN = "?"
# Longer texts in headers say nothing more to a person, and may be meant to flood a terminal.
TEXT_CHARS = 200
SHOWN_BYTES = 64 * 1024
SHOWN_RAW_BYTES = 256
SHOWN_SERIES = 50
PLACE = re.compile(r"([a-zA-Z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")
AGO = re.compile(r"([0-9]{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Header = tuple[str, bytes | None]


@dataclass(frozen=True, order=True)
class Place:
    """Where a record lies; written `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Letter:
    """A dead letter. `source` and `service` follow from its topic's name; `origin`, `attempts` and all texts are what
    its headers say, made printable, None or "?" where they say nothing usable. `died_at` is the broker's time.
    """

    place: Place
    died_at: datetime
    key: bytes | None
    value: bytes
    origin: Place | None
    reason: str
    error: str
    text: str
    attempts: int | None
    traceparent: str | None
    type: str
    event_id: str
    user_id: str
    receipt_id: str

    @property
    def source(self) -> str:
        """The topic it was read from, and is sent to again."""
        return source_and_service(self.place.topic)[0]

    @property
    def service(self) -> str:
        """Who could not handle it."""
        return source_and_service(self.place.topic)[1]

    @property
    def ids(self) -> frozenset[str]:
        """Everything it may be asked for by: its place, its origin's, and the ids inside."""
        named = {str(self.place), self.event_id, self.receipt_id, str(self.origin) if self.origin else ""}
        return frozenset(named - {"", UNKNOWN})


@dataclass(frozen=True)
class Filter:
    """Which dead letters are meant; what is None lets all pass. `since` ≤ when it died < `until`."""

    topic: str | None = None
    service: str | None = None
    type: str | None = None
    id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether it lets everything pass."""
        return self == Filter()

    def may_hold(self, topic: str) -> bool:
        """Whether a dead-letter topic can hold any."""
        source, service = source_and_service(topic)
        at = parsed_place(self.id or "")
        here = at is None or at.topic in (topic, source)
        return self.topic in (None, source, topic) and self.service in (None, service) and here

    def takes(self, letter: Letter) -> bool:
        """Whether this one is meant."""
        return (
            self.may_hold(letter.place.topic)
            and self.type in (None, letter.type)
            and self.reason in (None, letter.reason)
            and (self.id is None or self.id in letter.ids)
            and (self.since is None or letter.died_at >= self.since)
            and (self.until is None or letter.died_at < self.until)
        )


def is_dead_letters(topic: str) -> bool:
    """Whether a topic of that name holds dead letters."""
    return topic.endswith(SUFFIX) and "." in topic.removesuffix(SUFFIX)


def source_and_service(topic: str) -> tuple[str, str]:
    """What `<source>.<service>.dlq` is made of."""
    source, _, service = topic.removesuffix(SUFFIX).rpartition(".")
    return source, service


def parsed_place(text: str) -> Place | None:
    """The place that `topic/partition/offset` names."""
    found = PLACE.fullmatch(text)
    return None if found is None else Place(found[1], int(found[2]), int(found[3]))


def parsed_time(text: str, now: datetime) -> datetime:
    """A date, an RFC 3339 time, or how long ago (`90s`, `15m`, `2h`, `3d`); without an offset it is UTC.

    Raises:
        ValueError: it is none of these.
    """
    if (ago := AGO.fullmatch(text)) is not None:
        return now - timedelta(seconds=int(ago[1]) * SECONDS[ago[2]])
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def letter_of(
    place: Place, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Sequence[Header]
) -> Letter:
    """What a record of a dead-letter topic says. Never fails, whatever its bytes are."""
    said = _texts(headers)
    head = _head(value or b"")
    traceparent = said.get("traceparent")
    return Letter(
        place=place,
        died_at=datetime.fromtimestamp(max(0, timestamp_ms) / 1000, UTC),
        key=key,
        value=value or b"",
        origin=_origin(said),
        reason=said.get("reason", UNKNOWN),
        error=said.get("error", UNKNOWN),
        text=said.get("text", ""),
        attempts=_number(said.get("attempts")),
        traceparent=traceparent if spans.parsed(traceparent) is not None else None,
        type=printable(head.type) or UNKNOWN,
        event_id=printable(head.event_id),
        user_id=printable(head.user_id),
        receipt_id=printable(head.receipt_id),
    )


def printable(text: str, most: int = TEXT_CHARS) -> str:
    """`text` without what moves a terminal's cursor or hides, cut to `most` characters."""
    shown = "".join(char if char.isprintable() else "�" for char in text[: most + 1])
    return shown if len(shown) <= most else shown[:most] + "…"


def _texts(headers: Sequence[Header]) -> dict[str, str]:
    """The headers as printable text; of several of one name the first counts, as for our readers."""
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name, printable((value or b"")[: 4 * TEXT_CHARS].decode(errors="replace")))
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 18 else None


def _origin(said: dict[str, str]) -> Place | None:
    partition, offset = _number(said.get("origin-partition")), _number(said.get("origin-offset"))
    if partition is None or offset is None:
        return None
    return Place(said.get("origin-topic", UNKNOWN), partition, offset)


class _Head(msgspec.Struct):
    """What our events have in common, as far as they have it."""

    type: str = ""
    event_id: str = ""
    user_id: str = ""
    receipt_id: str = ""


_json_head = msgspec.json.Decoder(_Head)
_packed_head = msgspec.msgpack.Decoder(_Head)
_batch = msgspec.msgpack.Decoder(BatchSubmitted)


def _head(value: bytes) -> _Head:
    try:
        return (_json_head if value[:1] == b"{" else _packed_head).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Head()


def payload_shown(value: bytes) -> str:
    """The payload for a person: a batch summarised without its values, JSON indented, anything else as bytes."""
    try:
        shown = json.dumps(_summary(_batch.decode(value)), indent=2, ensure_ascii=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            shown = json.dumps(json.loads(value), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            shown = f"{len(value)} bytes that do not decode: {value[:SHOWN_RAW_BYTES]!r}"
    lines = (printable(line, SHOWN_BYTES) for line in shown[:SHOWN_BYTES].split("\n"))
    cut = "\n… (--raw FILE writes all of it)" if len(shown) > SHOWN_BYTES else ""
    return "\n".join(lines) + cut


def _summary(batch: BatchSubmitted) -> dict[str, Any]:
    """What a batch is, without a value of it."""
    series = [
        {"metric": one.metric, "unit": one.unit, "samples": len(one.start_us) // 8}
        for one in batch.series[:SHOWN_SERIES]
    ]
    return {
        "type": "batch.submitted",
        "event_id": batch.event_id,
        "occurred_at": batch.occurred_at.isoformat(),
        "user_id": batch.user_id,
        "receipt_id": batch.receipt_id,
        "device": f"{batch.device_id} ({batch.device_kind})",
        "app": batch.app,
        "zone": batch.zone,
        "received": batch.received,
        "series": series,
        "more_series": max(0, len(batch.series) - SHOWN_SERIES),
        "sessions": len(batch.sessions),
        "deletions": len(batch.deletions),
        "refused": len(batch.refused),
        "object": batch.object.key if batch.object is not None else None,
    }
