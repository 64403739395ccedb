"""The demo: two stories told on the running stack, from the phone's POST to the partner's webhook."""

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

from infra.local import labels, trace_tree
from infra.local.phone import Phone, Refused, half_a_day
from infra.local.receiver import Delivered, Receiver
from shared import telemetry
from shared.settings import ServiceSettings

DEMO_PARTNER = "demo-partner"
GRANTED = ["samples:read", "days:read", "diary:read", "ledger:read", "insights:read", "photos:read"]
PATIENCE_SECONDS = 110.0
HEARD_SECONDS = 10.0
LOOK_EVERY_SECONDS = 0.05
# Who can be killed in the middle; each is killed where the story needs it.
DAY_VICTIMS = ("ingest", "insights", "webhooks")
MEAL_VICTIMS = ("inference", "nutrition", "triton", "triton-stub")
VICTIMS = ("gateway", "auth", "kafka", *DAY_VICTIMS, *MEAL_VICTIMS)
LABEL = {
    "energy_kcal": "374",
    "fat_g": "7.1",
    "carbohydrate_g": "58.7",
    "sugar_g": "1.2",
    "protein_g": "13.5",
    "salt_g": "0.02",
}


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
    victim: str | None
    user_id: str = ""
    zone: tzinfo = UTC
    started: float = 0.0
    listening: "asyncio.Task[None] | None" = None

    def say(self, text: str) -> None:
        """Narrate one step with the seconds since the demo began."""
        self.console.print(f"[dim]{time.monotonic() - self.started:6.2f} s[/dim]  {text}", soft_wrap=True)

    def maybe_kill(self, *names: str) -> bool:
        """Kill the victim when it is one of `names`: in the middle, right after the request was accepted."""
        if self.victim not in names:
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


def ms(seconds: float) -> str:
    """A duration for people, in milliseconds."""
    return f"{seconds * 1000:,.0f} ms"


def evening_zone(now: datetime) -> str:
    """A zone in which it is between 20:00 and 21:00 now, so that a waking day lies behind and the day is open."""
    ahead = (20 - now.hour + 12) % 24 - 12
    # POSIX signs: Etc/GMT-5 is five hours ahead of UTC.
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


async def run(target: DemoTarget, console: Console, victim: str | None = None) -> None:
    """Tell both stories; `victim` is killed in the middle.

    Raises:
        StoryBroke, Refused, TimeoutError: a step did not come true, or a trace is not whole.
    """
    async with told_with(target, console, victim) as demo:
        await introduce(demo)
        day_trace = await tell_day(demo)
        meal_trace = "" if target.photos_off else await tell_meal(demo)
        await show_trace(demo, "The day", day_trace, {"gateway", "ingest", "insights", "webhooks", "receiver"})
        if not meal_trace:
            console.print(f"\n[yellow]{target.photos_off}[/yellow] Story 2 needs them; story 1 is told.")
            return
        hops = {"gateway", "inference", "triton", "nutrition", "insights", "webhooks", "receiver"}
        await show_trace(demo, "The meal", meal_trace, hops)
    took_s = time.monotonic() - demo.started
    console.print(f"\n[green]Both stories told[/green] in {took_s:.1f} s; repeats: {demo.phone.repeats}")


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


async def introduce(demo: Demo) -> None:
    """A user signs up and signs in, the partner says where its webhooks go, and the user grants it scopes."""
    demo.console.rule("A user and a partner")
    email, password = await sign_up(demo)
    if demo.maybe_kill("auth"):
        await demo.phone.send("POST", "/v1/tokens", body={"email": email, "password": password})
    where = {"url": demo.receiver.url, "payload": "full"}
    endpoint = await as_partner(
        demo,
        demo.target.partner_key,
        "POST",
        "/v1/webhook-endpoints",
        where,
        f"demo-receiver-full-{demo.receiver.port}",
    )
    demo.receiver.secret = endpoint["secret"]
    demo.say(f"the partner's webhooks go to {demo.receiver.url}")
    grant = {"partner_id": DEMO_PARTNER, "scopes": GRANTED}
    await demo.phone.send("POST", "/v1/grants", key=str(uuid4()), body=grant)
    demo.say(f"the user granted the partner {len(GRANTED)} scopes")


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


async def tell_day(demo: Demo) -> str:
    """A phone posts half a day; returns the trace id."""
    demo.console.rule("Story 1: a day")
    today = datetime.now(demo.zone).replace(hour=8, minute=0, second=0, microsecond=0)
    batch = {
        "device": {"id": "demo-watch", "kind": "watch"},
        "app": "demo/1.0",
        "zone": str(demo.zone),
        "samples": half_a_day(today),
    }
    key = str(uuid4())
    demo.maybe_kill("gateway", "kafka")
    answer = await demo.phone.send("POST", "/v1/batches", key=key, body=batch)
    since = time.monotonic()
    receipt_id = answer.body["receipt_id"]
    demo.say(f"POST /v1/batches: 1,440 samples accepted in {answer.milliseconds:.0f} ms, receipt {receipt_id}")
    if demo.maybe_kill(*DAY_VICTIMS):
        again = await demo.phone.send("POST", "/v1/batches", key=key, body=batch)
        demo.say(f"the phone repeats it with the same key: receipt {again.body['receipt_id']}")
        expect(again.body["receipt_id"] == receipt_id, "a repeat got another receipt")
    receipt = await demo.phone.poll(f"/v1/receipts/{receipt_id}", lambda body: body["state"] in ("stored", "failed"))
    expect(receipt.body["state"] == "stored" and receipt.body["stored"] == 1440, f"receipt {receipt.body}")
    demo.say(f"receipt stored: {receipt.body['stored']} samples, {ms(time.monotonic() - since)} after the answer")
    date = today.date().isoformat()
    await demo.hook("day.updated", since, date=date)
    await demo.hook("ledger.updated", since, date=date)
    insight = await demo.hook("insight.created", since, date=date)
    day = (await demo.phone.send("GET", f"/v1/days/{date}")).body
    demo.say(f"day {date}: {day['metrics']['steps']['sum']:,.0f} steps, heart rate {_heart_rate(day)} per minute")
    demo.say(f"insight: [italic]{insight.body['data']['text']}[/italic]")
    await show_ledger(demo, date)
    return answer.trace_id


