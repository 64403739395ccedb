"""A phone's batch: from JSON to packed columns. Only a broken envelope is refused; bad records travel as (index, code).

What a record means (ranges, units, duplicates, unknown metrics, an end before its start) is ingest's to say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

import msgspec

from services.gateway.deletions import Deletion, packed_deletion
from services.gateway.samples import Sample, series_keys, series_of
from services.gateway.sessions import Session, packed_session, points_of
from shared.errors import Problem
from shared.events.gateway import BatchSubmitted, RefusedRecord

MAX_RECORDS = 10_000
# Stages and stream points of all its sessions together.
MAX_POINTS = 100_000
# There are about 50 canonical metrics; each, in each unit, costs a set of columns.
MAX_SERIES = 100
# A field's name may be as long as the body.
MAX_TOLD = 200
INVALID_RECORD = "invalid-record"
BAD_TIME = "bad-time"
# What msgspec's message on a record begins or ends with, and the code that says so.
TOLD_BY_START = {"Object contains unknown field": "unknown-field", "Object missing required field": "missing-field"}
TOLD_BY_END = {"`$.version`": "bad-version"}

Kind = Literal["watch", "phone", "ring", "workout", "scale", "other"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Record = TypeVar("Record")
Packed = TypeVar("Packed")


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What measured: `id` is the client's own name for it."""

    id: Name
    kind: Kind


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole batch, every record well formed."""

    device: Device
    app: Name
    samples: list[Sample] = []
    sessions: list[Session] = []
    deletions: list[Deletion] = []
    zone: Name | None = None


class RawEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The batch around records that are yet to be decoded."""

    device: Device
    app: Name
    samples: list[msgspec.Raw] = []
    sessions: list[msgspec.Raw] = []
    deletions: list[msgspec.Raw] = []
    zone: Name | None = None


ENVELOPE = msgspec.json.Decoder(Envelope)
RAW_ENVELOPE = msgspec.json.Decoder(RawEnvelope)
SAMPLE = msgspec.json.Decoder(Sample)
SESSION = msgspec.json.Decoder(Session)
DELETION = msgspec.json.Decoder(Deletion)
NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Records:
    """A batch's well-formed records, each kind with its places in the batch, and why all others are refused."""

    samples: list[Sample]
    sample_places: Sequence[int]
    sessions: list[Session]
    session_places: Sequence[int]
    deletions: list[Deletion]
    deletion_places: Sequence[int]
    refused: list[RefusedRecord]


def read_batch(body: bytes, *, user_id: str, receipt_id: str, event_id: str, occurred_at: datetime) -> BatchSubmitted:
    """The batch in `body` as columns.

    Raises:
        Problem: 400 not JSON, 413 too many records or points, 422 a broken envelope.
    """
    envelope, records = _decoded(body)
    if points_of(records.sessions) > MAX_POINTS:
        raise Problem(
            413,
            "too-many-points",
            f"Send at most {MAX_POINTS} stages and stream points in a batch; split the sessions over several.",
        )
    keys = series_keys(records.samples)
    if len(keys) > MAX_SERIES:
        raise Problem(422, "too-many-metrics", f"Name at most {MAX_SERIES} different metrics and units in a batch.")
    series, untimely = series_of(records.samples, records.sample_places, keys)
    sessions = _each(packed_session, records.sessions, records.session_places, untimely)
    deletions = _each(packed_deletion, records.deletions, records.deletion_places, untimely)
    refused = records.refused + [RefusedRecord(index, BAD_TIME) for index in untimely]
    return BatchSubmitted(
        event_id=event_id,
        occurred_at=occurred_at,
        user_id=user_id,
        receipt_id=receipt_id,
        device_id=envelope.device.id,
        device_kind=envelope.device.kind,
        app=envelope.app,
        zone=envelope.zone or "",
        received=_count(envelope),
        series=series,
        refused=tuple(sorted(refused, key=lambda one: one.index)),
        sessions=sessions,
        deletions=deletions,
    )


def _each(
    pack: Callable[[Record, int], Packed | None], records: list[Record], places: Sequence[int], refused: list[int]
) -> tuple[Packed, ...]:
    """All records packed; those that cannot be are added to `refused`."""
    if not records:
        return ()
    found = [pack(record, place) for record, place in zip(records, places, strict=True)]
    refused.extend(place for one, place in zip(found, places, strict=True) if one is None)
    return tuple(one for one in found if one is not None)


