"""Nothing that a person sends or is given reaches logs, spans, metrics, or the keys and headers of records.

Every flow of an account runs over all services with words and numbers that stand nowhere else, and every service is
asked what it wrote. What people send does lie in topics, as values, until their retention is over; secrets do not.
"""

import email
import email.policy
import json
import logging
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import httpx2
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from infra.local.traces import Receiver as SpanStore
from services.auth import totp
from services.auth.partners import DEMO_PARTNER_ID
from shared import telemetry, topics
from shared.clock import utc_now
from tests.flows.people import PICTURE, SCOPES, register_endpoint
from tests.flows.whole import Whole, whole
from tests.polling import eventually
from tests.service.account_holder import secret_of

ADDRESS = "canary.lovelace-1815@example.com"
PASSWORD, NEXT_PASSWORD, LAST_PASSWORD = "canary engine difference", "canary of brass lamps", "canary bird at midnight"
DEVICE = "Canary's phone"
HOME = "203.0.113.177"
POISON = "canary poison"
BIRTH_DATE = "1937-11-23"
HEIGHT = "181.37"
WEIGHT = 81.2345678
SAMPLE_ID = "canary-sample-0042"
SAMPLE = {"metric": "body_mass", "start": "2026-03-01T07:10:00Z", "value": WEIGHT, "id": SAMPLE_ID}


@dataclass
class Canary:
    """A person whose every word is known: `secrets` never leave, `data` may be what topics carry."""

    system: Whole
    folder: Path
    token: str = ""
    secrets: dict[str, str] = field(default_factory=dict[str, str])
    data: dict[str, str] = field(default_factory=dict[str, str])

    async def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None, **more: Any) -> Any:
        """A request from HOME, through a proxy that the gateway trusts."""
        headers = {"X-Forwarded-For": HOME, "Idempotency-Key": f"{method} {path}"} | more.pop("headers", {})
        if token if token is not None else self.token:
            headers["Authorization"] = f"Bearer {token or self.token}"
        return await self.system.http.request(method, path, json=body, headers=headers, **more)

    async def done(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The same, which must succeed; its JSON."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else {}

    async def sign_in(self, name: str, **more: Any) -> dict[str, Any]:
        """Tokens, which are to be looked for, too."""
        got = await self.done("POST", "/v1/tokens", {"email": ADDRESS, "device": DEVICE} | more, token="")
        self.secrets |= {f"access token {name}": got["access_token"], f"refresh token {name}": got["refresh_token"]}
        self.token = got["access_token"]
        return got

    async def letter(self) -> str:
        """The code in the letter."""

        def found() -> str:
            for file in (self.folder / "mail").glob("*.eml"):
                message: Any = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
                code = re.search(r"^([\w-]{43})\s*$", message.get_body().get_content(), re.MULTILINE)
                if code is not None:
                    return code[1]
            return ""

        return await eventually(found)


@pytest.fixture
async def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Canary]:
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", "127.0.0.0/8")
    monkeypatch.setenv("AUTH_MAIL_FOLDER", str(tmp_path / "mail"))
    monkeypatch.setenv("AUTH_PARTNER_APPROVAL", "auto")
    async with whole(tmp_path) as system:
        yield Canary(system, tmp_path)


async def test_nothing_of_a_person_is_in_logs_spans_metrics_or_headers(canary: Canary) -> None:
    canary.secrets |= {"address": ADDRESS, "home": HOME, "device": DEVICE, "password": PASSWORD}
    canary.secrets |= {"next password": NEXT_PASSWORD, "last password": LAST_PASSWORD}
    canary.data |= {"birth date": BIRTH_DATE, "height": HEIGHT, "weight": str(WEIGHT), "sample": SAMPLE_ID}
    await an_account(canary)
    await a_second_factor(canary)
    await data_and_a_partner(canary)
    await a_registered_partner(canary)
    await refused(canary)
    await poison(canary)
    await the_end(canary)

    assert len(canary.secrets) > 30
    assert await leaks(canary) == []
    # What is planted is found, so an empty list means something.
    logging.getLogger("planted").warning("weighs %s", WEIGHT)
    with telemetry.span(f"GET /from/{HOME}", parent=f"00-{1:032x}-{1:016x}-01"):
        await canary.system.publish(topics.DAYS.name, b"{}", headers={"planted": DEVICE})
    found = await leaks(canary)
    for planted in ("weight in log", "home in span ", "home in spans.sqlite", "device in key and headers"):
        assert any(one.startswith(planted) for one in found), planted


async def leaks(canary: Canary) -> list[str]:
    """Which words stand where they must not."""
    found: list[str] = []
    values = ""
    for place, text in [*logs_and_spans(canary), *await metrics(canary), *records(canary)]:
        wanted = canary.secrets | canary.data
        if place.startswith("value "):
            values += text
            wanted = canary.secrets
        found += [f"{name} in {place}" for name, word in wanted.items() if word in text]
    assert BIRTH_DATE in values
    return found