def _heart_rate(day: dict[str, Any]) -> str:
    rate = day["metrics"]["heart_rate"]
    return f"{rate['min']:.0f} to {rate['max']:.0f}, {rate['mean']:.1f} on average"


async def tell_meal(demo: Demo) -> str:
    """A photo of a nutrition label becomes a diary entry; returns the trace id."""
    demo.console.rule("Story 2: a meal")
    picture = labels.render_label(LABEL)
    eaten_at = datetime.now(demo.zone).replace(hour=12, minute=30, second=0, microsecond=0)
    path = f"/v1/photos?grams=80&eaten_at={eaten_at.isoformat().replace('+', '%2B')}"
    key = str(uuid4())
    answer = await demo.phone.send("PUT", path, key=key, content_type="image/png", body=picture)
    since = time.monotonic()
    photo_id = answer.body["photo_id"]
    demo.say(f"PUT /v1/photos: {len(picture):,} bytes accepted in {answer.milliseconds:.0f} ms, photo {photo_id}")
    if demo.maybe_kill(*MEAL_VICTIMS):
        await demo.phone.send("PUT", path, key=key, content_type="image/png", body=picture)
        demo.say("the phone repeats it with the same key")
    photo = await demo.phone.poll(f"/v1/photos/{photo_id}", lambda body: body["state"] in ("read", "rejected"))
    expect(photo.body["state"] == "read", f"photo {photo.body}")
    reading = photo.body["reading"]
    demo.say(f"label read in {ms(time.monotonic() - since)}, per 100 g:")
    for nutrient, printed in LABEL.items():
        field = reading.get(nutrient) or {"amount": "nothing", "confidence": 0.0}
        demo.say(f"  {nutrient:15} {field['amount']:>8}  printed {printed}, confidence {field['confidence']:.2f}")
    await demo.hook("photo.read", since, photo_id=photo_id)
    entry = await demo.hook("entry.created", since)
    date = entry.body["data"]["entry"]["date"]
    ledger = await demo.receiver.wait_for("ledger.updated", demo.user_id, deadline=demo.phone.deadline, date=date)
    while ledger.body["data"]["intake_kcal"] in ("0", "0.0"):
        ledger = await _next_ledger(demo, date, ledger)
    demo.say(f"  webhook [cyan]ledger.updated[/cyan], intake {ledger.body['data']['intake_kcal']} kcal")
    await demo.phone.wait_for("ledger.updated", sequence=ledger.body["data"]["sequence"])
    diary = (await demo.phone.send("GET", f"/v1/diary/{date}")).body
    demo.say(f"diary {date}: {len(diary['entries'])} entry, {diary['totals']['energy_kcal']} kcal")
    await show_ledger(demo, date)
    return answer.trace_id


async def _next_ledger(demo: Demo, date: str, known: Delivered) -> Delivered:
    sequence = known.body["data"]["sequence"]
    while True:
        later = [
            delivery
            for delivery in demo.receiver.delivered.values()
            if delivery.body["type"] == "ledger.updated"
            and delivery.body["data"]["user_id"] == demo.user_id
            and delivery.body["data"]["date"] == date
            and delivery.body["data"]["sequence"] > sequence
        ]
        if later:
            return min(later, key=lambda delivery: delivery.body["data"]["sequence"])
        if time.monotonic() > demo.phone.deadline:
            raise TimeoutError("the ledger never counted the meal")
        await asyncio.sleep(0.02)


async def show_ledger(demo: Demo, date: str) -> None:
    """Print the day's energy ledger and check that its totals are the sums of its lines."""
    ledger = (await demo.phone.send("GET", f"/v1/ledger/{date}")).body
    for line in ledger["lines"]:
        source = line["source"].partition(":")[0]
        demo.say(f"  {line['direction']:>3} {line['energy_kcal']:>8} kcal  {source}  [dim]{line['note']}[/dim]")
    demo.say(f"  balance {ledger['balance_kcal']} kcal")


async def show_trace(demo: Demo, title: str, trace_id: str, services: set[str]) -> None:
    """Print the one trace of a story, read back from the span store."""
    demo.console.rule(f"{title}: trace {trace_id}")
    telemetry.flush()
    try:
        await asyncio.to_thread(trace_tree.wait_for, demo.target.span_store, trace_id, services, 15.0)
    except TimeoutError as missing:
        # What was killed took its last spans with it.
        expect(demo.victim is not None, str(missing))
    demo.console.print(trace_tree.draw(demo.target.span_store, trace_id))


def expect(condition: bool, otherwise: str) -> None:
    """Go on only where it is so. Raises StoryBroke."""
    if not condition:
        raise StoryBroke(otherwise)
