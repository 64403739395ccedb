"""What the matrix sends to each route, and what the answer of whoever may ask must show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2

from services.auth import totp
from shared.clock import utc_now
from tests.flows.matrix_world import DATE, World
from tests.flows.people import PICTURE
from tests.service.account_holder import secret_of

RANGE = f"from={DATE}T00:00:00Z&to={DATE}T23:00:00Z"
DATES = f"from={DATE}&to={DATE}"
NEW_PASSWORD = "seven quiet lamps of brass"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
LINK = "response_type=code&client_id=nobody&redirect_uri=https://elsewhere.example/"


@dataclass(frozen=True)
class Case:
    """One route's request.

    `ids`: for each parameter that names something of somebody's, the world's id and one that is nowhere; `plain`: the
    other parameters. `shows`: canaries that the answer must hold for those who may see it. `late`: what ends something
    that the others need comes after them. `refused`: the route's own status for a request like this one, whoever asks.
    """

    ids: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    plain: Mapping[str, str] = field(default_factory=dict[str, str])
    query: str = ""
    json: Callable[[World], Any] | None = None
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    shows: tuple[str, ...] = ()
    learns: Callable[[World, httpx2.Response], None] | None = None
    late: int = 0
    refused: int = 0


def _password(world: World) -> dict[str, str]:
    return {"password": world.owner.password}


def _authenticator(world: World, answer: httpx2.Response) -> None:
    world.codes["secret"] = answer.json()["secret"]


def _code(world: World) -> dict[str, str]:
    secret = world.codes.get("secret")
    step = int(utc_now().timestamp()) // totp.STEP_S
    return {"code": totp.code_at(secret_of(secret), step) if secret else "000000"}


def _batch(_: World) -> dict[str, Any]:
    sample = {"metric": "steps", "start": f"{DATE}T18:00:00Z", "end": f"{DATE}T18:01:00Z", "value": 10}
    return {"device": {"id": "matrix", "kind": "watch"}, "app": "matrix/1", "samples": [sample]}


ON_A_DATE = {"date": DATE}
SESSION = {"session_id": ("session", "4Jq3mWmVX1Cq5H0y2n8yRw")}
ENDPOINT = {"endpoint_id": ("endpoint", "9a4f0c3e5d7b4b1c8e2f6a7d0c1b2e3f")}
SPARE_ENDPOINT = {"endpoint_id": ("spare endpoint", "9a4f0c3e5d7b4b1c8e2f6a7d0c1b2e3f")}
REPLAY = SPARE_ENDPOINT | {"replay_id": ("replay", "9a4f0c3e5d7b4b1c8e2f6a7d0c1b2e3f")}
DELIVERY = {"delivery_id": ("delivery", "9a4f0c3e5d7b4b1c8e2f6a7d0c1b2e3f")}
KEY = {"key_id": ("key", "key_nowhere")}
EXPORT = {"export_id": ("export", "exp_nowhere")}
CASES: dict[tuple[str, str], Case] = {
    ("POST", "/v1/batches"): Case(json=_batch),
    ("PUT", "/v1/photos"): Case(query="grams=80", content=PICTURE, headers={"Content-Type": "image/png"}),
    ("GET", "/v1/receipts/{id}"): Case({"id": ("receipt", "rcp_" + "a" * 39)}, shows=("receipt",)),
    ("GET", "/v1/photos/{id}"): Case({"id": ("photo", "pho_" + "a" * 39)}, shows=("photo",)),
    ("GET", "/v1/live"): Case(headers={"Last-Event-ID": "0"}, shows=("receipt",)),
    ("GET", "/v1/live/ws"): Case(query="after=0", shows=("receipt",)),
    ("POST", "/v1/live/tickets"): Case(),
    ("GET", "/v1/whoami"): Case(),
    # accounts
    ("POST", "/v1/users"): Case(
        json=lambda _: {"email": f"{uuid4().hex}@example.org", "password": "eleven blue herons wait"}, refused=201
    ),
    ("POST", "/v1/tokens"): Case(json=lambda _: {"email": "nobody@example.org", "password": "no"}, refused=401),
    ("POST", "/v1/tokens/refresh"): Case(json=lambda _: {"refresh_token": "mmr_nobody"}, refused=401),
    ("POST", "/v1/tokens/revoke"): Case(json=lambda _: {"refresh_token": "mmr_nobody"}, refused=204),
    ("POST", "/v1/password-resets"): Case(json=lambda _: {"email": f"{uuid4().hex}@example.org"}, refused=202),
    ("POST", "/v1/password-resets/confirmations"): Case(
        json=lambda _: {"token": "nobody", "new_password": NEW_PASSWORD}, refused=422
    ),
    ("GET", "/v1/me"): Case(shows=("user", "address")),
    ("GET", "/v1/me/security-events"): Case(shows=("grant",)),
    ("PATCH", "/v1/me"): Case(json=lambda _: {"locale": "mi-NZ"}, shows=("user",)),
    ("GET", "/v1/me/sessions"): Case(shows=("sign-in",)),
    ("DELETE", "/v1/me/sessions/{session_id}"): Case({"session_id": ("sign-in", "sid_nowhere")}, late=1),
    ("DELETE", "/v1/me/sessions"): Case(late=2),
    ("POST", "/v1/me/second-factor"): Case(json=_password, learns=_authenticator, late=3),
    ("POST", "/v1/me/second-factor/confirmations"): Case(json=_code, late=4),
    ("POST", "/v1/me/second-factor/recovery-codes"): Case(json=_password, late=5),
    ("POST", "/v1/me/second-factor/removals"): Case(json=_password, late=6),
    ("PUT", "/v1/me/password"): Case(
        json=lambda world: {"password": world.owner.password, "new_password": NEW_PASSWORD}, late=7
    ),
    ("DELETE", "/v1/me"): Case(late=9),
    ("POST", "/v1/me/exports"): Case(late=1),
    ("GET", "/v1/me/export"): Case(shows=("export",)),
    ("GET", "/v1/me/exports/{export_id}"): Case(EXPORT, shows=("export",)),
    ("GET", "/v1/me/exports/{export_id}/file"): Case(EXPORT),
    ("GET", "/v1/erasures/{erasure_id}"): Case(plain={"erasure_id": "nowhere"}, refused=404),
    ("GET", "/v1/me/zone"): Case(shows=("zone",)),
    ("PUT", "/v1/me/zone"): Case(json=lambda _: {"zone": "Europe/Lisbon"}, late=1),
    ("GET", "/v1/device-priorities"): Case(shows=("device",)),
    ("PUT", "/v1/device-priorities/{metric}"): Case(
        plain={"metric": "steps"}, json=lambda _: {"order": ["kind:watch"]}, shows=("device",)
    ),
    # grants
    ("POST", "/v1/grants"): Case(
        json=lambda world: {"partner_id": world.granted.id, "scopes": ["days:read"]}, late=1, shows=()
    ),
    ("GET", "/v1/grants"): Case(shows=("grant",)),
    ("DELETE", "/v1/grants/{grant_id}"): Case(
        {"grant_id": ("grant_id", "8d3f9a7e-0000-5000-8000-000000000000")}, late=1
    ),
    # partners
    ("POST", "/v1/partners"): Case(
        json=lambda _: {"name": "Oat", "contact": "a@oat.example", "scopes": ["days:read"]}, refused=201
    ),
    ("GET", "/v1/partner"): Case(shows=("partner",)),
    ("PATCH", "/v1/partner"): Case(
        json=lambda _: {"redirect_uris": ["https://elsewhere.example/"]}, shows=("partner",)
    ),
    ("POST", "/v1/partner/client-secret/rotations"): Case(json=lambda _: {"overlap_s": 60}),
    ("POST", "/v1/partner/keys"): Case(json=lambda _: {"name": "fresh", "scopes": ["days:read"]}),
    ("GET", "/v1/partner/keys"): Case(shows=("key",)),
    ("POST", "/v1/partner/keys/{key_id}/rotations"): Case(KEY, json=lambda _: {"overlap_s": 60}, late=1),
    ("DELETE", "/v1/partner/keys/{key_id}"): Case({"key_id": ("spare key", "key_nowhere")}, late=2),
    ("POST", "/v1/partner/users"): Case(json=lambda _: {"profile": {}}),
    ("GET", "/v1/partner/users"): Case(shows=("managed",)),
    ("GET", "/v1/partner/users/{user_id}"): Case({"user_id": ("managed", "usr_nobody")}, shows=("managed",)),
    ("DELETE", "/v1/partner/users/{user_id}"): Case({"user_id": ("managed", "usr_nobody")}, late=3),
    # OAuth
    ("GET", "/.well-known/jwks.json"): Case(refused=200),
    ("GET", "/.well-known/oauth-authorization-server"): Case(refused=200),
    ("GET", "/.well-known/oauth-authorization-server/{path}"): Case(plain={"path": "nowhere"}, refused=404),
    ("GET", "/oauth/authorize"): Case(query=LINK, refused=400),
    ("POST", "/oauth/authorize"): Case(query=LINK, content=b"email=a&password=b", headers=FORM, refused=400),
    ("POST", "/oauth/token"): Case(content=b"grant_type=client_credentials", headers=FORM, refused=401),
    ("POST", "/oauth/revoke"): Case(content=b"token=x", headers=FORM, refused=401),
    ("POST", "/oauth/introspect"): Case(content=b"token=x", headers=FORM, refused=401),
    # users' data
    ("GET", "/v1/receipts"): Case(shows=("receipt",)),
    ("GET", "/v1/days"): Case(query=DATES, shows=("pulse",)),
    ("GET", "/v1/days/{date}"): Case(plain=ON_A_DATE, shows=("pulse",)),
    ("GET", "/v1/days/{date}/explain"): Case(plain=ON_A_DATE, shows=("device",)),
    ("GET", "/v1/timeseries"): Case(query=f"metric=heart_rate&{RANGE}", shows=("pulse", "device")),
    ("GET", "/v1/timeseries/history"): Case(query=f"metric=heart_rate&{RANGE}", shows=("device",)),
    ("GET", "/v1/sessions"): Case(query=RANGE, shows=("session",)),
    ("GET", "/v1/sessions/{session_id}"): Case(SESSION, shows=("session",)),
    ("GET", "/v1/completeness"): Case(query=DATES, shows=("device",)),
    ("GET", "/v1/devices"): Case(shows=("device",)),
    ("GET", "/v1/diary/{date}"): Case(plain=ON_A_DATE, shows=("entry",)),
    ("GET", "/v1/ledger/{date}"): Case(plain=ON_A_DATE, shows=("ledger",)),
    ("GET", "/v1/insights"): Case(shows=("insight",)),
    ("GET", "/v1/events"): Case(query="after=0&limit=1000", shows=("receipt", "message")),
    # webhooks
    ("POST", "/v1/webhook-endpoints"): Case(json=lambda _: {"url": "http://127.0.0.1:9/"}),
    ("GET", "/v1/webhook-endpoints"): Case(shows=("endpoint",)),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}"): Case(ENDPOINT, shows=("endpoint",)),
    ("PATCH", "/v1/webhook-endpoints/{endpoint_id}"): Case(ENDPOINT, json=lambda _: {"ordered": False}),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/secrets"): Case(SPARE_ENDPOINT, json=lambda _: {}),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/tests"): Case(SPARE_ENDPOINT),
    ("DELETE", "/v1/webhook-endpoints/{endpoint_id}"): Case(SPARE_ENDPOINT, late=1),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}/deliveries"): Case(SPARE_ENDPOINT, shows=("delivery",)),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}/replays"): Case(SPARE_ENDPOINT, shows=("replay",)),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/replays"): Case(
        SPARE_ENDPOINT, json=lambda world: {"message_id": world.canaries["message"]}
    ),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}/replays/{replay_id}"): Case(REPLAY, shows=("replay",)),
    ("PATCH", "/v1/webhook-endpoints/{endpoint_id}/replays/{replay_id}"): Case(
        REPLAY, json=lambda _: {"state": "cancelled"}
    ),
    ("GET", "/v1/deliveries/{delivery_id}"): Case(DELIVERY, shows=("delivery",)),
    ("POST", "/v1/deliveries/{delivery_id}/retries"): Case(DELIVERY),
    ("GET", "/v1/event-types"): Case(refused=200),
}
