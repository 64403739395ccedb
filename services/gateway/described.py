"""The gateway's own routes as OpenAPI sees them; `entry.py` serves them, nothing here runs."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query
from pydantic import BaseModel, Field

from services.gateway import routes
from services.gateway.batches import MAX_RECORDS, MAX_SERIES
from shared import problems
from shared.events import LabelReading, ReadingMode


class SampleBody(BaseModel):
    """One record. Without `end` it is an instant; `id` and `version` are the source's own."""

    metric: str = Field(max_length=64, examples=["heart_rate"])
    start: str = Field(json_schema_extra={"format": "date-time"}, examples=["2026-03-01T08:00:00+01:00"])
    end: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    value: float = Field(examples=[61])
    id: str | None = Field(default=None, min_length=1, max_length=256)
    version: int = Field(default=0, ge=0, lt=2**63)


class DeviceBody(BaseModel):
    """What measured."""

    id: str = Field(min_length=1, max_length=128, examples=["watch-1"])
    kind: Literal["watch", "phone", "ring", "workout", "scale", "other"]


class BatchBody(BaseModel):
    """Samples of one device."""

    device: DeviceBody
    app: str = Field(min_length=1, max_length=128, examples=["demo/1.0"])
    zone: str | None = Field(default=None, description="IANA time zone the user is in", examples=["Europe/Berlin"])
    samples: list[SampleBody] = Field(
        min_length=1, max_length=MAX_RECORDS, description=f"At most {MAX_SERIES} different metrics"
    )


class BatchAccepted(BaseModel):
    """Held safely; the receipt says when it is stored. A phone deletes its copy at `stored`, not before."""

    receipt_id: str
    state: Literal["queued"]
    link: str
    received: int
    invalid_records: int = Field(description="Records that could not be read; the receipt lists them")
    trace_id: str | None
    trace_kept: bool


class PhotoAccepted(BaseModel):
    """Held safely; the link says when the label is read."""

    photo_id: str
    state: Literal["queued"]
    link: str
    trace_id: str | None
    trace_kept: bool


class RefusedRecordBody(BaseModel):
    """A record that was not stored: its place in the batch sent, and why."""

    index: int
    code: str


class ReceiptBody(BaseModel):
    """What became of a batch. While `queued` only the first two members are there; `stored` means on disk."""

    receipt_id: str
    state: Literal["queued", "stored", "failed"]
    received: int | None = None
    stored: int | None = None
    duplicates: int | None = None
    corrections: int | None = None
    deleted: int | None = None
    refused: list[RefusedRecordBody] | None = None
    refused_count: int | None = None
    reason: str | None = Field(default=None, description="Why the whole batch failed")
    completed_at: datetime | None = None


class PhotoBody(BaseModel):
    """What became of a photo. While `queued` perhaps only the first two members are there."""

    photo_id: str
    state: Literal["queued", "read", "rejected"]
    submitted_at: datetime | None = None
    name: str | None = Field(default=None, description="The product's name, if the label shows one")
    reading: LabelReading | None = None
    warnings: list[str] | None = Field(default=None, description="Doubts about the numbers, as stable codes")
    mode: ReadingMode | None = None
    reason: str | None = Field(default=None, description="Why it was rejected, as a stable code")
    detail: str | None = Field(default=None, description="What to do about that")


class WhoAmI(BaseModel):
    """The caller as its token says."""

    user_id: str | None
    partner_id: str | None
    scopes: list[str]


PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in routes.PHOTOS.content_types},
    }
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def own_document() -> dict[str, Any]:
    """The OpenAPI document of the gateway's own routes."""
    app = FastAPI(title="gateway", version="1")
    problems.install(app)
    app.add_api_route(routes.BATCHES.path, submit_batch, methods=["POST"], status_code=202, tags=["samples"])
    app.add_api_route(
        routes.PHOTOS.path, submit_photo, methods=["PUT"], status_code=202, tags=["photos"], openapi_extra=PICTURE
    )
    app.add_api_route(routes.RECEIPT.path, receipt, methods=["GET"], tags=["samples"])
    app.add_api_route(routes.PHOTO.path, photo, methods=["GET"], tags=["photos"])
    app.add_api_route(routes.WHOAMI.path, whoami, methods=["GET"], tags=["accounts"])
    app.add_api_route(
        routes.LIVE.path, live, methods=["GET"], tags=["events"], responses=EVENT_STREAM, response_model=None
    )
    return app.openapi()


async def submit_batch(body: BatchBody) -> BatchAccepted:
    """Send samples. Records that cannot be read do not fail the batch; they are listed on the receipt."""
    raise NotImplementedError


async def submit_photo(
    grams: Annotated[
        float | None, Query(gt=0, le=5000, description="Eaten, up to 3 decimal places; without it only a food arises")
    ] = None,
    eaten_at: Annotated[str | None, Query(description="RFC 3339 with an offset, + escaped as %2B")] = None,
) -> PhotoAccepted:
    """Send a picture of a nutrition label as the raw body."""
    raise NotImplementedError


async def receipt(id: str) -> ReceiptBody:
    """What became of a batch."""
    raise NotImplementedError


async def photo(id: str) -> PhotoBody:
    """What became of a photo."""
    raise NotImplementedError


async def whoami() -> WhoAmI:
    """Who the caller is, as its token says."""
    raise NotImplementedError


async def live(
    last_event_id: Annotated[int | None, Header(description="Go on after this event, without gap or repeat")] = None,
) -> None:
    """The user's messages as they come (SSE). `id` is the user's sequence, `data` the message."""
    raise NotImplementedError
