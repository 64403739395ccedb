"""What a partner hears of follows from grants, and from whether it may work."""

import json
from datetime import timedelta
from typing import Literal

from aiohttp import web

from shared import topics
from shared.clock import utc_now
from shared.events.auth import PartnerUpdated, UserErased
from tests.polling import eventually
from tests.service import webhook_endpoints
from tests.service.gateway_edges import MovableClock
from tests.service.receiver import Receiver
from tests.service.running import Running
from tests.service.webhook_events import (
    DEAD_PARTNER,
    PARTNER,
    SCOPES,
    USER,
    day,
    delivered,
    deliveries,
    endpoint,
    grant,
    insight,
    state_of,
    store,
    tried,
)

service = webhook_endpoints.heard


async def test_nothing_leaves_without_a_grant_that_covers_it(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant(scopes=("days:read",)))
    await service.send(topics.GRANTS, grant(grant_id="g2", user_id="another", event_id="g2"))
    await service.send(topics.INSIGHTS, insight())
    assert await deliveries(service, made) == ()
    await service.send(topics.DAYS, day())
    await eventually(lambda: delivered(service, made))
    assert [json.loads(one.body)["type"] for one in receiver.received] == ["day.updated"]


async def test_a_grant_that_ends_cancels_what_waits(service: Running, receiver: Receiver, clock: MovableClock):
    receiver.answers.append(web.Response(status=500))
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: tried(service, made, 1))
    await service.send(topics.GRANTS, grant(2, revoked=True))
    # Late news of the old revision changes nothing.
    await service.send(topics.GRANTS, grant(1))
    clock.ahead = timedelta(seconds=7)
    await eventually(lambda: state_of(service, made, "cancelled"))
    (cancelled,) = await deliveries(service, made)
    assert (cancelled.body, cancelled.due_at, len(receiver.received)) == (None, None, 1)
    await service.send(topics.INSIGHTS, insight(2))
    assert len(await deliveries(service, made)) == 1


def partner(revision: int, state: Literal["active", "suspended"]) -> PartnerUpdated:
    return PartnerUpdated(
        event_id=f"partner-{revision}",
        occurred_at=utc_now(),
        partner_id=PARTNER,
        revision=revision,
        name="Oat & Co",
        scopes=SCOPES,
        state=state,
    )


async def test_a_suspended_partner_gets_nothing_until_it_may_work_again(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    for _ in range(2):
        await service.send(topics.PARTNERS, partner(2, "suspended"))
    # Late news of the old revision changes nothing.
    await service.send(topics.PARTNERS, partner(1, "active"))
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: state_of(service, made, "cancelled"))
    (cancelled,) = await deliveries(service, made)
    assert (cancelled.body, cancelled.last_error, receiver.received) == (None, "the partner is suspended", [])
    await service.send(topics.PARTNERS, partner(3, "active"))
    await service.send(topics.INSIGHTS, insight(2))
    await eventually(lambda: len(receiver.received) == 1)


async def test_a_suspended_partner_hears_all_the_same_whom_it_must_forget(service: Running, receiver: Receiver):
    await endpoint(service, receiver.url)
    await service.send(topics.GRANTS, grant())
    await service.send(topics.PARTNERS, partner(1, "suspended"))
    erased = UserErased(event_id="e", occurred_at=utc_now(), user_id=USER, revision=2)
    await service.send(topics.USERS, erased)
    await eventually(lambda: len(receiver.received) == 1)
    assert json.loads(receiver.received[0].body)["type"] == "user.erased"


async def test_unreadable_news_of_a_partner_is_a_dead_letter_and_the_next_is_heard(service: Running):
    await service.send_bytes(topics.PARTNERS, b"{")
    await eventually(lambda: len(service.published[DEAD_PARTNER]) == 1)
    await service.send(topics.PARTNERS, partner(1, "suspended"))
    assert await store(service).suspended(PARTNER, "day.updated")


async def test_news_of_a_grant_may_come_after_the_first_events(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.DAYS, day())
    await service.send(topics.INSIGHTS, insight())
    assert await deliveries(service, made) == ()
    await service.send(topics.GRANTS, grant())
    await eventually(lambda: delivered(service, made))
    assert {json.loads(one.body)["type"] for one in receiver.received} == {"day.updated", "insight.created"}


async def test_a_grant_does_not_reach_back(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url)
    await service.send(topics.DAYS, day())
    await service.send(topics.GRANTS, grant(occurred_at=utc_now() + timedelta(seconds=1)))
    assert await deliveries(service, made) == ()


async def test_only_the_types_asked_for(service: Running, receiver: Receiver):
    made = await endpoint(service, receiver.url, event_types=["insight.created", "insight.created"])
    assert made.json()["event_types"] == ["insight.created"]
    await service.send(topics.GRANTS, grant())
    await service.send(topics.DAYS, day())
    await service.send(topics.INSIGHTS, insight())
    await eventually(lambda: delivered(service, made))
    assert [json.loads(one.body)["type"] for one in receiver.received] == ["insight.created"]
