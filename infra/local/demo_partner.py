"""The partner's story: it registers, a user consents in a browser, it reads and hears until the user takes it back."""

import asyncio
import base64
import hashlib
import secrets
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import aiohttp
from aiohttp import web
from rich.console import Console

from infra.local.browser import chromium
from infra.local.demo_stage import Demo, DemoTarget, StoryBroke, as_partner, expect, ms, sign_up, told_with
from infra.local.operating import asked
from infra.local.phone import Phone, Refused, half_a_day
from infra.local.receiver import served

SCOPES = ["days:read", "ledger:read"]
NOT_GRANTED = "/v1/timeseries"
# What is promised: a grant that was taken back counts within so many seconds at every gateway.
WITHIN_S = 5.0
# A phone's width, and one at which the page stands in the middle.
PHONE_PX = (390, 844)


@dataclass
class Partner:
    """The partner's own server: where users come back to, and what it was given."""

    id: str = ""
    secret: str = ""
    callback: str = ""
    access_token: str = ""
    own_token: str = ""
    came_back: "asyncio.Queue[str]" = field(default_factory=lambda: asyncio.Queue[str]())

    async def called(self, request: web.Request) -> web.Response:
        """The user's browser comes back."""
        self.came_back.put_nowait(str(request.url))
        return web.Response(text="<h1 id=connected>Connected</h1>You can close this page.", content_type="text/html")


async def run(target: DemoTarget, console: Console, pictures: Path) -> None:
    """Tell the story; the page of consent is saved as a picture in `pictures`.

    Raises:
        StoryBroke, Refused, TimeoutError: a step did not come true.
    """
    partner = Partner()
    async with told_with(target, console) as demo, served("GET", "/connected", partner.called) as partner.callback:
        email, password = await sign_up(demo)
        await _register(demo, partner)
        await _consent(demo, partner, email, password, pictures)
        day = await _read_and_hear(demo, partner)
        await _take_back(demo, partner, day)
    took_s = time.monotonic() - demo.started
    console.print(f"\n[green]The partner's story is told[/green] in {took_s:.1f} s; repeats: {demo.phone.repeats}")


async def _register(demo: Demo, partner: Partner) -> None:
    """The partner registers, an operator approves it where that is asked for, and it says where its webhooks go."""
    demo.console.rule("A partner")
    body = {
        "name": "Oat & Co",
        "contact": "dev@oat.example",
        "redirect_uris": [partner.callback],
        "scopes": [*SCOPES, "webhooks:write"],
    }
    made = (await demo.phone.send("POST", "/v1/partners", key=str(uuid4()), token="", body=body)).body
    partner.id, partner.secret = made["partner_id"], made["client_secret"]
    demo.say(f"POST /v1/partners: {body['name']} registered, id {partner.id}, {made['state']}")
    if made["state"] == "pending":
        await asyncio.to_thread(asked, "auth", "POST", f"/internal/partners/{partner.id}/approvals", {"by": "demo"})
        demo.say("an operator approved it")
    partner.own_token = (await _token(demo.phone, partner, grant_type="client_credentials"))["access_token"]
    demo.say("POST /oauth/token: a token of its own, by its client secret")
    where = {"url": demo.receiver.url, "payload": "full"}
    endpoint = await as_partner(demo, partner.own_token, "POST", "/v1/webhook-endpoints", where, str(uuid4()))
    demo.receiver.secret = endpoint["secret"]
    demo.say(f"its webhooks go to {demo.receiver.url}")


async def _token(phone: Phone, partner: Partner, **form: str) -> dict[str, Any]:
    """What the token endpoint gives for the form. Raises StoryBroke."""
    basic = {"Authorization": aiohttp.encode_basic_auth(partner.id, partner.secret)}
    async with phone.session.post(f"{phone.base_url}/oauth/token", data=form, headers=basic) as answer:
        found: dict[str, Any] = await answer.json()
        expect(answer.status == 200, f"/oauth/token answers {answer.status}: {found}")
        return found


