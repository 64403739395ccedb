"""Exports as they lie in the database: jobs that wait for the parts of all services, and what became of them."""

from datetime import datetime
from typing import Literal

import msgspec

from shared.documents import Collection, Index
from shared.jobs import DUE_INDEX, Job
from shared.outbox import OUTBOX_INDEX, OutboxEvent
from shared.topics import EXPORT_PARTS

OWN = "auth"
# Who holds something of users; auth's own part is written last.
SERVICES = (*EXPORT_PARTS, OWN)


class PartFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a part, as `shared.events.ExportedFile`."""

    name: str
    rows: int
    about: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service's part lies: an object of `size_bytes`, the first `data_bytes` of them members of an archive."""

    key: str
    sha256: str
    size_bytes: int
    data_bytes: int
    files: tuple[PartFile, ...]


class Export(Job, frozen=True, kw_only=True):
    """What a user asked for: the `number`-th export of this user. After `needed_until` no part is waited for.

    `ready` until `expires_at`, when the parts are deleted; `problem` says in words why it failed.
    """

    user_id: str
    number: int
    asked_at: datetime
    needed_until: datetime
    forget_at: datetime
    state: Literal["running", "ready", "failed", "expired"] = "running"
    parts: dict[str, Part] = msgspec.field(default_factory=dict[str, Part])
    ready_at: datetime | None = None
    expires_at: datetime | None = None
    problem: str = ""
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The other services whose part has not come."""
        return tuple(service for service in EXPORT_PARTS if service not in self.parts)


USER_INDEX, FORGET_INDEX = "user", "forget"
EXPORTS: Collection[Export] = Collection(
    "exports",
    Export,
    (
        DUE_INDEX,
        OUTBOX_INDEX,
        Index(USER_INDEX, ("user_id", "number"), unique=True),
        Index(FORGET_INDEX, ("forget_at",)),
    ),
)
