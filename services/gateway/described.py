"""The gateway's own routes as OpenAPI sees them; `entry.py` serves them, nothing here runs."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query
from pydantic import BaseModel, Field

from services.gateway import described_live, routes
from services.gateway.batches import MAX_POINTS, MAX_RECORDS, MAX_SERIES
from services.gateway.sessions import MAX_STREAMS, MAX_TOTALS
from shared import problems
from shared.events.inference import LabelReading, ReadingMode

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
SourceId = Annotated[str, Field(min_length=1, max_length=256)]
Version = Annotated[int, Field(ge=0, lt=2**63, description="The source's version or update time; the newer wins")]


class SampleBody(BaseModel):
    """One record. Without `end` it is an instant; `id` and `version` are the source's own."""

    metric: str = Field(
        min_length=1,
        max_length=64,
        description="Our name, or HealthKit's or Health Connect's as it is",
        examples=["heart_rate"],
    )
    start: Time = Field(
        description="With the offset of the user's clock; Z and -00:00 say that it is not known",
        examples=["2026-03-01T08:00:00+01:00"],
    )
    end: Time | None = None
    value: float = Field(examples=[61])
    unit: str | None = Field(
        default=None, max_length=64, description="Of `value`; without it the metric's own", examples=["1/min"]
    )
    id: SourceId | None = None
    version: Version = 0


class StageBody(BaseModel):
    """A stretch of a sleep."""

    stage: str | int = Field(description="By name, or by the platform's number", examples=["deep"])
    start: Time
    end: Time


class StreamBody(BaseModel):
    """Values of a workout, each so many seconds after `start`; `offsets_s` and `values` are equally long."""

    name: str = Field(max_length=64, examples=["heart_rate"])
    start: Time
    offsets_s: list[float] = Field(examples=[[0, 1, 2.5]])
    values: list[float] = Field(examples=[[120, 121, 125]])


class SessionBody(BaseModel):
    """A sleep with its stages, or a workout with its sport, totals and streams."""

    type: str = Field(min_length=1, max_length=64, examples=["sleep"])
    start: Time = Field(examples=["2026-03-01T23:00:00+01:00"])
    end: Time = Field(examples=["2026-03-02T07:00:00+01:00"])
    id: SourceId | None = None
    version: Version = 0
    sport: str | int | None = Field(default=None, description="By name, or by the platform's number")
    totals: dict[str, float] | None = Field(
        default=None, max_length=MAX_TOTALS, examples=[{"distance_m": 8000, "energy_active_kcal": 510}]
    )
    stages: list[StageBody] | None = None
    streams: list[StreamBody] | None = Field(default=None, max_length=MAX_STREAMS)


class DeletionBody(BaseModel):
    """A record that is gone at its source: its `id`, or its `metric` and `start` (and `end`) where it has none."""

    id: SourceId | None = Field(default=None, examples=["7f0c2d"])
    metric: str | None = Field(default=None, max_length=64)
    start: Time | None = None
    end: Time | None = None
    version: Version = Field(default=0, description="0 deletes it whatever its version is, and for good")


class DeviceBody(BaseModel):
    """What measured."""

    id: str = Field(min_length=1, max_length=128, examples=["watch-1"])
    kind: Literal["watch", "phone", "ring", "workout", "scale", "other"]


class BatchBody(BaseModel):
    """What one device has to tell: at least one record, and at most 10,000 of all kinds together.

    A record's index on the receipt counts through samples, then sessions, then deletions.
    """

    device: DeviceBody
    app: str = Field(min_length=1, max_length=128, examples=["demo/1.0"])
    zone: str | None = Field(default=None, description="IANA time zone the user is in", examples=["Europe/Berlin"])
    samples: list[SampleBody] = Field(
        default_factory=list[SampleBody],
        max_length=MAX_RECORDS,
        description=f"At most {MAX_SERIES} different metrics and units",
    )
    sessions: list[SessionBody] = Field(
        default_factory=list[SessionBody],
        max_length=MAX_RECORDS,
        description=f"At most {MAX_POINTS} stages and stream points",
    )
    deletions: list[DeletionBody] = Field(default_factory=list[DeletionBody], max_length=MAX_RECORDS)


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
Wait = Annotated[
    str | None,
    Query(
        description="Answer when the receipt is completed, at the latest after so long: `2s`, `500ms`, up to 10 s",
        pattern=r"^\d{1,5}(\.\d{1,3})?(s|ms)?$",
        examples=["2s"],
    ),
]
COMPLETED: dict[int | str, dict[str, Any]] = {
    200: {"description": "With `wait`: the completed receipt", "model": ReceiptBody}
}


def own_document() -> dict[str, Any]:
    """The OpenAPI document of the gateway's own routes."""
    app = FastAPI(title="gateway", version="1")
    problems.install(app)
    app.add_api_route(
        routes.BATCHES.path, submit_batch, methods=["POST"], status_code=202, tags=["samples"], responses=COMPLETED
    )
    app.add_api_route(
        routes.PHOTOS.path, submit_photo, methods=["PUT"], status_code=202, tags=["photos"], openapi_extra=PICTURE
    )
    app.add_api_route(routes.RECEIPT.path, receipt, methods=["GET"], tags=["samples"])
    app.add_api_route(routes.PHOTO.path, photo, methods=["GET"], tags=["photos"])
    app.add_api_route(routes.WHOAMI.path, whoami, methods=["GET"], tags=["accounts"])
    described_live.add(app)
    return app.openapi()


async def submit_batch(
    body: BatchBody,
    wait: Wait = None,
    content_encoding: Annotated[
        Literal["gzip", "zstd", "identity"] | None, Header(description="How the body is compressed")
    ] = None,
) -> BatchAccepted:
    """Send samples, sessions and deletions of one device.

    Records that cannot be read do not fail the batch; they are listed on the receipt. 503 `overloaded` says that
    nothing was taken: send the same again after the time in Retry-After.
    """
    raise NotImplementedError


async def submit_photo(
    grams: Annotated[
        float | None, Query(gt=0, le=5000, description="Eaten, up to 3 decimal places; without it only a food arises")
    ] = None,
    eaten_at: Annotated[str | None, Query(description="RFC 3339 with an offset, + escaped as %2B")] = None,
) -> PhotoAccepted:
    """Send a picture of a nutrition label as the raw body."""
    raise NotImplementedError


async def receipt(id: str, wait: Wait = None) -> ReceiptBody:
    """What became of a batch."""
    raise NotImplementedError


async def photo(id: str) -> PhotoBody:
    """What became of a photo."""
    raise NotImplementedError


async def whoami() -> WhoAmI:
    """Who the caller is, as its token says."""
    raise NotImplementedError
