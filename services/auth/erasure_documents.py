"""Erasures as they lie in the database: jobs first, and then the proof, which names nobody but by an opaque id."""

from datetime import datetime
from typing import Literal

import msgspec

from shared.documents import Collection
from shared.jobs import DUE_INDEX, Job
from shared.topics import DEAD_LETTER_RETENTION_MS, ERASURES, RESOLUTIONS, SEGMENT_MS, TOPICS

# Who must say that nothing is left.
SERVICES = tuple(ERASURES)
# What came last lies in its log, may become a dead letter when that log is about to forget it, and both forget by
# segments. State topics forget what was replaced or deleted after 7 days and a segment, which is sooner.
LONGEST_MS = (
    DEAD_LETTER_RETENTION_MS
    + 2 * SEGMENT_MS
    + max(
        topic.retention_ms
        for topic in TOPICS
        if topic.kind == "log" and topic is not RESOLUTIONS and topic not in ERASURES.values()
    )
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one service deleted, and when it was done."""

    documents: int
    objects: int
    finished_at: datetime


class Erasure(Job, frozen=True, kw_only=True):
    """The erasure of a user. `asked_by`: the user, or the id of the partner that managed the user.

    `state`: `asked`; `told` once a tombstone stands in the user's place and everybody is told; `ending` once all
    services keep nothing; `gone` once auth keeps nothing either; `closed` once the tombstone is gone too. By
    `topics_expire_at` no log of the broker holds anything of the user.
    """

    user_id: str
    asked_at: datetime
    asked_by: str
    state: Literal["asked", "told", "ending", "gone", "closed"] = "asked"
    reports: dict[str, Report] = msgspec.field(default_factory=dict[str, Report])
    finished_at: datetime | None = None
    topics_expire_at: datetime | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The services that have not said yet that nothing is left."""
        return tuple(service for service in SERVICES if service not in self.reports)


ERASURE_JOBS: Collection[Erasure] = Collection("erasures", Erasure, (DUE_INDEX,))
