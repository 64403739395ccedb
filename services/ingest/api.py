"""What users read of their days, and what they set about them: their zone and their order of devices."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from services.ingest.days import MetricDay, zone_on
from services.ingest.days_store import DaysStore
from services.ingest.explain import MetricExplained, explain
from services.ingest.metrics import DEVICE_PRIORITY, METRICS
from services.ingest.moments import Moment
from services.ingest.preferences import Preferences
from services.ingest.priorities import EVERY_METRIC, MAX_ITEMS, wrong_item
from services.ingest.records import Day
from services.ingest.zones import zone_of
from shared.callers import Caller
from shared.clock import FullDate
from shared.errors import Problem
from shared.events.ingest import DayMetric
from shared.identity import require
from shared.problems import RESPONSES

router = APIRouter(responses=RESPONSES)
MAX_DAYS = 366
# Phones ask for the zone they are about to be in; further ahead it is a mistake.
LONGEST_AHEAD = timedelta(days=1)


class DayAnswer(BaseModel):
    """One local day. `revision` counts up with every change; `zone` is the user's zone on that day."""

    date: date
    zone: str
    revision: int
    updated_at: datetime
    metrics: dict[str, DayMetric]


class DaysAnswer(BaseModel):
    """Local days in order; days of which nothing is known are left out."""

    days: list[DayAnswer]


@dataclass(frozen=True)
class DeviceName:
    """A device that the day's numbers come from."""

    kind: str
    app: str


@dataclass(frozen=True)
class ExplainAnswer:
    """Where a day's numbers come from, computed from what is held now.

    `revision` is the one last told; while `pending`, a newer one is on its way, and may differ from it.
    """

    date: date
    zone: str
    revision: int
    pending: bool
    devices: dict[str, DeviceName]
    metrics: dict[str, MetricExplained]


class PrioritiesAnswer(BaseModel):
    """Whose word counts when devices report the same time, best first, by metric; `*` is every metric not listed.

    Items are `device:<id>` or `kind:<kind>`; what is not listed follows in the order of `default`.
    """

    order: dict[str, list[str]]
    default: list[str]


class Order(BaseModel):
    """The order to use; an empty one is the default."""

    order: list[Annotated[str, Field(max_length=200)]] = Field(
        max_length=MAX_ITEMS, examples=[["device:my-watch", "kind:phone"]]
    )


class ZoneSince(BaseModel):
    """The user is in `zone` from then on."""

    start: datetime
    zone: str


class ZoneAnswer(BaseModel):
    """The zone the user is in now, the home zone that holds before the first change, and the changes in order."""

    zone: str
    home_zone: str
    changes: list[ZoneSince]


class NewZone(BaseModel):
    """The IANA zone the user is in, from now or from the time given on."""

    zone: str = Field(max_length=64, examples=["Europe/Berlin"])
    start: Moment | None = Field(default=None, alias="from")


class _Day(msgspec.Struct, frozen=True):
    """`DayAnswer` as it is written: 90 days take a fifth of the time that pydantic needs."""

    date: date
    zone: str
    revision: int
    updated_at: datetime
    metrics: Mapping[str, MetricDay]


def _days_of(request: Request) -> DaysStore:
    return cast(DaysStore, request.app.state.days)


def _preferences_of(request: Request) -> Preferences:
    return cast(Preferences, request.app.state.preferences)


Days = Annotated[DaysStore, Depends(_days_of)]
Settings = Annotated[Preferences, Depends(_preferences_of)]
DaysReader = Annotated[Caller, require("days:read")]
ProfileReader = Annotated[Caller, require("profile:read")]
ProfileWriter = Annotated[Caller, require("profile:write")]


@router.get("/v1/days", response_model=DaysAnswer)
async def get_days(
    days: Days,
    caller: DaysReader,
    since: Annotated[FullDate, Query(alias="from", description="The first day")],
    until: Annotated[FullDate, Query(alias="to", description="The last day, included")],
) -> Response:
    """The user's numbers of up to 366 local days."""
    if not since <= until:
        raise Problem(422, "invalid-range", "`from` must not be after `to`.")
    if (until - since).days >= MAX_DAYS:
        raise Problem(422, "invalid-range", f"Ask for at most {MAX_DAYS} days at once.")
    # `to` may be the last date there is.
    below = until + timedelta(days=1) if until < date.max else None
    found = await days.days(caller.user_id or "", since, below)
    return _json({"days": [_told(one) for one in found]})


