"""Signing out on real parts: within seconds, for streams too, and for a gateway that was not there."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from infra.local.phone import Refused
from tests.client import Client, signed_in
from tests.polling import eventually
from tests.running_stack import Stack

# What is promised: an ended session is refused within so many seconds at every gateway.
WITHIN_S = 5.0


async def refused(client: Client) -> bool:
    """Whether the client's access token is refused."""
    try:
        await client.phone.send("GET", "/v1/whoami")
    except Refused as refusal:
        return refusal.status == 401
    return False


async def ended(stack: Stack, token: str) -> float:
    """Read a live stream to its end; when that was, in seconds of `time.monotonic`."""
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{stack.url}/v1/live", headers=headers) as stream,
    ):
        assert stream.status == 200
        assert (await stream.content.read()).endswith(b": end\n\n")
    return time.monotonic()


async def sessions(client: Client) -> list[dict[str, Any]]:
    return (await client.phone.send("GET", "/v1/me/sessions")).body["sessions"]


async def test_signing_out_ends_token_and_stream_within_seconds_and_for_good(stack: Stack) -> None:
    async with signed_in(stack.url) as client:
        (session,) = await sessions(client)
        stream = asyncio.create_task(ended(stack, client.phone.token))
        await eventually(lambda: not stream.done())
        assert not await refused(client)
        await client.phone.send("DELETE", f"/v1/me/sessions/{session['session_id']}")
        signed_out = time.monotonic()
        await eventually(lambda: refused(client), seconds=WITHIN_S)
        assert await stream - signed_out < WITHIN_S
        stack.kill("gateway")
        await eventually(lambda: not stack.ready("gateway"), seconds=20)
        await eventually(lambda: stack.ready("gateway"), seconds=60)
        assert await refused(client)


async def test_a_replayed_refresh_token_costs_the_session(stack: Stack) -> None:
    async with signed_in(stack.url) as client:
        (session,) = await sessions(client)
        first = client.refresh_token
        for _ in range(2):
            answer = await client.phone.send("POST", "/v1/tokens/refresh", body={"refresh_token": client.refresh_token})
            client.refresh_token, client.phone.token = answer.body["refresh_token"], answer.body["access_token"]
        assert answer.body["session_id"] == session["session_id"]
        with pytest.raises(Refused):
            await client.phone.send("POST", "/v1/tokens/refresh", body={"refresh_token": first})
        await eventually(lambda: refused(client), seconds=WITHIN_S)
        with pytest.raises(Refused):
            await client.phone.send("POST", "/v1/tokens/refresh", body={"refresh_token": client.refresh_token})
