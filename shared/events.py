"""Every event that crosses a service's border, one union per topic.

Values are JSON of frozen pydantic models; readers ignore unknown fields. `gateway.batches.v1` alone is
MessagePack of one msgspec Struct with packed columns. Each has a worked example in `tests/contract/events`, which
the tests read back. Change is additive only; anything else is a new topic version.
"""

import secrets
import time
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.clock import truncated

EVENT_NAMESPACE = uuid5(NAMESPACE_URL, "https://mymacrotracker.dev/events")


def new_event_id() -> str:
    """A fresh UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then random bits; used at the gateway alone."""
    value = int(time.time() * 1000) << 80 | secrets.randbits(76)
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    return str(UUID(int=value))


def derived_id(*parts: object) -> str:
    """The id of something made from `parts`: equal parts give equal ids, so a repeat makes nothing new."""
    return str(uuid5(EVENT_NAMESPACE, "\x1f".join(str(part) for part in parts)))


UtcTime = Annotated[datetime, AfterValidator(truncated)]


class Event(BaseModel, frozen=True):
    """What all events share. `event_id` is the de-duplication key for readers."""

    model_config = ConfigDict(extra="ignore")

    event_id: str
    type: str
    occurred_at: UtcTime


class ObjectRef(BaseModel, frozen=True):
    """A picture or file in the object store, held by reference."""

    model_config = ConfigDict(extra="ignore")

    key: str
    sha256: str
    size_bytes: int
    content_type: str


# gateway.batches.v1


# `offset_minutes` of a time sent as UTC ("Z"): where the user's clock stood is not known.
UNKNOWN_OFFSET = -(2**15)


class SeriesColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of one metric and unit, both named as sent, in equal-length columns, each packed little-endian.

    `unit`: "" where none was sent, which means the metric's own; `start_us`, `end_us`: int64, microseconds since 1970
    UTC; `value`: float64 in `unit`; `offset_minutes`: int16, local minus UTC, or `UNKNOWN_OFFSET`; `index`: uint32,
    the record's place in the client's batch; `identity`: 16 bytes a sample, BLAKE2b of the source's own id, all zero
    where the source has none; `version`: int64, the source's version or update time in microseconds, 0 where it has
    none.
    """

    metric: str
    unit: str = ""
    start_us: bytes
    end_us: bytes
    value: bytes
    offset_minutes: bytes
    index: bytes
    identity: bytes
    version: bytes


class RefusedRecord(msgspec.Struct, frozen=True):
    """A record that was not stored as sent: its place in the batch and a stable reason code."""

    index: int
    code: str


class StageColumns(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep's stages: `start_us` and `end_us` packed int64, `stage` as sent, one name each."""

    start_us: bytes
    end_us: bytes
    stage: tuple[str, ...]


class StreamColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of a workout, packed little-endian: `at_us` int64 since 1970 UTC, `value` float64, equal lengths."""

    name: str
    at_us: bytes
    value: bytes


class SessionSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep or a workout; `type` and `sport` are named as sent, `totals` by our names (`energy_active_kcal`, …).

    `identity`, `version` and `offset_minutes` are those of `SeriesColumns`.
    """

    index: int
    type: str
    start_us: int
    end_us: int
    offset_minutes: int
    identity: bytes
    version: int = 0
    sport: str = ""
    totals: dict[str, float] = {}
    stages: StageColumns | None = None
    streams: tuple[StreamColumns, ...] = ()


class DeletionSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is gone at its source, named by its id, or by metric, start and end where it has none.

    `metric` is "" and the times are None where the source does not say. `version`: 0 = whatever version it has.
    """

    index: int
    identity: bytes
    metric: str = ""
    start_us: int | None = None
    end_us: int | None = None
    version: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """Where a large batch lies in the object store; `ingest/<user_id>/<sha256>`, deleted by ingest once stored."""

    key: str
    sha256: str


class BatchSubmitted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.submitted"):
    """One accepted phone batch. `refused` holds the records that did not decode.

    `index` counts all records of the batch: its samples first, then its sessions, then its deletions. `received` is
    how many there are. A batch too large for a message travels by reference: `object` names where the same struct
    lies as MessagePack, and `series`, `sessions` and `deletions` are empty.
    """

    event_id: str
    occurred_at: datetime
    user_id: str
    receipt_id: str
    device_id: str
    device_kind: str
    app: str
    zone: str
    received: int
    series: tuple[SeriesColumns, ...]
    refused: tuple[RefusedRecord, ...] = ()
    sessions: tuple[SessionSubmitted, ...] = ()
    deletions: tuple[DeletionSubmitted, ...] = ()
    object: BatchObject | None = None


# gateway.photos.v1


class PhotoSubmitted(Event, frozen=True):
    """A picture of a nutrition label was accepted. With `grams` a diary entry arises, without it only a food."""

    type: Literal["photo.submitted"] = "photo.submitted"
    user_id: str
    photo_id: str
    object: ObjectRef
    grams: Decimal | None = None
    eaten_at: UtcTime | None = None
    local_date: date | None = None


# auth


class Profile(BaseModel, frozen=True):
    """What energy formulas and day boundaries need to know of a user."""

    model_config = ConfigDict(extra="ignore")

    sex: Literal["female", "male"] | None = None
    birth_date: date | None = None
    height_cm: Decimal | None = None
    locale: str = "en"
    home_zone: str = "UTC"


class UserUpdated(Event, frozen=True):
    """The user's full state; never the address or a credential."""

    type: Literal["user.updated"] = "user.updated"
    user_id: str
    revision: int
    profile: Profile


class UserErased(Event, frozen=True):
    """Everything of a user is to be forgotten, since `occurred_at` and for good. What comes of this user is dropped."""

    type: Literal["user.erased"] = "user.erased"
    user_id: str
    revision: int


class ExportRequested(Event, frozen=True):
    """A user wants everything that is held of them. After `needed_until` nobody waits for a part any more."""

    type: Literal["export.requested"] = "export.requested"
    user_id: str
    export_id: str
    needed_until: UtcTime


class PartnerUpdated(Event, frozen=True):
    """The partner's full state; never a key. Only an active one may do anything.

    One that was never approved is not told of. `requests_per_min` is its quota, None for the setting's.
    """

    type: Literal["partner.updated"] = "partner.updated"
    partner_id: str
    revision: int
    name: str
    scopes: tuple[str, ...]
    state: Literal["pending", "active", "suspended"] = "active"
    requests_per_min: int | None = None


class GrantUpdated(Event, frozen=True):
    """What a user lets a partner see, in full. `revoked_at` set means nothing any more.

    `since_revision` is the revision at which the grant last came to life: given first, or again after a revocation.
    What was issued for an earlier revision stays void.
    """

    type: Literal["grant.updated"] = "grant.updated"
    grant_id: str
    user_id: str
    partner_id: str
    revision: int
    scopes: tuple[str, ...]
    since_revision: int = 1
    revoked_at: UtcTime | None = None


class SessionRevoked(Event, frozen=True):
    """A user's session was ended before its time: its access tokens, of which the last is over at `expires_at`, are
    not good any more. `reason` is a stable code; `erasure_id`: the erasure of the user that ended it.
    """

    type: Literal["session.revoked"] = "session.revoked"
    session_id: str
    user_id: str
    reason: str
    expires_at: UtcTime
    erasure_id: str | None = None


# ingest


class ReceiptSummary(BaseModel, frozen=True):
    """What became of one batch: each record is stored, a duplicate, a correction, deleted, or refused with a reason."""

    model_config = ConfigDict(extra="ignore")

    receipt_id: str
    state: Literal["stored", "failed"]
    received: int
    stored: int
    duplicates: int
    corrections: int = 0
    deleted: int = 0
    refused: tuple[tuple[int, str], ...] = ()
    reason: str | None = None


