"""Every topic: who writes it, who reads it, its key, partitions and retention. One writer each."""

from dataclasses import dataclass
from typing import Literal

from shared.events.auth import ExportRequested, GrantUpdated, PartnerUpdated, SessionRevoked, UserErased, UserUpdated
from shared.events.event import Event
from shared.events.gateway import PhotoSubmitted
from shared.events.inference import PhotoRead, PhotoRejected
from shared.events.ingest import DayRecomputed, DayUpdated, ReceiptsCompleted
from shared.events.insights import InsightCreated, LedgerUpdated
from shared.events.nutrition import EntryCreated, EntryDeleted, EntryUpdated
from shared.events.operator import DeadLetterResolved
from shared.events.personal import ExportPartReady, UserDataErased
from shared.events.webhooks import MessagePublished

DAY_MS = 24 * 60 * 60 * 1000
LOG_RETENTION_MS = 7 * DAY_MS
DEAD_LETTER_RETENTION_MS = 14 * DAY_MS
# The broker forgets whole segments, so what it holds is older than its retention by as much as a segment spans.
SEGMENT_MS = DAY_MS
# Longer than the dead letters themselves, or resolved ones would come back; and it is the operators' audit log.
RESOLUTION_RETENTION_MS = 90 * DAY_MS
# As long as auth may be away and still learn that everything of a user is gone; it holds opaque ids alone.
ERASURE_RETENTION_MS = 90 * DAY_MS
# Far longer than access tokens last.
REVOCATION_RETENTION_MS = DAY_MS
# A dead letter is a whole record, of up to 1 MiB, and headers that say why.
DEAD_LETTER_MAX_BYTES = 2 * 1024 * 1024
HOT_PARTITIONS = 12
PARTITIONS = 3


@dataclass(frozen=True)
class Topic:
    """A topic `<writer>.<plural>.v<major>`.

    `key` names the event's field that is the Kafka key. A log keeps 7 days unless `retention_ms` says otherwise; a
    state topic is compacted, every event carries the full state, and a deletion is an event followed by a null record.
    """

    name: str
    kind: Literal["log", "state"]
    key: str
    events: tuple[type[Event], ...]
    readers: tuple[str, ...] = ()
    partitions: int = PARTITIONS
    retention_ms: int = LOG_RETENTION_MS

    @property
    def writer(self) -> str:
        """The one service that writes here."""
        return self.name.split(".", 1)[0]

    def group(self, service: str) -> str:
        """The consumer group of `service` on this topic."""
        return f"{service}.{self.name}"

    def dead_letters(self, service: str) -> str:
        """The topic that takes what `service` could not handle."""
        return dead_letters(self.name, service)


def dead_letters(topic: str, service: str) -> str:
    """The name of the topic that takes what `service` could not handle of `topic`."""
    return f"{topic}.{service}.dlq"


# Values are MessagePack of BatchSubmitted, hence no pydantic models here.
BATCHES = Topic("gateway.batches.v1", "log", "user_id", (), ("ingest",), HOT_PARTITIONS)
PHOTOS = Topic("gateway.photos.v1", "log", "user_id", (PhotoSubmitted,), ("inference",))
USERS = Topic(
    "auth.users.v1",
    "state",
    "user_id",
    (UserUpdated, UserErased),
    ("ingest", "inference", "nutrition", "insights", "webhooks"),
)
PARTNERS = Topic("auth.partners.v1", "state", "partner_id", (PartnerUpdated,), ("webhooks",))
GRANTS = Topic("auth.grants.v1", "state", "grant_id", (GrantUpdated,), ("webhooks",))
# A log, because a revocation means nothing once the session's last access token is over. The gateway reads it, grants
# and partners without a group, from the beginning.
REVOCATIONS = Topic("auth.revocations.v1", "log", "session_id", (SessionRevoked,), retention_ms=REVOCATION_RETENTION_MS)
RECEIPTS = Topic("ingest.receipts.v1", "log", "user_id", (ReceiptsCompleted,), ("webhooks",), HOT_PARTITIONS)
DAYS = Topic(
    "ingest.days.v1",
    "log",
    "user_id",
    (DayUpdated, DayRecomputed),
    ("insights", "webhooks"),
    HOT_PARTITIONS,
)
READINGS = Topic("inference.readings.v1", "log", "user_id", (PhotoRead, PhotoRejected), ("nutrition", "webhooks"))
ENTRIES = Topic(
    "nutrition.entries.v1",
    "log",
    "user_id",
    (EntryCreated, EntryUpdated, EntryDeleted),
    ("insights", "webhooks"),
)
LEDGERS = Topic("insights.ledgers.v1", "log", "user_id", (LedgerUpdated,), ("webhooks",))
INSIGHTS = Topic("insights.insights.v1", "log", "user_id", (InsightCreated,), ("webhooks",))
# The gateway reads messages without a group, from the end.
MESSAGES = Topic("webhooks.messages.v1", "log", "user_id", (MessagePublished,), partitions=HOT_PARTITIONS)
# What each service says once it keeps nothing of a user any more.
ERASURES: dict[str, Topic] = {
    service: Topic(
        f"{service}.erasures.v1",
        "log",
        "user_id",
        (UserDataErased,),
        ("auth",),
        partitions=1,
        retention_ms=ERASURE_RETENTION_MS,
    )
    for service in USERS.readers
}
# A user wants all that is held of them, and what each service has written of it.
EXPORTS = Topic("auth.exports.v1", "log", "user_id", (ExportRequested,), USERS.readers, partitions=1)
EXPORT_PARTS: dict[str, Topic] = {
    service: Topic(f"{service}.exports.v1", "log", "user_id", (ExportPartReady,), ("auth",), partitions=1)
    for service in USERS.readers
}
# What operators did with dead letters, by `./mymacro dlq`; a log and no state, so that no audit line is compacted away.
RESOLUTIONS = Topic(
    "operator.dead_letters.v1",
    "log",
    "position",
    (DeadLetterResolved,),
    partitions=1,
    retention_ms=RESOLUTION_RETENTION_MS,
)

TOPICS: tuple[Topic, ...] = (
    BATCHES,
    PHOTOS,
    USERS,
    PARTNERS,
    GRANTS,
    REVOCATIONS,
    RECEIPTS,
    DAYS,
    READINGS,
    ENTRIES,
    LEDGERS,
    INSIGHTS,
    MESSAGES,
    *ERASURES.values(),
    EXPORTS,
    *EXPORT_PARTS.values(),
    RESOLUTIONS,
)
