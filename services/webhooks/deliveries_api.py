"""What became of each delivery: for partners to see, and to have one tried again."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from msgspec.structs import replace
from pydantic import BaseModel, Field

from services.webhooks.asking import Id, PartnerId
from services.webhooks.endpoint_models import UserId
from services.webhooks.endpoints import Endpoints
from services.webhooks.records import Delivery, State
from services.webhooks.replays import retried
from services.webhooks.store import Store
from shared.clock import Clock
from shared.documents import Documents
from shared.errors import Problem
from shared.spans import trace_id_of

LARGEST_PAGE = 200


class AttemptView(BaseModel):
    """One try; `error` says in words why it did not succeed."""

    at: datetime
    status: int | None = Field(description="HTTP status; null: no answer came")
    ms: int
    error: str | None
    answer: str = Field(description="The first 2 kB of what the receiver answered")


class DeliveryView(BaseModel):
    """One message on its way to one endpoint. `trace_id` names what caused it."""

    delivery_id: str
    endpoint_id: str
    message_id: str = Field(description="The webhook-id")
    type: str
    user_id: str | None
    sequence: int | None
    state: State
    reason: str | None = Field(description="Why it waits, or ended undelivered")
    tries: int
    created_at: datetime
    due_at: datetime | None = Field(description="When it is tried next; null: it has ended, or waits for its turn")
    replay_id: str | None
    trace_id: str | None


class DeliveryDetail(DeliveryView):
    """The same with its last 20 attempts, oldest first."""

    attempts: list[AttemptView]


class DeliveryList(BaseModel):
    """Newest first. Ask again with `after` = `next_after` for the rest, also when this page is empty."""

    deliveries: list[DeliveryView]
    next_after: str | None


def create_router(documents: Documents, store: Store, endpoints: Endpoints, clock: Clock) -> APIRouter:
    """The routes, bound to what they need."""
    router = APIRouter(tags=["webhooks"])

    @router.get("/v1/webhook-endpoints/{endpoint_id}/deliveries")
    async def list_deliveries(
        endpoint_id: Id,
        partner: PartnerId,
        state: State | None = None,
        user: Annotated[UserId | None, Query(description="Of this user alone")] = None,
        after: Annotated[str | None, Query(max_length=500, description="`next_after` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
    ) -> DeliveryList:
        """The endpoint's deliveries of the last 30 days."""
        await endpoints.own(partner, endpoint_id)
        try:
            page = await store.queue.page(endpoint_id, state=state, user_id=user, limit=limit, cursor=after)
        except ValueError:
            raise Problem(422, "cursor-unknown", "Send `next_after` of the page before as `after`, or none.") from None
        found = [one for one in page.documents if state is None or one.state == state]
        return DeliveryList(deliveries=[DeliveryView(**_fields(one)) for one in found], next_after=page.cursor)

    @router.get("/v1/deliveries/{delivery_id}")
    async def get_delivery(delivery_id: Id, partner: PartnerId) -> DeliveryDetail:
        """One delivery with its attempts."""
        return _detail(await _own(store, partner, delivery_id))

    @router.post("/v1/deliveries/{delivery_id}/retries", status_code=202)
    async def retry_delivery(delivery_id: Id, partner: PartnerId) -> DeliveryDetail:
        """Try it now, with the same webhook-id; one that has ended gets the whole schedule again.

        Of one that waits the next try is now; one under way, or behind others of its user, stays as it is.
        """
        delivery = await _own(store, partner, delivery_id)
        endpoint = await endpoints.own_enabled(partner, delivery.endpoint_id)
        if delivery.state != "pending":
            again = await retried(documents, store, delivery, endpoint)
            if again is None:
                raise Problem(
                    409,
                    "not-repeatable",
                    "This message is not kept any more, or the user does not let you see it, or it was being retried.",
                )
            return _detail(again)
        if delivery.attempts == 0 and delivery.due_at is not None:
            delivery = await store.queue.hasten(replace(delivery, due_at=clock()))
        return _detail(delivery)

    return router


async def _own(store: Store, partner_id: str, delivery_id: str) -> Delivery:
    found = await store.queue.get(delivery_id)
    if found is None or found.partner_id != partner_id:
        raise Problem(404, "not-found", "You have no delivery of this id; they are listed at their endpoint.")
    return found


def _detail(delivery: Delivery) -> DeliveryDetail:
    attempts = [
        AttemptView(at=one.at, status=one.status, ms=one.ms, error=one.error, answer=one.answer)
        for one in delivery.history
    ]
    return DeliveryDetail(**_fields(delivery), attempts=attempts)


def _fields(delivery: Delivery) -> dict[str, Any]:
    return {
        "delivery_id": delivery.id,
        "endpoint_id": delivery.endpoint_id,
        "message_id": delivery.message_id,
        "type": delivery.message_type,
        "user_id": delivery.user_id or None,
        "sequence": delivery.sequence or None,
        "state": delivery.state,
        "reason": delivery.last_error,
        "tries": delivery.tries,
        "created_at": delivery.created_at,
        "due_at": delivery.due_at,
        "replay_id": delivery.replay_id,
        "trace_id": trace_id_of(delivery.traceparent),
    }
