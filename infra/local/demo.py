"""The demo: two stories told on the running stack, from the phone's POST to the partner's webhook."""

import asyncio
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

from rich.console import Console

from infra.local import labels, trace_tree
from infra.local.control import State
from infra.local.demo_stage import (
    DEMO_PARTNER,
    GRANTED,
    LOOK_EVERY_SECONDS,
    Demo,
    DemoTarget,
    StoryBroke,
    as_partner,
    expect,
    ms,
    sign_up,
    told_with,
)
from infra.local.instance import kind_of
from infra.local.phone import half_a_day
from infra.local.receiver import Delivered
from shared import telemetry

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


def victim_unknown(name: str, state: State | None) -> str:
    """A sentence where no process of that name can be killed in the story, else empty."""
    running = {*state.processes, *state.kinds, "triton-stub"} if state else {*VICTIMS}
    known = sorted(other for other in running if kind_of(other) in VICTIMS)
    return "" if name in known else f"There is no process {name!r} to kill; there are {', '.join(known)}."


async def run(target: DemoTarget, console: Console, victim: str | None = None) -> None:
    """Tell both stories; `victim` (a kind, or in a cluster one process) is killed in the middle.

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
            raise StoryBroke("the ledger never counted the meal")
        await asyncio.sleep(LOOK_EVERY_SECONDS)


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