async def an_account(canary: Canary) -> None:
    profile = {"sex": "female", "birth_date": "1950-01-01", "home_zone": "Europe/Berlin"}
    await canary.done("POST", "/v1/users", {"email": ADDRESS, "password": PASSWORD, "profile": profile})
    first = await canary.sign_in("first", password=PASSWORD)
    await canary.done("PATCH", "/v1/me", {"birth_date": BIRTH_DATE, "height_cm": HEIGHT})
    await canary.done("PUT", "/v1/me/password", {"password": PASSWORD, "new_password": NEXT_PASSWORD})
    for turn in (1, 2):
        got = await canary.done("POST", "/v1/tokens/refresh", {"refresh_token": first["refresh_token"]}, token="")
        canary.secrets |= {f"refreshed {turn}": got["refresh_token"], f"renewed {turn}": got["access_token"]}
        first = got if turn == 1 else first
    reused = {"refresh_token": canary.secrets["refresh token first"]}
    assert (await canary.ask("POST", "/v1/tokens/refresh", reused, token="")).status_code == 401
    await canary.sign_in("second", password=NEXT_PASSWORD)
    await canary.done("GET", "/v1/me/sessions")
    events = await canary.done("GET", "/v1/me/security-events")
    assert "203.0.113.0/24" in str(events)
    assert HOME not in str(events)


