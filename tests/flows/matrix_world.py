"""Two users and three partners with data behind every route: what the matrix of routes and callers asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from services.gateway.settings import Settings
from shared.callers import GRANTABLE_SCOPES, PARTNER_SCOPES, SCOPES
from shared.internal_tokens import InternalTokenSigner
from shared.keys import load_private_jwk
from shared.tokens import signed
from tests.flows.people import DATE, OF_A_BATCH, OF_A_PHOTO, Person, signed_in
from tests.flows.whole import Whole
from tests.polling import eventually

__all__ = ["DATE", "NOBODY", "Partner", "World", "built"]

NOBODY = "usr_nobody"
DEVICE = "canary-watch"
# Of all heart rates of the owner; no other user has it.
PULSE = 143.5
ZONE = "Pacific/Chatham"
HALVES = GRANTABLE_SCOPES[::2], GRANTABLE_SCOPES[1::2]


@dataclass(frozen=True)
class Partner:
    """A partner: its own token (client credentials), and the one that it was given for the owner."""

    id: str
    token: str
    for_owner: str


@dataclass
class World:
    """Everybody, and by name what is the owner's or the granted partner's: `ids` for paths, `canaries` for answers."""

    whole: Whole
    owner: Person
    other: Person
    granted: Partner
    without: Partner
    revoked: Partner
    # Each has a grant of the owner's of one half of the scopes.
    halves: tuple[Partner, Partner]
    key: str = ""
    ids: dict[str, str] = field(default_factory=dict[str, str])
    canaries: dict[str, str] = field(default_factory=dict[str, str])
    codes: dict[str, str] = field(default_factory=dict[str, str])

    async def ask(self, method: str, path: str, token: str = "", **sent: Any) -> httpx2.Response:
        """A request at the gateway."""
        headers = sent.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        return await self.whole.http.request(method, path, headers=headers, **sent)

    def expired(self, *, of_partner: bool) -> str:
        """A token that was good a quarter of an hour ago."""
        if of_partner:
            return _signed(self.whole, sub=self.granted.id, client_id=self.granted.id, ago=1000)
        return _signed(self.whole, sub=self.owner.user_id, client_id="first-party", ago=1000)

    def lacking(self, scope: str | None) -> Partner:
        """A partner with a grant of other scopes than this one."""
        return self.halves[1 if scope in HALVES[0] else 0]

    @property
    def operator(self) -> str:
        """What operators' commands send to a service."""
        return InternalTokenSigner(self.whole.folder / "internal.jwk").operator_token("ingest")


async def built(whole: Whole) -> World:
    """Make them all, and wait until their data is everywhere."""
    owner, other = await signed_in(whole, "canary"), await signed_in(whole, "bob")
    partners = [await _partner(owner, name) for name in ("granted", "without", "revoked", "spare", "even", "odd")]
    granted, without, revoked, spare, even, odd = partners
    world = World(whole, owner, other, granted, without, revoked, (even, odd))
    await _owned(world)
    await other.ended(await other.send_batch([{"metric": "heart_rate", "start": f"{DATE}T08:00:00Z", "value": 61}]))
    for partner in (granted, revoked, spare):
        world.ids[f"grant of {partner.id}"] = await _grant(owner, partner)
    for partner, scopes in zip(world.halves, HALVES, strict=True):
        await _grant(owner, partner, scopes)
    world.ids["grant_id"] = world.ids[f"grant of {spare.id}"]
    gone = await owner.ask("DELETE", f"/v1/grants/{world.ids[f'grant of {revoked.id}']}")
    assert gone.status_code == 204, gone.text
    await _partners_own(world)
    return world