class ReceiptsCompleted(Event, frozen=True):
    """All receipts of one user that one joint write completed."""

    type: Literal["receipts.completed"] = "receipts.completed"
    user_id: str
    receipts: tuple[ReceiptSummary, ...]


class DayMetric(BaseModel, frozen=True):
    """One metric's day. Interval metrics and sessions have a `sum`; instant ones have `min`, `max`, `mean`.

    `parts` divides the sum: sleep by stage, workouts by sport; they add up to it. `derived` marks a number that no
    device sent but that follows from others (total energy from active and basal).
    """

    model_config = ConfigDict(extra="ignore")

    unit: str
    count: int
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    parts: dict[str, float] = Field(default_factory=dict[str, float])
    derived: bool = False


class DayUpdated(Event, frozen=True):
    """A revision of a day that is still open."""

    type: Literal["day.updated"] = "day.updated"
    user_id: str
    date: date
    zone: str
    revision: int
    metrics: dict[str, DayMetric]


class DayRecomputed(Event, frozen=True):
    """A revision of a day that had ended: late data or a correction, with what it said before."""

    type: Literal["day.recomputed"] = "day.recomputed"
    user_id: str
    date: date
    zone: str
    revision: int
    metrics: dict[str, DayMetric]
    previous: dict[str, DayMetric]
    reason: str


# inference


class NutrientReading(BaseModel, frozen=True):
    """One nutrient as read: the amount per 100 g in the field's unit, and how sure the reading is, 0 to 1."""

    model_config = ConfigDict(extra="ignore")

    amount: Decimal
    confidence: float


class LabelReading(BaseModel, frozen=True):
    """A label's numbers per 100 g. Energy in kcal, everything else in grams."""

    model_config = ConfigDict(extra="ignore")

    energy_kcal: NutrientReading | None = None
    protein_g: NutrientReading | None = None
    carbohydrate_g: NutrientReading | None = None
    sugar_g: NutrientReading | None = None
    fat_g: NutrientReading | None = None
    salt_g: NutrientReading | None = None


class ReadingMode(BaseModel, frozen=True):
    """Which model read the picture: its name, the SHA-256 over its weights, and whether it was a fallback."""

    model_config = ConfigDict(extra="ignore")

    model: str
    weights_sha256: str
    fallback: bool


class PhotoRead(Event, frozen=True):
    """A picture was read. `grams`, `eaten_at` and `local_date` travel along from the submission."""

    type: Literal["photo.read"] = "photo.read"
    user_id: str
    photo_id: str
    reading: LabelReading
    warnings: tuple[str, ...] = ()
    mode: ReadingMode
    name: str | None = None
    gtin: str | None = None
    grams: Decimal | None = None
    eaten_at: UtcTime | None = None
    local_date: date | None = None


class PhotoRejected(Event, frozen=True):
    """A picture could not be read; `reason` is a stable code, `detail` says what to do."""

    type: Literal["photo.rejected"] = "photo.rejected"
    user_id: str
    photo_id: str
    reason: str
    detail: str


# nutrition


class Nutrients(BaseModel, frozen=True):
    """Amounts in kcal and grams; `None` means unknown, never zero."""

    model_config = ConfigDict(extra="ignore")

    energy_kcal: Decimal | None = None
    protein_g: Decimal | None = None
    carbohydrate_g: Decimal | None = None
    sugar_g: Decimal | None = None
    fat_g: Decimal | None = None
    salt_g: Decimal | None = None


class DiaryEntry(BaseModel, frozen=True):
    """A diary entry in full, its numbers frozen at the time it was made."""

    model_config = ConfigDict(extra="ignore")

    entry_id: str
    revision: int
    date: date
    eaten_at: UtcTime
    food_id: str
    food_name: str
    grams: Decimal
    nutrients: Nutrients


class EntryCreated(Event, frozen=True):
    """A diary entry arose."""

    type: Literal["entry.created"] = "entry.created"
    user_id: str
    entry: DiaryEntry


class EntryUpdated(Event, frozen=True):
    """A diary entry changed; `entry` is what it is now."""

    type: Literal["entry.updated"] = "entry.updated"
    user_id: str
    entry: DiaryEntry