def _decoded(body: bytes) -> tuple[Envelope | RawEnvelope, Records]:
    try:
        envelope = ENVELOPE.decode(body)
    except NOT_DECODED:
        return _one_by_one(body)
    _check(envelope)
    samples, sessions, deletions = _places(envelope)
    return envelope, Records(envelope.samples, samples, envelope.sessions, sessions, envelope.deletions, deletions, [])


def _one_by_one(body: bytes) -> tuple[RawEnvelope, Records]:
    raw = _raw_envelope(body)
    _check(raw)
    refused: list[RefusedRecord] = []
    samples, sessions, deletions = _places(raw)
    return raw, Records(
        *_good(SAMPLE, raw.samples, samples, refused),
        *_good(SESSION, raw.sessions, sessions, refused),
        *_good(DELETION, raw.deletions, deletions, refused),
        refused,
    )


def _good(
    decoder: msgspec.json.Decoder[Record], raw: list[msgspec.Raw], places: Sequence[int], refused: list[RefusedRecord]
) -> tuple[list[Record], list[int]]:
    """The records that decode, and their places; the others are added to `refused`."""
    records: list[Record] = []
    kept: list[int] = []
    for place, record in zip(places, raw, strict=True):
        try:
            records.append(decoder.decode(record))
            kept.append(place)
        except NOT_DECODED as error:
            refused.append(RefusedRecord(place, _why(str(error))))
    return records, kept


def _why(told: str) -> str:
    """The reason code for what msgspec says of a record."""
    found = (code for start, code in TOLD_BY_START.items() if told.startswith(start))
    return next(found, None) or next((code for end, code in TOLD_BY_END.items() if told.endswith(end)), INVALID_RECORD)


def _count(envelope: Envelope | RawEnvelope) -> int:
    return len(envelope.samples) + len(envelope.sessions) + len(envelope.deletions)


def _places(envelope: Envelope | RawEnvelope) -> tuple[range, range, range]:
    """The places of samples, sessions and deletions: one count runs through all three."""
    sessions = len(envelope.samples)
    deletions = sessions + len(envelope.sessions)
    return range(sessions), range(sessions, deletions), range(deletions, _count(envelope))


def _raw_envelope(body: bytes) -> RawEnvelope:
    try:
        return RAW_ENVELOPE.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid-batch", f"Correct the batch and send it again: {_in_words(error)}.") from error
    except UnicodeDecodeError as error:
        raise Problem(400, "not-json", "Send JSON in UTF-8; some of these bytes are not.") from error
    except RecursionError as error:
        raise Problem(400, "not-json", "The JSON is nested too deeply.") from error
    except msgspec.DecodeError as error:
        detail = f"Send the batch as JSON. {error}. JSON knows no NaN and no Infinity: leave such values out."
        raise Problem(400, "not-json", detail) from error


def _in_words(error: msgspec.ValidationError) -> str:
    """What is wrong and where; of msgspec's messages the one on enums alone quotes a value that was sent."""
    text = str(error)
    if text.startswith("Invalid enum value"):
        return f"Expected one of {', '.join(get_args(Kind))}{text[text.rindex(' - at `') :]}"
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…"


def _check(envelope: Envelope | RawEnvelope) -> None:
    received = _count(envelope)
    if received > MAX_RECORDS:
        raise Problem(413, "too-many-records", f"Send at most {MAX_RECORDS} records in a batch; this has {received}.")
    if not received:
        raise Problem(
            422,
            "invalid-batch",
            "The batch holds no records. Put at least one into `samples`, `sessions` or `deletions`.",
        )
    if envelope.zone is not None and not is_zone(envelope.zone):
        raise Problem(422, "unknown-zone", "`zone` must be an IANA time zone such as Europe/Berlin, or left out.")


_zones: dict[str, bool] = {}


def is_zone(name: str) -> bool:
    """Whether `name` is an IANA time zone; remembers what it has seen, up to a bound."""
    known = _zones.get(name)
    if known is None:
        try:
            ZoneInfo(name)
            known = True
        except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
            known = False
        if len(_zones) < 2048:
            _zones[name] = known
    return known
