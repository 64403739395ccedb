"""The documents ingest keeps, their collections and indexes."""

from datetime import date, datetime
from typing import Any

from msgspec import field

from services.ingest.buckets import Columns
from services.ingest.days import MetricDay
from services.ingest.zones import ZoneHistory
from shared.documents import Collection, Document, Index
from shared.erased import Declared, Personal
from shared.erasure import TOMBSTONES
from shared.events.gateway import StageColumns, StreamColumns
from shared.export import PERSONAL_PARTS
from shared.jobs import DUE_INDEX, Job
from shared.outbox import OUTBOX_INDEX, Outboxed


class Bucket(Document, frozen=True, kw_only=True):
    """One metric of one device in `Metric.bucket_hours` UTC hours from `hour` (since 1970) on; tombstones included."""

    user_id: str
    metric: str
    device_id: str
    device_kind: str
    hour: int
    columns: Columns


class Tail(Document, frozen=True, kw_only=True):
    """A few rows that came one by one and are not yet merged into the bucket of the same id.

    Where both know an identity the higher version is right, the bucket's of two alike. While the bucket's version is
    `bucket_version` there is nothing in it that these rows do not outdo.
    """

    user_id: str
    metric: str
    device_id: str
    device_kind: str
    hour: int
    columns: Columns
    bucket_version: int = 0


class Session(Document, frozen=True, kw_only=True):
    """A sleep or a workout. `identity`: hex of the 16 bytes; `hour`: the UTC hour it ends in, since 1970."""

    user_id: str
    type: str
    device_id: str
    device_kind: str
    identity: str
    hour: int
    start_us: int
    end_us: int
    offset_minutes: int
    source_version: int
    arrived_at: datetime
    sport: str = ""
    sport_sent: str = ""
    totals: dict[str, float] = field(default_factory=dict[str, float])
    stages: StageColumns | None = None
    streams: tuple[StreamColumns, ...] = ()
    deleted: bool = False


class Replaced(Document, frozen=True, kw_only=True):
    """What a correction or a deletion put out of force: the old state, when, by which receipt and why.

    `bucket` is the id of the bucket it stood in, `start_us` where it began; `deleted` says the sample went away.
    """

    user_id: str
    metric: str
    device_id: str
    identity: str
    start_us: int
    end_us: int
    value: float
    source_version: int
    replaced_at: datetime
    receipt_id: str
    reason: str
    bucket: str


class Place(Document, frozen=True, kw_only=True):
    """Where what a source calls by one id lies: the bucket's hour by sparse metric; its id is that of `place_id`.

    It is exact, so that corrections and deletions find their sample. One id may stand for several metrics.
    """

    user_id: str
    hours: dict[str, int]


class Deletions(Document, frozen=True, kw_only=True):
    """Deletions by id alone of one user's device, packed: 16 bytes of identity and an int64 version each.

    They are looked up by every batch of that device, so that a sample that comes after its deletion stays away.
    """

    user_id: str
    device_id: str
    identity: bytes
    source_version: bytes


class Device(Document, frozen=True, kw_only=True):
    """A device a user sends from. `seen_at` moves every few minutes, not with every batch."""

    user_id: str
    device_id: str
    kind: str
    app: str
    first_seen_at: datetime
    seen_at: datetime


class DirtyDay(Job, frozen=True, kw_only=True):
    """A local day and when it is to be computed again; it stays when clean.

    It knows the hours [`from_hour`, `to_hour`) and `metrics` of all buckets that touch the day; `changed` are the
    metrics to compute, the others stand as last told. Touched again, it comes due when it has rested. `zones` is the
    fingerprint of the user's zones when it was last computed.
    """

    user_id: str
    day: date
    from_hour: int
    to_hour: int
    metrics: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    zone: str = ""
    reason: str = ""
    computed_at: datetime | None = None
    rests_until: datetime | None = None
    zones: bytes = b""


class Receipt(Document, frozen=True, kw_only=True):
    """What became of one batch. `group` is the event that told of it, with all of the user's of one joint write.

    `leader` is the receipt that lists all `members` of the group; "" and none where it is alone.
    """

    user_id: str
    group: str
    state: str
    received: int
    stored: int
    duplicates: int
    corrections: int
    refused: tuple[tuple[int, str], ...]
    completed_at: datetime
    device_id: str = ""
    reason: str | None = None
    deleted: int = 0
    leader: str = ""
    members: tuple[str, ...] = ()


class DeletionJob(Job, frozen=True, kw_only=True):
    """A search through one device's dense buckets for samples deleted by id alone; its receipt waits for it.

    `identity` and `source_version` are packed as in `Deletions`, `index` says which record of the batch each was.
    `metrics` are those left to search, the first from `from_hour` on; `outlived` lists the records whose sample has a
    later version than the deletion. `receipt` is what is told in the end but for these.
    """

    user_id: str
    device_id: str
    device_kind: str
    occurred_at: datetime
    identity: bytes
    source_version: bytes
    index: tuple[int, ...]
    metrics: tuple[str, ...]
    receipt: Receipt
    from_hour: int = 0
    outlived: tuple[int, ...] = ()