@router.get("/v1/days/{date}", response_model=DayAnswer)
async def get_day(date: FullDate, days: Days, caller: DaysReader) -> Response:
    """The user's numbers of one local day."""
    day = await days.day(caller.user_id or "", date)
    if day is None:
        raise _unknown_day()
    return _json(_told(day))


@router.get("/v1/days/{date}/explain", response_model=ExplainAnswer)
async def explain_day(date: FullDate, days: Days, settings: Settings, caller: DaysReader) -> Response:
    """Where the numbers of one local day come from: every stretch of time, its device, and what was dropped."""
    user_id = caller.user_id or ""
    mark = await days.mark(user_id, date)
    if mark is None:
        raise _unknown_day()
    day = await days.day(user_id, date)
    chosen = await settings.of(user_id)
    held = await days.held(mark, mark.metrics or METRICS, chosen.history, chosen.ranking)
    zone = zone_on(date, chosen.history, mark.zone)
    # On a thread: with a watch and a phone it takes some 10 ms.
    metrics = await asyncio.to_thread(explain, date, zone, held.input, held.floating)
    told = [one for metric in metrics.values() for one in (*metric.devices, *metric.segments)]
    dropped = [each for metric in metrics.values() for one in metric.segments for each in one.dropped]
    known = await days.devices(user_id, sorted({one.device for one in (*told, *dropped)}))
    return _json(
        ExplainAnswer(
            date=date,
            zone=zone,
            revision=day.revision if day is not None else 0,
            pending=mark.due_at is not None,
            devices={id: DeviceName(one.kind, one.app) for id, one in known.items()},
            metrics=metrics,
        )
    )


@router.get("/v1/device-priorities")
async def get_priorities(settings: Settings, caller: ProfileReader) -> PrioritiesAnswer:
    """The user's order of devices."""
    order = (await settings.of(caller.user_id or "")).order
    return PrioritiesAnswer(
        order={metric: list(items) for metric, items in sorted(order.items())},
        default=[f"kind:{kind}" for kind in DEVICE_PRIORITY],
    )


@router.put("/v1/device-priorities/{metric}")
async def put_priorities(metric: str, body: Order, settings: Settings, caller: ProfileWriter) -> PrioritiesAnswer:
    """Set the order of devices for one metric, or with `*` for every metric not set; the days follow by themselves."""
    if metric != EVERY_METRIC and metric not in METRICS:
        raise Problem(404, "not-found", "There is no such metric; docs/metrics.md lists them, and * is all of them.")
    if wrong_item(body.order) is not None:
        raise Problem(422, "invalid-order", "Each item must be device:<id> or kind:<kind>, and none may come twice.")
    await settings.put_order(caller.user_id or "", metric, body.order)
    return await get_priorities(settings, caller)


@router.get("/v1/me/zone")
async def get_zone(settings: Settings, caller: ProfileReader) -> ZoneAnswer:
    """Where the user is now and was before; it decides the day of samples that came without an offset."""
    history = (await settings.of(caller.user_id or "")).history
    return ZoneAnswer(
        zone=history.at(round(settings.clock().timestamp() * 1_000_000)),
        home_zone=history.home,
        changes=[
            ZoneSince(start=datetime.fromtimestamp(one.from_us // 1_000_000, UTC), zone=one.zone)
            for one in history.changes
        ],
    )


@router.put("/v1/me/zone")
async def put_zone(body: NewZone, settings: Settings, caller: ProfileWriter) -> ZoneAnswer:
    """Say where the user is, or was from a past time on; days that rest on it follow by themselves."""
    if zone_of(body.zone) is None:
        raise Problem(422, "unknown-zone", "There is no such IANA time zone; send a name such as Europe/Berlin.")
    now = settings.clock()
    start = body.start or now
    if not datetime(1970, 1, 1, tzinfo=UTC) <= start <= now + LONGEST_AHEAD:
        raise Problem(422, "invalid-time", "`from` must lie between 1970 and tomorrow.")
    await settings.put_zone(caller.user_id or "", body.zone, start)
    return await get_zone(settings, caller)


def _told(day: Day) -> _Day:
    return _Day(day.day, day.zone, day.revision, day.updated_at, day.metrics)


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _unknown_day() -> Problem:
    return Problem(404, "not-found", "Nothing is known of this day yet; send its samples to POST /v1/batches.")
