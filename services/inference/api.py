"""A photo's state, read by its owner."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.inference.outcomes import label_reading, mode_of
from services.inference.store import PhotoJob, State, Store
from shared.callers import Caller
from shared.errors import Problem
from shared.events.inference import LabelReading, ReadingMode
from shared.identity import require


class Photo(BaseModel):
    """A photo: queued, read with what was read, or rejected with what to do."""

    photo_id: str
    state: State
    submitted_at: datetime
    name: str | None = Field(default=None, description="The product's name, if the label shows one")
    reading: LabelReading | None = None
    warnings: list[str] = Field(default_factory=list[str], description="Doubts about the numbers, as stable codes")
    mode: ReadingMode | None = None
    reason: str | None = None
    detail: str | None = None


def photo_of(job: PhotoJob) -> Photo:
    """The job as its owner sees it."""
    photo = Photo(photo_id=job.id, state=job.state, submitted_at=job.submitted_at)
    if job.found is not None:
        found = job.found
        return photo.model_copy(
            update={
                "name": found.name,
                "reading": label_reading(found),
                "warnings": list(found.warnings),
                "mode": mode_of(found),
            }
        )
    if job.refusal is not None:
        return photo.model_copy(update={"reason": job.refusal.reason, "detail": job.refusal.detail})
    return photo


def create_router(store: Store) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["inference"])

    @router.get("/v1/photos/{photo_id}")
    async def get_photo(photo_id: str, caller: Annotated[Caller, require("photos:read")]) -> Photo:
        """What became of one of the user's photos."""
        job = await store.job(photo_id)
        if job is None or job.user_id != caller.user_id:
            raise Problem(404, "not-found", "There is no such photo of yours.")
        return photo_of(job)

    return router