async def _partner(owner: Person, name: str) -> Partner:
    body = {
        "name": f"canary {name}",
        "contact": f"{name}@canary-partner.example",
        "redirect_uris": [f"https://{name}.canary-partner.example/callback"],
        "scopes": [*GRANTABLE_SCOPES, *sorted(PARTNER_SCOPES)],
    }
    whole = owner.whole
    answer = await whole.http.post("/v1/partners", json=body, headers={"Idempotency-Key": f"matrix-{name}"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "active"
    id = answer.json()["partner_id"]
    for_owner = _signed(whole, sub=owner.user_id, client_id=id, sid=f"sid_{name}", grant_revision=1)
    return Partner(id, _signed(whole, sub=id, client_id=id), for_owner)


def _signed(whole: Whole, *, ago: int = 0, **claims: Any) -> str:
    """An access token with all scopes, as auth would sign it so many seconds ago."""
    settings = Settings()
    now = int(whole.apps["auth"].state.deps.clock().timestamp()) - ago
    common = {"iss": settings.token_issuer, "aud": settings.token_audience, "scope": " ".join(SCOPES)}
    return signed(
        load_private_jwk(whole.folder / "auth.jwk"), "at+jwt", common | {"iat": now, "exp": now + 900} | claims
    )


async def _grant(owner: Person, partner: Partner, scopes: tuple[str, ...] = GRANTABLE_SCOPES) -> str:
    body = {"partner_id": partner.id, "scopes": list(scopes)}
    answer = await owner.ask("POST", "/v1/grants", key=f"grant-{partner.id}", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["grant_id"]


async def _owned(world: World) -> None:
    """The owner's samples, sessions, photo and settings, and what the services made of them."""
    owner, ids, canaries = world.owner, world.ids, world.canaries
    assert (await owner.ask("PUT", "/v1/me/zone", json={"zone": ZONE, "from": f"{DATE}T00:00:00Z"})).is_success
    order = {"order": [f"device:{DEVICE}"]}
    assert (await owner.ask("PUT", "/v1/device-priorities/heart_rate", json=order)).is_success
    for version in (1, 2):
        sent = await owner.ask("POST", "/v1/batches", key=f"matrix-{version}", json=_batch(version))
        receipt = await owner.ended(sent)
        assert receipt["state"] == "stored", receipt
        assert receipt["refused"] == []
        ids.setdefault("receipt", receipt["receipt_id"])
    photo = await owner.send_photo()
    await owner.ended(photo)
    await owner.told(*OF_A_BATCH, *OF_A_PHOTO)
    ids["photo"] = photo.json()["photo_id"]
    (session,) = (await owner.get(f"/v1/sessions?from={DATE}T00:00:00Z&to={DATE}T23:00:00Z"))["sessions"]
    ids["session"] = session["session_id"]
    signed_in_again = await world.ask("POST", "/v1/tokens", json={"email": owner.email, "password": owner.password})
    ids["sign-in"] = signed_in_again.json()["session_id"]
    canaries |= {"device": DEVICE, "pulse": str(PULSE), "zone": ZONE, "address": owner.email, "user": owner.user_id}
    canaries |= {"receipt": ids["receipt"], "photo": ids["photo"], "session": ids["session"], "sign-in": ids["sign-in"]}
    canaries["insight"] = (await _first(owner, "/v1/insights", "insights"))["insight_id"]
    canaries["entry"] = (await _first(owner, f"/v1/diary/{DATE}", "entries"))["entry_id"]
    canaries["ledger"] = (await owner.get(f"/v1/ledger/{DATE}"))["expenditure_kcal"]
    await _export(world)


async def _export(world: World) -> None:
    asked = await world.owner.ask("POST", "/v1/me/exports")
    assert asked.status_code == 202, asked.text

    async def ready() -> bool:
        return (await world.owner.get("/v1/me/export"))["state"] == "ready"

    await eventually(ready)
    world.ids["export"] = world.canaries["export"] = asked.json()["export_id"]


async def _told_since(owner: Person) -> str:
    """The id of a message that is younger than the grants: what is older is sent to no partner again."""
    known = {one["id"] for one in await owner.messages()}
    await owner.ended(await owner.ask("POST", "/v1/batches", key="matrix-3", json=_batch(2)))

    async def told() -> list[str]:
        return [one["id"] for one in await owner.messages() if one["id"] not in known]

    return (await eventually(told))[0]


async def _replayed(world: World, endpoint: str) -> None:
    """A message that the partner has sent once more, and its delivery."""
    token = world.granted.token
    body, key = {"message_id": world.canaries["message"]}, {"Idempotency-Key": "replay"}
    asked = await world.ask("POST", f"{endpoint}/replays", token, json=body, headers=key)
    assert asked.status_code == 202, asked.text

    async def there() -> list[dict[str, Any]]:
        return (await world.ask("GET", f"{endpoint}/deliveries", token)).json()["deliveries"]

    world.ids["delivery"] = world.canaries["delivery"] = (await eventually(there))[0]["delivery_id"]
    world.ids["replay"] = world.canaries["replay"] = asked.json()["replay_id"]


async def _first(owner: Person, path: str, name: str) -> dict[str, Any]:
    async def there() -> list[dict[str, Any]]:
        return (await owner.get(path))[name]

    return (await eventually(there))[0]


def _batch(version: int) -> dict[str, Any]:
    """Heart rates in their first or second version, steps, and a workout."""
    pulse = [
        {
            "metric": "heart_rate",
            "start": f"{DATE}T08:{minute:02}:00Z",
            "value": PULSE if version == 2 else 99.5,
            "id": f"canary-sample-{minute}",
            "version": version,
        }
        for minute in range(20)
    ]
    steps = {"metric": "steps", "start": f"{DATE}T08:00:00Z", "end": f"{DATE}T08:10:00Z", "value": 900}
    workout = {
        "type": "workout",
        "sport": "running",
        "start": f"{DATE}T08:00:00Z",
        "end": f"{DATE}T08:20:00Z",
        "id": "canary-workout",
    }
    body: dict[str, Any] = {"device": {"id": DEVICE, "kind": "watch"}, "app": "canary/1", "samples": [*pulse, steps]}
    return body | {"sessions": [workout]} if version == 1 else body


async def _partners_own(world: World) -> None:
    """What is the granted partner's: keys, a user of its own, an endpoint."""
    token, ids, canaries = world.granted.token, world.ids, world.canaries

    async def made(path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        answer = await world.ask("POST", path, token, json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
        return answer.json()

    for name in ("key", "spare key"):
        key = await made("/v1/partner/keys", {"name": f"canary {name}", "scopes": list(GRANTABLE_SCOPES)}, name)
        ids[name], world.key = key["key_id"], world.key or key["key"]
    ids["managed"] = (await made("/v1/partner/users", {"profile": {}}, "managed"))["user_id"]
    endpoint = await made("/v1/webhook-endpoints", {"url": f"{world.whole.receiver.url}?canary"}, "matrix")
    world.whole.receiver.secret = endpoint["secret"]
    spare = await made(
        "/v1/webhook-endpoints", {"url": world.whole.receiver.url, "event_types": ["photo.read"]}, "spare"
    )
    ids["endpoint"], ids["spare endpoint"] = endpoint["endpoint_id"], spare["endpoint_id"]
    canaries["message"] = await _told_since(world.owner)
    await _replayed(world, f"/v1/webhook-endpoints/{ids['spare endpoint']}")
    canaries |= {"partner": "canary granted", "key": ids["key"], "managed": ids["managed"]}
    canaries["endpoint"] = endpoint["endpoint_id"]
    canaries["grant"] = ids["grant_id"]
