"""A user with a phone and a partner with a receiver, on a running stack."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import aiohttp

from infra.local.demo import DEMO_PARTNER, GRANTED
from infra.local.phone import Phone
from infra.local.receiver import Receiver

PROFILE = {"sex": "female", "birth_date": "1991-04-12", "height_cm": "170", "home_zone": "Europe/Berlin"}


@dataclass
class Client:
    """A signed-in user, and the partner's receiver when the user granted it scopes."""

    phone: Phone
    user_id: str
    receiver: Receiver | None = None
    refresh_token: str = ""


@asynccontextmanager
async def signed_in(url: str, *, patience: float = 100) -> AsyncIterator[Client]:
    """A new user on the gateway at `url`; requests are repeated for `patience` seconds."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        phone = Phone(url, session, time.monotonic() + patience)
        account = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(24)}
        user = await phone.send("POST", "/v1/users", key=str(uuid4()), body=account | {"profile": PROFILE})
        tokens = (await phone.send("POST", "/v1/tokens", body=account)).body
        phone.token = tokens["access_token"]
        yield Client(phone, user.body["user_id"], refresh_token=tokens["refresh_token"])


@asynccontextmanager
async def with_partner(client: Client, partner_key: str) -> AsyncIterator[Client]:
    """The client once the demo partner has a receiver and the user's grant."""
    receiver = Receiver(0)
    await receiver.start()
    try:
        endpoint = await client.phone.send(
            "POST",
            "/v1/webhook-endpoints",
            key=str(uuid4()),
            token=partner_key,
            body={"url": receiver.url, "payload": "full"},
        )
        receiver.secret = endpoint.body["secret"]
        grant = {"partner_id": DEMO_PARTNER, "scopes": GRANTED}
        await client.phone.send("POST", "/v1/grants", key=str(uuid4()), body=grant)
        yield Client(client.phone, client.user_id, receiver)
    finally:
        await receiver.stop()
