"""Events for webhooks, and what came of them: the public messages and the deliveries."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from services.webhooks.store import Delivery, Store
from shared import topics
from shared.clock import utc_now
from shared.events.auth import GrantUpdated
from shared.events.inference import PhotoRejected
from shared.events.ingest import DayMetric, DayUpdated
from shared.events.insights import Fact, InsightCreated
from shared.events.webhooks import MessagePublished
from tests.service.running import Running

USER, PARTNER = "user-1", "partner-1"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
DEAD = topics.DAYS.dead_letters("webhooks")
DEAD_INSIGHT = topics.INSIGHTS.dead_letters("webhooks")
DEAD_PARTNER = topics.PARTNERS.dead_letters("webhooks")
SCOPES = ("days:read", "diary:read", "ledger:read", "insights:read", "photos:read", "samples:read")
LISTEN = (topics.MESSAGES.name, DEAD, DEAD_INSIGHT, DEAD_PARTNER)


def insight(number: int = 1, user_id: str = USER, text: str = "11,143 steps") -> InsightCreated:
    return InsightCreated(
        event_id=f"insight-{user_id}-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=user_id,
        insight_id=f"i{number}",
        date=date(2026, 3, 1),
        title="Steps",
        text=text,
        facts=(Fact(id="steps", value=Decimal("11143"), unit="{steps}", window="1 d", n=2),),
        mode="deterministic",
    )


def day(number: int = 1, user_id: str = USER) -> DayUpdated:
    return DayUpdated(
        event_id=f"day-{user_id}-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=user_id,
        date=date(2026, 3, 1),
        zone="Europe/Berlin",
        revision=number,
        metrics={"steps": DayMetric(unit="{steps}", count=2, sum=11143)},
    )


def rejected_photo(number: int) -> PhotoRejected:
    return PhotoRejected(
        event_id=f"photo-{number}",
        occurred_at=datetime(2026, 3, 1, 8, tzinfo=UTC),
        user_id=USER,
        photo_id=f"p{number}",
        reason="no-label",
        detail="Take it closer.",
    )


def grant(revision: int = 1, *, scopes: tuple[str, ...] = SCOPES, revoked: bool = False, **changed: Any):
    values: dict[str, Any] = {
        "event_id": f"grant-{revision}",
        "occurred_at": utc_now() - timedelta(seconds=5),
        "grant_id": "grant",
        "user_id": USER,
        "partner_id": PARTNER,
        "revision": revision,
        "scopes": scopes,
        "revoked_at": utc_now() if revoked else None,
    }
    return GrantUpdated(**(values | changed))


async def endpoint(service: Running, url: str, *, partner: str = PARTNER, key: str = "k", **fields: Any):
    headers = service.headers(partner_id=partner, scopes=("webhooks:write",), key=key)
    return await service.http.post(
        "/v1/webhook-endpoints", json={"url": url, "payload": "full", **fields}, headers=headers
    )


def store(service: Running) -> Store:
    return service.app.state.store


async def deliveries(service: Running, made: Any) -> tuple[Delivery, ...]:
    return await store(service).deliveries(made.json()["endpoint_id"])


def messages(service: Running) -> list[MessagePublished]:
    values = service.published[topics.MESSAGES.name]
    return [MessagePublished.model_validate_json(value) for value in values]


async def delivered(service: Running, made: Any) -> tuple[Delivery, ...]:
    found = await deliveries(service, made)
    return found if all(one.state == "delivered" for one in found) else ()


async def tried(service: Running, made: Any, tries: int) -> tuple[Delivery, ...]:
    found = await deliveries(service, made)
    return found if found and all(one.tries >= tries for one in found) else ()


async def state_of(service: Running, made: Any, state: str) -> bool:
    return [one.state for one in await deliveries(service, made)] == [state]
