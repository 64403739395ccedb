"""What all demos begin with: the running instance, a phone, a receiver of webhooks, a user; and how they are told."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import aiohttp
from rich.console import Console

from infra.local.instance import kind_of
from infra.local.phone import Phone, Refused
from infra.local.receiver import Delivered, Receiver
from shared import telemetry
from shared.settings import ServiceSettings

DEMO_PARTNER = "demo-partner"
GRANTED = ["samples:read", "days:read", "diary:read", "ledger:read", "insights:read", "photos:read"]
PATIENCE_SECONDS = 110.0
HEARD_SECONDS = 10.0
LOOK_EVERY_SECONDS = 0.05


class StoryBroke(Exception):
    """A step did not come true; the message says which."""


@dataclass(frozen=True)
class DemoTarget:
    """The running instance that the demo speaks to. `kill` sends SIGKILL to a process by its name."""

    gateway_url: str
    partner_key: str
    span_store: Path
    otlp_endpoint: str
    receiver_port: int
    kill: Callable[[str], int]
    photos_off: str = ""  # why there is no Triton; the second story is left out then


@dataclass
class Demo:
    """What the two stories share."""

    target: DemoTarget
    console: Console
    phone: Phone
    receiver: Receiver
    victim: str | None  # a kind, `ingest`, or in a cluster one process, `ingest-2`
    user_id: str = ""
    zone: tzinfo = UTC
    started: float = 0.0
    listening: "asyncio.Task[None] | None" = None

    def say(self, text: str) -> None:
        """Narrate one step with the seconds since the demo began."""
        self.console.print(f"[dim]{time.monotonic() - self.started:6.2f} s[/dim]  {text}", soft_wrap=True)

    def maybe_kill(self, *names: str) -> bool:
        """Kill the victim when it is one of `names`: in the middle, right after the request was accepted."""
        if self.victim is None or kind_of(self.victim) not in names:
            return False
        pid = self.target.kill(self.victim)
        self.say(f"[red]kill -9 {self.victim}[/red] (pid {pid})")
        return True

    async def hook(self, type: str, since: float, **data: object) -> Delivered:
        """Wait until the partner got a message of that type, and the live stream too; say after how long."""
        delivered = await self.receiver.wait_for(type, self.user_id, deadline=self.phone.deadline, **data)
        self.say(f"  webhook [cyan]{type}[/cyan], signature verified, {ms(delivered.at - since)} after the answer")
        sequence = delivered.body["data"]["sequence"]
        await self.phone.wait_for(type, sequence=sequence)
        self.say(f"  live    [cyan]{type}[/cyan] as event {sequence}")
        return delivered


@asynccontextmanager
async def told_with(target: DemoTarget, console: Console, victim: str | None = None) -> AsyncGenerator[Demo]:
    """A phone, a receiver for webhooks, and their telemetry, as long as a story lasts."""
    settings = ServiceSettings(otel_exporter_otlp_endpoint=target.otlp_endpoint, log_level="ERROR")
    telemetry.configure("receiver", settings)
    started = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=30, sock_connect=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        phone = Phone(target.gateway_url, session, started + PATIENCE_SECONDS)
        demo = Demo(target, console, phone, Receiver(target.receiver_port), victim, started=started)
        await demo.receiver.start()
        try:
            yield demo
        finally:
            if demo.listening:
                demo.listening.cancel()
            await demo.receiver.stop()
            telemetry.shutdown()


async def sign_up(demo: Demo) -> tuple[str, str]:
    """A user signs up, signs in and listens; the address and the password."""
    zone = evening_zone(datetime.now(UTC))
    demo.zone = ZoneInfo(zone)
    email, password = f"demo-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(24)
    profile = {"sex": "female", "birth_date": "1991-04-12", "height_cm": "170", "home_zone": zone}
    user = {"email": email, "password": password, "profile": profile}
    answer = await demo.phone.send("POST", "/v1/users", key=str(uuid4()), body=user)
    demo.user_id = answer.body["user_id"]
    demo.say(f"a user registered, id {demo.user_id}, at home in {zone}")
    answer = await demo.phone.send("POST", "/v1/tokens", body={"email": email, "password": password})
    demo.phone.token = answer.body["access_token"]
    demo.listening = asyncio.create_task(demo.phone.listen())
    return email, password


async def as_partner(demo: Demo, token: str, method: str, path: str, body: Any, key: str) -> dict[str, Any]:
    """What a partner's token or key gets, once the gateway has heard of the partner, within seconds of its beginning.

    Raises:
        Refused: it was not heard of in time, or the partner may not.
    """
    deadline = time.monotonic() + HEARD_SECONDS
    while True:
        try:
            return (await demo.phone.send(method, path, key=key, token=token, body=body)).body
        except Refused as refused:
            if refused.status != 401 or time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOK_EVERY_SECONDS)


def expect(condition: bool, otherwise: str) -> None:
    """Go on only where it is so. Raises StoryBroke."""
    if not condition:
        raise StoryBroke(otherwise)


def ms(seconds: float) -> str:
    """A duration for people, in milliseconds."""
    return f"{seconds * 1000:,.0f} ms"


def evening_zone(now: datetime) -> str:
    """A zone in which it is between 20:00 and 21:00 now, so that a waking day lies behind and the day is open."""
    ahead = (20 - now.hour + 12) % 24 - 12
    # POSIX signs: Etc/GMT-5 is five hours ahead of UTC.
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"
