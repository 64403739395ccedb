"""The devices a user sends from, and how complete what they sent is."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.ingest.buckets import MINUTE_US
from services.ingest.completeness import DAY_US, Gap, Tally
from services.ingest.days import number_of
from services.ingest.moments import local_moment, micros
from services.ingest.records import Device
from services.ingest.series_store import Reads
from shared.callers import Caller
from shared.clock import Clock, FullDate
from shared.errors import Problem
from shared.identity import require
from shared.problems import RESPONSES

MAX_DAYS = 31


class DeviceAnswer(BaseModel):
    """A device, and when it was first and last heard of."""

    device_id: str = Field(examples=["watch-1"])
    kind: str = Field(examples=["watch"])
    app: str = Field(description="What sent for it last", examples=["demo/1.0"])
    first_seen_at: datetime
    seen_at: datetime = Field(description="To a few minutes")


class DeviceList(BaseModel):
    """The caller's devices, by id."""

    devices: list[DeviceAnswer]


class GapAnswer(BaseModel):
    """A stretch without readings between 06:00 and 22:00."""

    start: datetime
    end: datetime
    minutes: int


class MetricCompleteness(BaseModel):
    """One metric of one device on one local day."""

    expected: int | None = Field(
        description="The device's median number of samples a day over its last 14 days with data, today left out; "
        "null with fewer than 3 such days"
    )
    received: int
    late: int = Field(description="Arrived more than 6 h after they ended")
    gaps: list[GapAnswer] | None = Field(
        description="Between 06:00 and 22:00 local, longer than 15 minutes and than five times the device's usual "
        "distance between readings; null for interval metrics, where nothing counted looks like nothing sent"
    )


class DayCompleteness(BaseModel):
    """A device's metrics on one local day."""

    date: date
    metrics: dict[str, MetricCompleteness]


class DeviceCompleteness(BaseModel):
    """A device over the days asked for."""

    device_id: str
    kind: str
    last_error: str | None = Field(description="Of its provider's connection; null for what a phone sends itself")
    days: list[DayCompleteness]


class CompletenessAnswer(BaseModel):
    """How complete each device's data are. Devices without data in these and the 28 days before are left out."""

    since: date = Field(alias="from")
    to: date
    devices: list[DeviceCompleteness]


def create_router(reads: Reads, clock: Clock) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get("/v1/devices")
    async def list_devices(caller: Annotated[Caller, require("samples:read")]) -> DeviceList:
        """What the caller's samples come from."""
        found = await reads.devices(caller.user_id or "")
        return DeviceList(devices=[device_answer(one) for one in sorted(found, key=lambda one: one.device_id)])

    @router.get("/v1/completeness")
    async def get_completeness(
        caller: Annotated[Caller, require("samples:read")],
        since: Annotated[FullDate, Query(alias="from", description="The first local day")],
        to: Annotated[FullDate, Query(description="The last local day, included; at most 31 days in all")],
    ) -> CompletenessAnswer:
        """Per device and local day: what usually comes, what came, what came late, and where nothing came."""
        if not 0 <= (to - since).days < MAX_DAYS:
            raise Problem(422, "bad-range", f"Ask for 1 to {MAX_DAYS} days: `from` and `to` are both included.")
        first, last = number_of(since), number_of(to)
        now = clock()
        tallies, offset = await reads.tallies(caller.user_id or "", first, last)
        answers: dict[tuple[str, str], list[dict[str, MetricCompleteness]]] = {}
        for (device_id, kind, metric), tally in sorted(tallies.items()):
            days = answers.setdefault((device_id, kind), [{} for _ in range(first, last + 1)])
            for place, metrics in enumerate(_metrics(tally, first, last, now, offset)):
                days[place][metric] = metrics
        devices = [_completeness(device_id, kind, since, days) for (device_id, kind), days in answers.items()]
        return CompletenessAnswer(**{"from": since}, to=to, devices=devices)

    return router


def device_answer(one: Device) -> DeviceAnswer:
    """The device as its user sees it."""
    return DeviceAnswer(
        device_id=one.device_id,
        kind=one.kind,
        app=one.app,
        first_seen_at=one.first_seen_at,
        seen_at=one.seen_at,
    )


def _completeness(
    device_id: str, kind: str, since: date, days: Sequence[dict[str, MetricCompleteness]]
) -> DeviceCompleteness:
    """What is told of one device; `days` are its metrics by local day, from `since` on."""
    return DeviceCompleteness(
        device_id=device_id,
        kind=kind,
        last_error=None,
        days=[
            DayCompleteness(date=since + timedelta(days=place), metrics=metrics) for place, metrics in enumerate(days)
        ],
    )


def _metrics(tally: Tally, first: int, last: int, now: datetime, offset: int) -> list[MetricCompleteness]:
    today = micros(now) // DAY_US
    expected = tally.expected(min(last + 1, today))
    return [
        MetricCompleteness(
            expected=expected,
            received=one.received,
            late=one.late,
            gaps=None if one.gaps is None else [_gap(gap) for gap in one.gaps],
        )
        for one in tally.days(range(first, last + 1), micros(now), offset)
    ]


def _gap(gap: Gap) -> GapAnswer:
    return GapAnswer(
        start=local_moment(gap.start - gap.first * MINUTE_US, gap.first),
        end=local_moment(gap.end - gap.last * MINUTE_US, gap.last),
        minutes=(gap.end - gap.start) // MINUTE_US,
    )
