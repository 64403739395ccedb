"""What samples were before they were corrected or deleted."""

import hashlib
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.ingest.history_store import History, Now
from services.ingest.moments import local_moment
from services.ingest.ranges import Chosen
from services.ingest.records import Replaced
from shared.callers import Caller
from shared.errors import Problem
from shared.events.gateway import UNKNOWN_OFFSET
from shared.identity import require
from shared.problems import RESPONSES

MAX_SAMPLES = 1_000


class WasAnswer(BaseModel):
    """A state that is no longer in force."""

    start: datetime
    end: datetime
    value: float
    source_version: int = Field(description="The source's own version of it, 0 where it has none")
    replaced_at: datetime
    reason: str = Field(description="correction, moved (to another time) or deleted")
    receipt_id: str = Field(description="The batch that replaced it")


class NowAnswer(BaseModel):
    """The state in force. A deleted sample has no value."""

    deleted: bool
    start: datetime
    end: datetime
    value: float | None
    source_version: int


class SampleHistory(BaseModel):
    """A sample that was replaced, oldest state first."""

    device: str
    start: datetime = Field(description="Of its first state that is known here")
    end: datetime
    now: NowAnswer | None = Field(description="null when it has moved to another time than any of its old states")
    was: list[WasAnswer]


class HistoryAnswer(BaseModel):
    """Samples that were replaced, in order of their start. With a `cursor` there are more."""

    metric: str
    unit: str
    samples: list[SampleHistory]
    cursor: str | None


def create_router(history: History) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["samples"], responses=RESPONSES)

    @router.get("/v1/timeseries/history")
    async def get_history(
        caller: Annotated[Caller, require("samples:read")],
        chosen: Chosen,
        device: Annotated[str | None, Query(max_length=128)] = None,
        id: Annotated[str | None, Query(max_length=256, description="The sample's id as the client sent it")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_SAMPLES, description="Old states a page, or a few more")] = 100,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> HistoryAnswer:
        """What samples that began in [from, to) were before, when they were replaced, by which batch, and why."""
        user_id = caller.user_id or ""
        try:
            page = await history.replaced(user_id, chosen.metric.name, chosen.from_us, chosen.to_us, limit, cursor)
        except ValueError as error:
            raise Problem(422, "invalid-cursor", "Send a cursor as it was answered, or none.") from error
        wanted = None if id is None else hashlib.blake2b(id.encode(), digest_size=16).hexdigest()
        states: dict[tuple[str, str], list[Replaced]] = {}
        for one in page.documents:
            if device in (None, one.device_id) and wanted in (None, one.identity):
                states.setdefault((one.device_id, one.identity), []).append(one)
        now = await history.now(user_id, chosen.metric, [one for found in states.values() for one in found])
        return HistoryAnswer(
            metric=chosen.metric.name,
            unit=chosen.metric.unit,
            samples=[
                _sample(device_id, found, now.get((device_id, key))) for (device_id, key), found in states.items()
            ],
            cursor=page.cursor,
        )

    return router


def _sample(device_id: str, states: list[Replaced], now: Now | None) -> SampleHistory:
    # Corrected and deleted in one batch, both were replaced at the same time.
    states.sort(key=lambda one: (one.replaced_at, one.source_version, one.reason == "deleted"))
    offset = UNKNOWN_OFFSET if now is None else now.offset
    return SampleHistory(
        device=device_id,
        start=local_moment(states[0].start_us, offset),
        end=local_moment(states[0].end_us, offset),
        now=None
        if now is None
        else NowAnswer(
            deleted=now.deleted,
            start=local_moment(now.start_us, offset),
            end=local_moment(now.end_us, offset),
            value=None if now.deleted else now.value,
            source_version=now.source_version,
        ),
        was=[
            WasAnswer(
                start=local_moment(one.start_us, offset),
                end=local_moment(one.end_us, offset),
                value=one.value,
                source_version=one.source_version,
                replaced_at=one.replaced_at,
                reason=one.reason,
                receipt_id=one.receipt_id,
            )
            for one in states
        ],
    )