class Day(Outboxed, frozen=True, kw_only=True):
    """A user's local day as last told. `floating`: metrics with samples whose day rests on the user's zone alone.

    `reason`: why it was told again after its end, "" for a revision of an open day; `previous`: what it said before.
    So the revision's event can be told again, word for word.
    """

    user_id: str
    day: date
    zone: str
    revision: int
    metrics: dict[str, MetricDay]
    updated_at: datetime
    floating: tuple[str, ...] = ()
    reason: str = ""
    previous: dict[str, MetricDay] = field(default_factory=dict[str, MetricDay])


class Recomputation(Job, frozen=True, kw_only=True):
    """A user's days to be marked because a setting changed: from `from_day` on (None: all) those that know `metric`.

    `metric` "*" is any; `floating` says that days count only for their metrics without an offset of their own.
    """

    user_id: str
    metric: str
    reason: str
    from_day: date | None = None
    floating: bool = False


class Republication(Job, frozen=True, kw_only=True):
    """An operator's wish to have days' events sent again: of one user ("" for all), told at `since` or later.

    `cursor` is where to go on, `seen` the days looked at, `sent` the events told again, `skipped` those too large to
    tell. With `dry_run` they are counted alone. `by` and `note` say who wanted it and why.
    """

    user_id: str
    since: datetime | None
    rate_per_s: int
    dry_run: bool
    by: str
    note: str
    created_at: datetime
    cursor: str | None = None
    seen: int = 0
    sent: int = 0
    skipped: int = 0
    ended_at: datetime | None = None


class User(Document, frozen=True, kw_only=True):
    """What ingest needs to know of a user."""

    revision: int
    home_zone: str


class Zones(Document, frozen=True, kw_only=True):
    """A user's zones over time, from batches and from the user; the home zone is the user's own document's."""

    history: ZoneHistory


class Priorities(Document, frozen=True, kw_only=True):
    """A user's order of devices by metric, "*" for all others; each item is `device:<id>` or `kind:<kind>`."""

    order: dict[str, tuple[str, ...]]


_BY_HOUR = (Index("user_metric_hour", ("user_id", "metric", "hour")),)
_OF_USER = Index("user", ("user_id",))
BUCKETS = Collection("buckets", Bucket, _BY_HOUR)
TAILS = Collection("tails", Tail, _BY_HOUR)
SESSIONS = Collection("sessions", Session, (Index("user_hour", ("user_id", "hour")),))
REPLACED = Collection("replaced", Replaced, (Index("user_metric_start", ("user_id", "metric", "start_us")),))
PLACES = Collection("places", Place, (_OF_USER,))
DELETIONS = Collection("deletions", Deletions, (_OF_USER,))
DELETION_JOBS = Collection("deletion_jobs", DeletionJob, (DUE_INDEX, _OF_USER))
DEVICES = Collection("devices", Device, (_OF_USER,))
DIRTY_DAYS = Collection("dirty_days", DirtyDay, (DUE_INDEX, _OF_USER))
RECEIPTS = Collection("receipts", Receipt, (Index("user_completed", ("user_id", "completed_at")),))
DAYS = Collection("days", Day, (OUTBOX_INDEX, Index("user_day", ("user_id", "day"))))
RECOMPUTATIONS = Collection("recomputations", Recomputation, (DUE_INDEX, _OF_USER))
USERS = Collection("users", User)
ZONES = Collection("zones", Zones)
PRIORITIES = Collection("priorities", Priorities)
REPUBLICATIONS = Collection("republications", Republication, (DUE_INDEX, _OF_USER))
PERSONAL: tuple[Declared, ...] = (
    Personal(BUCKETS, ("user_metric_hour",)),
    Personal(TAILS, ("user_metric_hour",)),
    Personal(SESSIONS, ("user_hour",)),
    Personal(REPLACED, ("user_metric_start",)),
    Personal(PLACES, ("user",)),
    Personal(DELETIONS, ("user",)),
    Personal(DELETION_JOBS, ("user",)),
    Personal(DEVICES, ("user",)),
    Personal(DIRTY_DAYS, ("user",)),
    Personal(RECEIPTS, ("user_completed",)),
    Personal(DAYS, ("user_day",)),
    Personal(RECOMPUTATIONS, ("user",)),
    Personal(USERS),
    Personal(ZONES),
    Personal(PRIORITIES),
    # An operator's wish about all users names none.
    Personal(REPUBLICATIONS, ("user",)),
    PERSONAL_PARTS,
)
COLLECTIONS: tuple[Collection[Any], ...] = (*(one.collection for one in PERSONAL), TOMBSTONES)
