"""A partner's own machine on real parts: thin messages, verified, failing on demand, under changing keys."""

import asyncio
from typing import Any
from uuid import uuid4

from infra.local.demo_stage import DEMO_PARTNER
from infra.local.instance import free_ports
from infra.local.phone import Phone
from tests.client import signed_in
from tests.polling import eventually
from tests.running_stack import Stack, mymacro

DATE = "2026-03-01"
BATCH = {
    "device": {"id": "watch-1", "kind": "watch"},
    "app": "test/1",
    "zone": "UTC",
    "samples": [{"metric": "steps", "start": f"{DATE}T08:00:00Z", "end": f"{DATE}T08:10:00Z", "value": 4711}],
}


async def test_a_listener_gets_what_it_fails_on_again_and_nothing_of_the_data(stack: Stack) -> None:
    (port,) = free_ports(1)
    words = ("webhooks", "listen", "--port", str(port), "--answer", "500", "--times", "1", "--most", "3")
    listening = asyncio.create_task(mymacro(stack, *words))
    async with signed_in(stack.url) as client:
        phone = client.phone

        async def made() -> list[dict[str, Any]]:
            found = await as_partner(phone, stack, "GET", "")
            return [one for one in found["endpoints"] if one["url"] == f"http://127.0.0.1:{port}/"]

        (endpoint,) = await eventually(made, seconds=30)
        path = f"/{endpoint['endpoint_id']}"
        only_steps = {"event_types": ["receipts.completed"], "user_ids": [client.user_id]}
        assert (await as_partner(phone, stack, "PATCH", path, only_steps))["payload"] == "thin"
        rotated = await as_partner(phone, stack, "POST", f"{path}/secrets", {"signature": "ed25519"})
        assert rotated["public_key"].startswith("whpk_")
        grant = {"partner_id": DEMO_PARTNER, "scopes": ["samples:read"]}
        await phone.send("POST", "/v1/grants", key=str(uuid4()), body=grant)
        await phone.send("POST", "/v1/batches", key=str(uuid4()), body=BATCH)

        async def waits() -> bool:
            return (await as_partner(phone, stack, "GET", path))["failing_since"] is not None

        await eventually(waits, seconds=30)
        test = await as_partner(phone, stack, "POST", f"{path}/tests")
        said = await listening
        assert await made() == []
    receipts = [line for line in said.splitlines() if "receipts.completed " in line]
    assert [line.partition(": ")[2] for line in receipts] == ["verified, answered 500", "verified, answered 204"]
    assert f"endpoint.test {test['message_id']}: verified, answered 204" in said
    assert "3 deliveries of 2 messages" in said
    assert '"link": "/v1/receipts/' in said
    assert "4711" not in said


async def as_partner(phone: Phone, stack: Stack, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """What the demo partner is answered about its endpoints."""
    where = f"/v1/webhook-endpoints{path}"
    return (await phone.send(method, where, key=str(uuid4()), token=stack.partner_key, body=body)).body


async def test_what_messages_look_like_is_for_anyone_and_may_be_kept(stack: Stack) -> None:
    async with signed_in(stack.url) as client:
        async with client.phone.session.get(f"{stack.url}/v1/event-types") as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=3600")
            types = {one["type"]: one for one in (await answer.json())["event_types"]}
        assert types["day.updated"]["scope"] == "days:read"
