"""What operators ask of ingest; the gateway has no route here and never signs an operator's token for a caller."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.ingest.records import Republication
from services.ingest.republish import MAX_RATE_PER_S, Republisher
from shared.clock import Clock, Moment
from shared.errors import Problem
from shared.identity import operating
from shared.ids import derived_id
from shared.telemetry import current_traceparent


class RepublishRequest(BaseModel):
    """Which days: of `user_id`, told at `since` or later, both, or `everything`. `by` and `note`: who and why."""

    model_config = ConfigDict(extra="forbid")

    user_id: str | None = Field(default=None, min_length=1, max_length=200)
    since: Moment | None = None
    everything: bool = False
    rate_per_s: int = Field(default=500, ge=1, le=MAX_RATE_PER_S)
    dry_run: bool = False
    by: str = Field(min_length=1, max_length=200)
    note: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _meant(self) -> "RepublishRequest":
        if (self.user_id is None and self.since is None) is not self.everything:
            raise PydanticCustomError("republish", "Send user_id, since or both, or else everything as true")
        return self


class RepublishAnswer(BaseModel):
    """How far it is: days `seen`, events `sent` (with `dry_run`: that would be), `skipped` for being too large."""

    id: str
    user_id: str | None
    since: datetime | None
    dry_run: bool
    by: str
    note: str
    created_at: datetime
    seen: int
    sent: int
    skipped: int
    ended_at: datetime | None
    last_error: str | None


def create_router(republisher: Republisher, clock: Clock) -> APIRouter:
    """The routes, for operators alone."""
    router = APIRouter(prefix="/internal", include_in_schema=False, dependencies=[Depends(operating)])

    @router.post("/days/republish", status_code=202)
    async def republish(
        body: RepublishRequest, key: Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
    ) -> RepublishAnswer:
        """Send days' events again, as a job; the same key means the same job."""
        now = clock()
        job = Republication(
            id=derived_id("republish", key),
            user_id=body.user_id or "",
            since=body.since,
            rate_per_s=body.rate_per_s,
            dry_run=body.dry_run,
            by=body.by,
            note=body.note,
            created_at=now,
            due_at=now,
            traceparent=current_traceparent(),
        )
        return _answer(await republisher.begin(job))

    @router.get("/days/republish/{id}")
    async def progress(id: str) -> RepublishAnswer:
        """How far a job is. 404 for none of that id."""
        job = await republisher.progress(id)
        if job is None:
            raise Problem(404, "not-found", "There is no such job.")
        return _answer(job)

    return router


def _answer(job: Republication) -> RepublishAnswer:
    return RepublishAnswer(
        id=job.id,
        user_id=job.user_id or None,
        since=job.since,
        dry_run=job.dry_run,
        by=job.by,
        note=job.note,
        created_at=job.created_at,
        seen=job.seen,
        sent=job.sent,
        skipped=job.skipped,
        ended_at=job.ended_at,
        last_error=job.last_error,
    )
