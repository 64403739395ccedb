"""Who uses the system: a person with an app, and the partner with its server."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from infra.local.labels import render_label
from services.auth.partners import DEMO_PARTNER_ID
from tests.flows.whole import Whole
from tests.polling import eventually

DATE = "2026-03-01"
MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)
LUNCH = f"/v1/photos?grams=80&eaten_at={DATE}T12:30:00%2B01:00"
PROFILE = {"sex": "female", "birth_date": "1991-04-12", "height_cm": "170", "home_zone": "Europe/Berlin"}
OF_A_BATCH = ("receipts.completed", "day.updated", "ledger.updated", "insight.created")
OF_A_PHOTO = ("photo.read", "entry.created", "ledger.updated", "insight.created")
SCOPES = ["samples:read", "days:read", "diary:read", "ledger:read", "insights:read", "photos:read"]
PICTURE = render_label()


@dataclass
class Person:
    """A user, signed in."""

    whole: Whole
    email: str
    password: str
    user_id: str
    token: str

    async def ask(self, method: str, path: str, *, key: str = "", token: str = "", **sent: Any) -> httpx2.Response:
        """A request at the gateway, with the person's token unless another one is given."""
        headers = {"Authorization": f"Bearer {token or self.token}"} | sent.pop("headers", {})
        if key:
            headers["Idempotency-Key"] = key
        return await self.whole.http.request(method, path, headers=headers, **sent)

    async def get(self, path: str) -> dict[str, Any]:
        """What is there."""
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def grant(self, scopes: Sequence[str] = SCOPES) -> None:
        """Let the demo partner see so much."""
        body = {"partner_id": DEMO_PARTNER_ID, "scopes": scopes}
        answer = await self.ask("POST", "/v1/grants", key="grant", json=body)
        assert answer.status_code == 201, answer.text

    async def send_batch(self, samples: list[dict[str, Any]], key: str = "batch") -> httpx2.Response:
        """Post samples of a watch; 202."""
        body = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC", "samples": samples}
        answer = await self.ask("POST", "/v1/batches", key=key, json=body)
        assert answer.status_code == 202, answer.text
        return answer

    async def send_photo(self, key: str = "photo", path: str = LUNCH) -> httpx2.Response:
        """Put the demo's label; 202."""
        answer = await self.ask("PUT", path, key=key, content=PICTURE, headers={"Content-Type": "image/png"})
        assert answer.status_code == 202, answer.text
        return answer

    async def ended(self, sent: httpx2.Response) -> dict[str, Any]:
        """What became of a batch or photo."""

        async def known() -> dict[str, Any]:
            found = await self.get(sent.json()["link"])
            return found if found["state"] != "queued" else {}

        return await eventually(known)

    async def messages(self) -> list[dict[str, Any]]:
        """All public messages so far, as `/v1/events` has them."""
        return (await self.get("/v1/events?after=0&limit=1000"))["events"]

    async def told(self, *types: str) -> list[dict[str, Any]]:
        """All public messages, once each of `types` is among them."""

        async def complete() -> list[dict[str, Any]]:
            found = await self.messages()
            return found if set(types) <= {one["type"] for one in found} else []

        return await eventually(complete)


async def signed_in(whole: Whole, name: str = "ada") -> Person:
    """A new person. Address and password are words that stand nowhere else."""
    email, password = f"{name}.lovelace-1815@example.com", f"{name}-difference-engine-7"
    body = {"email": email, "password": password}
    made = await whole.http.post("/v1/users", json=body | {"profile": PROFILE}, headers={"Idempotency-Key": name})
    assert made.status_code == 201, made.text
    signed = await whole.http.post("/v1/tokens", json=body)
    assert signed.status_code == 200, signed.text
    return Person(whole, email, password, made.json()["user_id"], signed.json()["access_token"])


async def register_endpoint(whole: Whole) -> str:
    """The partner gives its server's address; the secret."""
    headers = {"Authorization": f"Bearer {whole.partner_key}", "Idempotency-Key": "endpoint"}
    answer = await whole.http.post(
        "/v1/webhook-endpoints", json={"url": whole.receiver.url, "payload": "full"}, headers=headers
    )
    assert answer.status_code == 201, answer.text
    whole.receiver.secret = answer.json()["secret"]
    return whole.receiver.secret


def walk(minutes: int = 30, *, days_later: int = 0) -> list[dict[str, Any]]:
    """A heart rate and a count of steps for each minute from `MORNING`, or so many days later."""
    samples: list[dict[str, Any]] = []
    for minute in range(minutes):
        begin, end = (MORNING + timedelta(days=days_later, minutes=one) for one in (minute, minute + 1))
        samples.append({"metric": "heart_rate", "start": begin.isoformat(), "value": 90 + minute % 7})
        samples.append({"metric": "steps", "start": begin.isoformat(), "end": end.isoformat(), "value": 90})
    return samples


async def delivered(system: Whole, person: Person, count: int) -> list[dict[str, Any]]:
    """The verified deliveries about a person by sequence, once there are so many."""

    def arrived() -> list[dict[str, Any]]:
        bodies = [one.body for one in system.receiver.delivered.values()]
        found = [body for body in bodies if body["data"]["user_id"] == person.user_id]
        return sorted(found, key=lambda body: body["data"]["sequence"]) if len(found) >= count else []

    return await eventually(arrived)
