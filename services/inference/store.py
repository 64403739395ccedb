"""What inference keeps: one job document per photo, which is the answer to its owner as well."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from shared.documents import Collection, Conflict, Documents, Duplicate, Index
from shared.erased import Declared, Personal
from shared.erasure import TOMBSTONES
from shared.errors import Unavailable
from shared.export import PARTS, PERSONAL_PARTS
from shared.jobs import DUE_INDEX, Job
from shared.outbox import OUTBOX_INDEX, OutboxEvent

TRIES = 10
State = Literal["queued", "read", "rejected"]


class Nutrient(msgspec.Struct, frozen=True):
    """An amount per 100 g and how sure the reading is, 0 to 1."""

    amount: Decimal
    confidence: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was read: amounts by field name, warnings, and by which model and weights."""

    nutrients: dict[str, Nutrient]
    warnings: tuple[str, ...]
    name: str | None
    model: str
    weights_sha256: str


class Refusal(msgspec.Struct, frozen=True):
    """Why nothing was read, and what to do."""

    reason: str
    detail: str


class PhotoJob(Job, frozen=True, kw_only=True):
    """A photo from its arrival to its end; the id is the photo's.

    `due_at` set means there is work: reading while `queued`, afterwards deleting the original.
    """

    user_id: str
    object_key: str
    submitted_at: datetime
    state: State = "queued"
    found: Found | None = None
    refusal: Refusal | None = None
    grams: Decimal | None = None
    eaten_at: datetime | None = None
    local_date: date | None = None
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_at: datetime | None = None


JOBS: Collection[PhotoJob] = Collection(
    "photos", PhotoJob, (DUE_INDEX, OUTBOX_INDEX, Index("object", ("object_key", "state")), Index("user", ("user_id",)))
)
PERSONAL: tuple[Declared, ...] = (Personal(JOBS, ("user",)), PERSONAL_PARTS)
COLLECTIONS: tuple[Collection[Any], ...] = (JOBS, PARTS, TOMBSTONES)


class Store:
    """The queries and writes of this service; each raises Unavailable("database")."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def add(self, job: PhotoJob) -> None:
        """Store a new job. A repeat changes nothing, but it has brought the original again: that is deleted anew."""
        try:
            await self._documents.insert(JOBS, job)
        except Duplicate:
            await self._tidy_again(job)

    async def _tidy_again(self, repeated: PhotoJob) -> None:
        for _ in range(TRIES):
            known = await self.job(repeated.id)
            if known is None or known.state == "queued":
                return
            try:
                await self._documents.put(JOBS, replace(known, due_at=repeated.due_at))
            except Conflict:
                continue
            return
        raise Unavailable("database")

    async def job(self, photo_id: str) -> PhotoJob | None:
        """The job of that photo."""
        return await self._documents.get(JOBS, photo_id)

    async def twin(self, job: PhotoJob) -> PhotoJob | None:
        """Another finished job of the same user and the same bytes."""
        for state in ("read", "rejected"):
            page = await self._documents.find(JOBS, "object", (job.object_key, state), limit=1)
            if page.documents:
                return page.documents[0]
        return None

    async def wanted(self, job: PhotoJob) -> bool:
        """Whether another photo with the same bytes still waits for its original."""
        return bool(await self._documents.count(JOBS, "object", (job.object_key, "queued")))