async def _consent(demo: Demo, partner: Partner, email: str, password: str, pictures: Path) -> None:
    """The user signs in and allows it, in Chromium; the partner exchanges the code for tokens."""
    demo.console.rule("Consent")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asking = {
        "response_type": "code",
        "client_id": partner.id,
        "redirect_uri": partner.callback,
        "scope": " ".join(SCOPES),
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    await _in_browser(demo, f"{demo.phone.base_url}/oauth/authorize?{urlencode(asking)}", email, password, pictures)
    back = parse_qs(urlsplit(await asyncio.wait_for(partner.came_back.get(), WITHIN_S)).query)
    expect(back.get("state") == [state] and "code" in back, f"the browser came back with {sorted(back)}")
    demo.say(f"the browser is back at the partner with a code, its state, and iss {back['iss'][0]}")
    form = {"code": back["code"][0], "redirect_uri": partner.callback, "code_verifier": verifier}
    tokens = await _token(demo.phone, partner, grant_type="authorization_code", **form)
    expect(tokens["user_id"] == demo.user_id, "the tokens are of another user")
    partner.access_token = tokens["access_token"]
    demo.say(f"POST /oauth/token: tokens for {tokens['scope']}")


async def _in_browser(demo: Demo, link: str, email: str, password: str, pictures: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with chromium(Path(profile)) as page:
            await page.sized(*PHONE_PX)
            await page.open(link)
            await page.shows("#email")
            await page.types("#email", email)
            await page.types("#password", password)
            await page.clicks("button[value=sign-in]")
            await page.shows("button[value=allow]")
            saved = await asyncio.to_thread(_saved, await page.picture(), pictures)
            demo.say(f"the user signed in and reads what {len(SCOPES)} scopes mean: {saved}")
            await page.clicks("button[value=allow]")
            await page.shows("#connected")
            demo.say("the user clicked Allow")


def _saved(picture: bytes, pictures: Path) -> Path:
    pictures.mkdir(parents=True, exist_ok=True)
    saved = pictures / "consent.png"
    saved.write_bytes(picture)
    return saved


async def _read_and_hear(demo: Demo, partner: Partner) -> datetime:
    """The phone sends half a day; the partner hears of it and reads it. Returns when the day began."""
    demo.console.rule("While the grant lasts")
    today = datetime.now(demo.zone).replace(hour=8, minute=0, second=0, microsecond=0)
    await _send(demo, half_a_day(today))
    since = time.monotonic()
    date = today.date().isoformat()
    delivered = await demo.receiver.wait_for("day.updated", demo.user_id, deadline=demo.phone.deadline, date=date)
    demo.say(f"webhook [cyan]day.updated[/cyan], signature verified, {ms(delivered.at - since)} after the answer")
    for path, token in _ways(demo, partner, date).items():
        day = (await demo.phone.send("GET", path, token=token)).body
        demo.say(f"the partner reads {path}: {day['metrics']['steps']['sum']:,.0f} steps")
    status = await _status(demo, f"{NOT_GRANTED}?metric=steps&from={date}T00:00:00Z&to={date}T01:00:00Z", partner)
    demo.say(f"what the user did not grant, {NOT_GRANTED}: {status}")
    expect(status in (403, 404), f"{NOT_GRANTED} was not granted and answers {status}")
    return today


def _ways(demo: Demo, partner: Partner, date: str) -> dict[str, str]:
    """The two ways to a user's day: with the user's token, and with the partner's own."""
    return {
        f"/v1/days/{date}": partner.access_token,
        f"/v1/days/{date}?user={demo.user_id}": partner.own_token,
    }


async def _send(demo: Demo, samples: list[dict[str, Any]]) -> None:
    batch = {"device": {"id": "demo-watch", "kind": "watch"}, "app": "demo/1.0", "zone": str(demo.zone)}
    answer = await demo.phone.send("POST", "/v1/batches?wait=10s", key=str(uuid4()), body=batch | {"samples": samples})
    expect(answer.body.get("state") == "stored", f"the batch is {answer.body.get('state')} after 10 s")
    demo.say(f"POST /v1/batches: {answer.body['stored']:,} samples stored")


async def _status(demo: Demo, path: str, partner: Partner, token: str = "") -> int:
    try:
        await demo.phone.send("GET", path, token=token or partner.access_token)
    except Refused as refused:
        return refused.status
    return 200


async def _take_back(demo: Demo, partner: Partner, began: datetime) -> None:
    """The user revokes; within 5 s the partner reads nothing, and what comes later it does not hear of."""
    demo.console.rule("The user takes it back")
    grants = (await demo.phone.send("GET", "/v1/grants")).body["grants"]
    (grant,) = [one for one in grants if one["partner_id"] == partner.id]
    await demo.phone.send("DELETE", f"/v1/grants/{grant['grant_id']}")
    since = time.monotonic()
    demo.say(f"DELETE /v1/grants/{grant['grant_id']}")
    date = began.date().isoformat()
    for path, token in _ways(demo, partner, date).items():
        refused = 200
        while refused == 200:
            if time.monotonic() - since > WITHIN_S:
                raise StoryBroke(f"{path} could be read {WITHIN_S:.0f} s after the grant was taken back")
            refused = await _status(demo, path, partner, token)
        demo.say(f"the partner reads {path}: {refused}, {ms(time.monotonic() - since)} after")
        expect(refused == 404, f"{path} answers {refused} where it is not there for this partner")
    heard = len(demo.receiver.delivered)
    last = demo.phone.newest()
    await _send(demo, [{"metric": "heart_rate", "start": began.replace(hour=7).isoformat(), "value": 61}])
    await demo.phone.wait_for("day.updated", after=last, date=date)
    # The user's own stream has it; a delivery would have been claimed by then, and is given as long again.
    await asyncio.sleep(WITHIN_S / 2)
    expect(len(demo.receiver.delivered) == heard, "a webhook came after the grant was taken back")
    demo.say("the user's own stream told of the new day; no further webhook came")
