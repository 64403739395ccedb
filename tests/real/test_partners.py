"""What a user lets a partner read, on real parts: at once, and within seconds no more, also for a fresh gateway."""

import asyncio
import time
from uuid import uuid4

import aiohttp
import pytest

from infra.local.demo import DEMO_PARTNER
from infra.local.phone import Refused
from tests.client import Client, signed_in
from tests.polling import eventually
from tests.running_stack import Stack

# What is promised: a grant that was taken back counts within so many seconds at every gateway, for streams too.
WITHIN_S = 5.0
SCOPES = ["days:read", "live:read"]


async def status(client: Client, stack: Stack, user_id: str) -> int:
    """What the partner is told when it asks for the user's days."""
    path = f"/v1/days?from=2026-03-01&to=2026-03-01&user={user_id}"
    try:
        await client.phone.send("GET", path, token=stack.partner_key)
    except Refused as refusal:
        return refusal.status
    return 200


async def last_words(stack: Stack, user_id: str) -> tuple[bytes, float]:
    """Read the partner's stream of the user to its end; its last text and when that was."""
    headers = {"Authorization": f"Bearer {stack.partner_key}"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.get(f"{stack.url}/v1/live?user={user_id}", headers=headers) as stream,
    ):
        assert stream.status == 200
        return (await stream.content.read())[-200:], time.monotonic()


async def test_a_grant_counts_at_once_and_its_end_within_seconds_and_for_good(stack: Stack) -> None:
    async with signed_in(stack.url) as client:

        async def told(expected: int) -> bool:
            return await status(client, stack, client.user_id) == expected

        assert await told(404)
        body = {"partner_id": DEMO_PARTNER, "scopes": SCOPES}
        grant = (await client.phone.send("POST", "/v1/grants", key=str(uuid4()), body=body)).body
        await eventually(lambda: told(200), seconds=WITHIN_S)
        stream = asyncio.create_task(last_words(stack, client.user_id))
        await eventually(lambda: not stream.done())
        await client.phone.send("DELETE", f"/v1/grants/{grant['grant_id']}")
        revoked = time.monotonic()
        await eventually(lambda: told(404), seconds=WITHIN_S)
        text, ended = await stream
        assert b"event: stream.ended\n" in text
        assert ended - revoked < WITHIN_S
        stack.kill("gateway")
        await eventually(lambda: not stack.ready("gateway"), seconds=20)
        await eventually(lambda: stack.ready("gateway"), seconds=60)
        assert await told(404)
        assert await status(client, stack, "usr_nobody") == 404


async def test_a_partner_reads_again_after_a_gateway_came_back(stack: Stack) -> None:
    async with signed_in(stack.url) as client:
        body = {"partner_id": DEMO_PARTNER, "scopes": SCOPES}
        await client.phone.send("POST", "/v1/grants", key=str(uuid4()), body=body)
        stack.kill("gateway")
        await eventually(lambda: not stack.ready("gateway"), seconds=20)
        await eventually(lambda: stack.ready("gateway"), seconds=60)
        assert await status(client, stack, client.user_id) == 200


@pytest.mark.parametrize("path", ["/internal/keys/verify", "/v1/../internal/keys/verify", "//internal/partners"])
async def test_what_is_internal_is_not_there_from_outside(stack: Stack, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{stack.url}{path}"
        async with session.post(url, json={"key": stack.partner_key}, allow_redirects=False) as answer:
            assert answer.status in (404, 405)