async def a_second_factor(canary: Canary) -> None:
    proposed = await canary.done("POST", "/v1/me/second-factor", {"password": NEXT_PASSWORD})
    secret = proposed["secret"]
    code = totp.code_at(secret_of(secret), int(utc_now().timestamp()) // totp.STEP_S)
    got = await canary.done("POST", "/v1/me/second-factor/confirmations", {"code": code})
    canary.secrets |= {f"recovery code {at}": code for at, code in enumerate(got["recovery_codes"])} | {"totp": secret}
    wrong = {"email": ADDRESS, "password": NEXT_PASSWORD, "second_factor": "canary-code"}
    assert (await canary.ask("POST", "/v1/tokens", wrong, token="")).status_code == 401
    await canary.sign_in("recovered", password=NEXT_PASSWORD, second_factor=got["recovery_codes"][0])
    await canary.done("POST", "/v1/me/second-factor/removals", {"password": NEXT_PASSWORD})
    await canary.done("POST", "/v1/password-resets", {"email": ADDRESS}, token="")
    letter = await canary.letter()
    canary.secrets |= {"letter": letter}
    body = {"token": letter, "new_password": LAST_PASSWORD}
    await canary.done("POST", "/v1/password-resets/confirmations", body, token="")
    await canary.sign_in("last", password=LAST_PASSWORD)


async def data_and_a_partner(canary: Canary) -> None:
    canary.secrets |= {"webhook": await register_endpoint(canary.system), "key": canary.system.partner_key}
    grant = await canary.done("POST", "/v1/grants", {"partner_id": DEMO_PARTNER_ID, "scopes": SCOPES})
    batch = {"device": {"id": "scale-1", "kind": "scale"}, "app": "test/1", "zone": "UTC", "samples": [SAMPLE]}
    got = await canary.done("POST", "/v1/batches?wait=5s", batch)
    await canary.done("GET", f"/v1/receipts/{got['receipt_id']}")
    days = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
    points = await canary.done("GET", "/v1/timeseries", params=days | {"metric": "body_mass"})
    assert str(WEIGHT) in str(points)
    user = (await canary.done("GET", "/v1/me"))["user_id"]
    for path in ("/v1/days/2026-03-01", "/v1/days/2026-03-01/explain", "/v1/devices"):
        await canary.done("GET", path)
        await canary.done("GET", path, token=canary.system.partner_key, params={"user": user})
    photo = await canary.ask("PUT", "/v1/photos", content=PICTURE, headers={"Content-Type": "image/png"})
    assert photo.status_code == 202
    await eventually(lambda: canary.system.receiver.delivered)
    await canary.done("DELETE", f"/v1/grants/{grant['grant_id']}")


async def a_registered_partner(canary: Canary) -> None:
    wanted = {
        "name": "Canary's partner",
        "contact": "contact-canary@partner.example",
        "redirect_uris": ["https://partner.example/canary-callback"],
        "scopes": ["days:read", "users:manage", "webhooks:write"],
    }
    canary.secrets |= {"contact": "contact-canary", "callback": "canary-callback", "state": "canary-state"}
    made = await canary.done("POST", "/v1/partners", wanted, token="")
    form = {"grant_type": "client_credentials"}
    login = (made["partner_id"], made["client_secret"])
    got = await canary.system.http.post("/oauth/token", data=form, auth=login, headers={"X-Forwarded-For": HOME})
    assert got.status_code == 200, got.text
    token = got.json()["access_token"]
    canary.secrets |= {"client": made["client_secret"], "partner's token": token}
    for path in ("/oauth/introspect", "/oauth/revoke"):
        answer = await canary.system.http.post(path, data={"token": token}, auth=login)
        assert answer.status_code == 200, answer.text
    wish = {"name": "k", "scopes": ["days:read"]}
    # The gateway hears of the partner a moment after auth has made it.
    key = await eventually(lambda: canary.done("POST", "/v1/partner/keys", wish, token=token))
    rotated = await canary.done("POST", f"/v1/partner/keys/{key['key_id']}/rotations", {}, token=token)
    again = await canary.done("POST", "/v1/partner/client-secret/rotations", {}, token=token)
    canary.secrets |= {"new key": key["key"], "rotated key": rotated["key"], "rotated": again["client_secret"]}
    managed = {"profile": {"birth_date": BIRTH_DATE}}
    await canary.done("POST", "/v1/partner/users", managed, token=token)
    page = {"client_id": made["partner_id"], "redirect_uri": wanted["redirect_uris"][0], "state": "canary-state"}
    await canary.system.http.get("/oauth/authorize", params=page, headers={"X-Forwarded-For": HOME})


async def refused(canary: Canary) -> None:
    """Requests that name what they should not, where nobody expects it."""
    token, key = canary.token, canary.system.partner_key
    for answer in (
        await canary.ask("POST", "/v1/tokens", {"e-mail": ADDRESS, "pass": LAST_PASSWORD}),
        await canary.ask("POST", "/v1/users", {"email": ADDRESS, "password": LAST_PASSWORD, "name": ADDRESS}),
        await canary.ask("POST", "/v1/grants", {"partner_id": LAST_PASSWORD[:40], "scopes": SCOPES}),
        await canary.ask("POST", "/v1/batches", {"device": ADDRESS, "samples": [SAMPLE | {"unit": ADDRESS}]}),
        await canary.ask("PATCH", "/v1/me", {"birth_date": f"{BIRTH_DATE}x"}),
        await canary.ask("GET", f"/v1/days/{ADDRESS}"),
        await canary.ask("GET", f"/v1/days/{BIRTH_DATE}", params={"access_token": token, "key": key}),
        await canary.ask("GET", f"/v1/receipts/{token}"),
        await canary.ask("GET", f"/nowhere/{ADDRESS}", headers={"User-Agent": ADDRESS, "Referer": token}),
        await canary.ask("GET", "/v1/me", token=f"{token}x"),
        await canary.ask("GET", "/v1/me", headers={"traceparent": ADDRESS, "tracestate": ADDRESS, "baggage": ADDRESS}),
    ):
        assert answer.status_code in (200, 400, 401, 403, 404, 409, 415, 422), answer.text


async def poison(canary: Canary) -> None:
    """What no service can read, in every topic: of a type that it knows, and of none."""
    broken = {"user_id": {ADDRESS: HOME}, "revision": BIRTH_DATE, "at": str(WEIGHT), ADDRESS: LAST_PASSWORD}
    for topic in topics.TOPICS:
        if topic.readers:
            for kind in (POISON, *(event.model_fields["type"].default for event in topic.events)):
                body = json.dumps(broken | {"type": kind, "profile": broken, POISON: kind})
                await canary.system.publish(topic.name, body.encode())


async def the_end(canary: Canary) -> None:
    await canary.done("POST", "/v1/tokens/revoke", {"refresh_token": canary.secrets["refresh token last"]}, token="")
    await canary.sign_in("once more", password=LAST_PASSWORD)
    erasure = await canary.done("DELETE", "/v1/me")

    async def over() -> bool:
        seen = await canary.done("GET", f"/v1/erasures/{erasure['erasure_id']}", token="")
        return seen["state"] == "erased"

    assert await eventually(over)


def logs_and_spans(canary: Canary) -> Iterator[tuple[str, str]]:
    """What services log, what they export, and what the supervisor's store keeps of that."""
    log, spans = canary.system.log.getvalue(), canary.system.spans()
    assert "dead letter" in log
    assert len(spans) > 100
    yield "log", log
    for at, span in enumerate(spans):
        yield f"span {at}", f"{span.to_json()} {span.events} {span.links} {span.resource.attributes} {span.context}"
    store = SpanStore(canary.folder / "spans.sqlite", port=0)
    store.start()
    body = encode_spans(spans).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    with closing(urlopen(Request(f"http://127.0.0.1:{store.port}/v1/traces", body, headers))) as answer:
        assert answer.status == 200
    store.stop()
    assert store.counts.stored > 100
    for file in canary.folder.glob("spans.sqlite*"):
        yield file.name, file.read_bytes().decode(errors="replace")


async def metrics(canary: Canary) -> list[tuple[str, str]]:
    """Every service's /metrics."""
    pages: list[tuple[str, str]] = []
    for name, app in canary.system.apps.items():
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inside") as inside:
            answer = await inside.get("/metrics")
        if answer.status_code == 200:
            pages.append((f"metrics of {name}", answer.text))
    assert len(pages) >= 6
    return pages


def records(canary: Canary) -> Iterator[tuple[str, str]]:
    """What lies in topics; what `poison` put there is somebody else's."""
    for at, record in enumerate(canary.system.records):
        yield f"key and headers {at} of {record.topic}", f"{record.key!r} {record.headers}"
        if POISON.encode() not in record.value:
            yield f"value {at} of {record.topic}", record.value.decode(errors="replace")