class EntryDeleted(Event, frozen=True):
    """A diary entry is gone; the tombstone keeps id, date and revision."""

    type: Literal["entry.deleted"] = "entry.deleted"
    user_id: str
    entry_id: str
    date: date
    revision: int


# insights


class LedgerLine(BaseModel, frozen=True):
    """One source of energy, in or out, in kcal; `note` says what it rests on."""

    model_config = ConfigDict(extra="ignore")

    source: str
    direction: Literal["in", "out"]
    energy_kcal: Decimal
    note: str = ""


class LedgerUpdated(Event, frozen=True):
    """A day's energy ledger in full. Totals are the sums of the lines."""

    type: Literal["ledger.updated"] = "ledger.updated"
    user_id: str
    date: date
    revision: int
    lines: tuple[LedgerLine, ...]
    intake_kcal: Decimal
    expenditure_kcal: Decimal
    balance_kcal: Decimal
    missing: tuple[str, ...] = ()


class Fact(BaseModel, frozen=True):
    """A number an insight may speak of."""

    model_config = ConfigDict(extra="ignore")

    id: str
    value: Decimal
    unit: str
    window: str
    n: int


class InsightCreated(Event, frozen=True):
    """A text about the user's own numbers, with the facts behind it."""

    type: Literal["insight.created"] = "insight.created"
    user_id: str
    insight_id: str
    date: date
    title: str
    text: str
    facts: tuple[Fact, ...]
    mode: Literal["deterministic", "model"]


# webhooks


class MessagePublished(Event, frozen=True):
    """A public message, as partners and live readers get it; `sequence` counts per user from 1 without gaps."""

    type: Literal["message.published"] = "message.published"
    user_id: str
    message_id: str
    sequence: int
    message_type: str
    message_time: UtcTime
    trace_id: str
    data: dict[str, Any]


# every service that keeps something of users


class UserDataErased(Event, frozen=True):
    """`service` keeps nothing of a user any more: so many documents and objects are gone."""

    type: Literal["user_data.erased"] = "user_data.erased"
    user_id: str
    service: str
    documents: int
    objects: int
    finished_at: UtcTime


class ExportedFile(BaseModel, frozen=True):
    """A file of an export, or a folder with a `/` behind its name: so many `rows`, or files; `about` in words."""

    model_config = ConfigDict(extra="ignore")

    name: str
    rows: int
    about: str


class ExportPartReady(Event, frozen=True):
    """What a service holds of a user lies in the object store, and is auth's to delete.

    The object's first `data_bytes` are members of a ZIP archive, the rest is their list: see `shared.export`.
    """

    type: Literal["export.part_ready"] = "export.part_ready"
    user_id: str
    export_id: str
    service: str
    object: ObjectRef
    data_bytes: int
    files: tuple[ExportedFile, ...]


# operator


class DeadLetterResolved(Event, frozen=True):
    """What an operator did with a dead letter: sent it to its topic again, or gave it up.

    `position` is `<dead letter topic>/<partition>/<offset>`; `reason` the one it died of, `by` the operator's account
    on the machine, `note` the operator's own words.
    """

    type: Literal["dead_letter.resolved"] = "dead_letter.resolved"
    position: str
    action: Literal["replayed", "dropped"]
    source: str
    service: str
    reason: str
    by: str
    note: str = ""


AnyEvent = Annotated[
    PhotoSubmitted
    | UserUpdated
    | UserErased
    | UserDataErased
    | ExportRequested
    | ExportPartReady
    | PartnerUpdated
    | GrantUpdated
    | SessionRevoked
    | ReceiptsCompleted
    | DayUpdated
    | DayRecomputed
    | PhotoRead
    | PhotoRejected
    | EntryCreated
    | EntryUpdated
    | EntryDeleted
    | LedgerUpdated
    | InsightCreated
    | MessagePublished
    | DeadLetterResolved,
    Field(discriminator="type"),
]
