"""The one routing table: which service answers, who may call, what may be sent."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from services.gateway.photos import CONTENT_TYPES
from shared.callers import GRANTABLE_SCOPES, PARTNER_SCOPES, SCOPES

CallerKind = Literal["anyone", "user", "partner", "signed-in"]
RateClass = Literal["sign-in", "write", "read", "stream"]
KIB = 1024
MIB = 1024 * KIB
JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded",)
PUBLIC_PATHS = ("/v1/", "/.well-known/", "/oauth/")


@dataclass(frozen=True)
class Route:
    """A public route. `keyed` = needs an Idempotency-Key.

    `max_body` in bytes, counted uncompressed, 0 = no body is read; `codings` are the Content-Encodings it takes.
    `page`: people see it in a browser, so cookies and what guards a page pass through; `client`: the service itself
    looks at the caller's `Authorization`, and asks for it.
    """

    method: str
    path: str
    service: str
    caller: CallerKind
    scope: str | None
    rate: RateClass
    max_body: int = 0
    content_types: tuple[str, ...] = JSON
    keyed: bool = False
    codings: tuple[str, ...] = ()
    page: bool = False
    client: bool = False

    def __post_init__(self) -> None:
        """Refuse what must not be public. Raises ValueError."""
        if not self.path.startswith(PUBLIC_PATHS) or "internal" in self.path:
            raise ValueError(f"{self.path} is not a public path")
        if self.rate not in get_args(RateClass) or self.caller not in get_args(CallerKind):
            raise ValueError(f"{self.method} {self.path} needs a rate class and a kind of caller")
        if (self.page or self.client) and self.caller != "anyone":
            raise ValueError(f"{self.method} {self.path} would tell a service the caller's own token or cookie")
        allowed = {"partner": PARTNER_SCOPES, "user": frozenset(SCOPES) - PARTNER_SCOPES}.get(self.caller, {None})
        if self.scope not in allowed:
            raise ValueError(f"{self.method} {self.path}: {self.scope} is no scope for a caller of kind {self.caller}")

    @property
    def about_users(self) -> bool:
        """Whether it is about data that users can let partners see, so partners call it with `?user=`."""
        return self.caller == "user" and self.scope in GRANTABLE_SCOPES


BATCHES = Route(
    "POST", "/v1/batches", "gateway", "user", "samples:write", "write", 4 * MIB, keyed=True, codings=("gzip", "zstd")
)
PHOTOS = Route("PUT", "/v1/photos", "gateway", "user", "photos:write", "write", 10 * MIB, CONTENT_TYPES, keyed=True)
RECEIPT = Route("GET", "/v1/receipts/{id}", "gateway", "user", "samples:read", "read")
PHOTO = Route("GET", "/v1/photos/{id}", "gateway", "user", "photos:read", "read")
LIVE = Route("GET", "/v1/live", "gateway", "user", "live:read", "stream")
LIVE_SOCKET = Route("GET", "/v1/live/ws", "gateway", "user", "live:read", "stream")
TICKETS = Route("POST", "/v1/live/tickets", "gateway", "user", "live:read", "write")
WHOAMI = Route("GET", "/v1/whoami", "gateway", "signed-in", None, "read")

OWN = (BATCHES, PHOTOS, RECEIPT, PHOTO, LIVE, LIVE_SOCKET, TICKETS, WHOAMI)
PROXIED = (
    Route("POST", "/v1/users", "auth", "anyone", None, "sign-in", MIB, keyed=True),
    Route("POST", "/v1/tokens", "auth", "anyone", None, "sign-in", MIB),
    Route("POST", "/v1/tokens/refresh", "auth", "anyone", None, "sign-in", 4 * KIB),
    Route("POST", "/v1/tokens/revoke", "auth", "anyone", None, "sign-in", 4 * KIB),
    Route("GET", "/v1/me/sessions", "auth", "user", "profile:read", "read"),
    Route("DELETE", "/v1/me/sessions", "auth", "user", "profile:write", "write"),
    Route("DELETE", "/v1/me/sessions/{session_id}", "auth", "user", "profile:write", "write"),
    Route("GET", "/v1/me", "auth", "user", "profile:read", "read"),
    Route("GET", "/v1/me/security-events", "auth", "user", "profile:read", "read"),
    Route("PATCH", "/v1/me", "auth", "user", "profile:write", "write", 64 * KIB),
    Route("DELETE", "/v1/me", "auth", "user", "profile:write", "write"),
    Route("POST", "/v1/me/exports", "auth", "user", "profile:write", "write"),
    Route("GET", "/v1/me/export", "auth", "user", "profile:read", "read"),
    Route("GET", "/v1/me/exports/{export_id}", "auth", "user", "profile:read", "read"),
    Route("GET", "/v1/me/exports/{export_id}/file", "auth", "user", "profile:read", "read"),
    Route("GET", "/v1/erasures/{erasure_id}", "auth", "anyone", None, "read"),
    Route("PUT", "/v1/me/password", "auth", "user", "profile:write", "sign-in", 64 * KIB),
    Route("POST", "/v1/password-resets", "auth", "anyone", None, "sign-in", 64 * KIB),
    Route("POST", "/v1/password-resets/confirmations", "auth", "anyone", None, "sign-in", 64 * KIB),
    Route("POST", "/v1/me/second-factor", "auth", "user", "profile:write", "sign-in", 64 * KIB),
    Route("POST", "/v1/me/second-factor/confirmations", "auth", "user", "profile:write", "sign-in", 64 * KIB),
    Route("POST", "/v1/me/second-factor/recovery-codes", "auth", "user", "profile:write", "sign-in", 64 * KIB),
    Route("POST", "/v1/me/second-factor/removals", "auth", "user", "profile:write", "sign-in", 64 * KIB),
    Route("POST", "/v1/grants", "auth", "user", "grants:write", "write", MIB, keyed=True),
    Route("GET", "/v1/grants", "auth", "user", "grants:write", "read"),
    Route("DELETE", "/v1/grants/{grant_id}", "auth", "user", "grants:write", "write"),
    Route("POST", "/v1/partners", "auth", "anyone", None, "sign-in", 64 * KIB, keyed=True),
    Route("GET", "/v1/partner", "auth", "partner", "partner:read", "read"),
    Route("PATCH", "/v1/partner", "auth", "partner", "partner:write", "write", 64 * KIB),
    Route(
        "POST", "/v1/partner/client-secret/rotations", "auth", "partner", "partner:write", "write", 4 * KIB, keyed=True
    ),
    Route("POST", "/v1/partner/keys", "auth", "partner", "partner:write", "write", 4 * KIB, keyed=True),
    Route("GET", "/v1/partner/keys", "auth", "partner", "partner:read", "read"),
    Route("DELETE", "/v1/partner/keys/{key_id}", "auth", "partner", "partner:write", "write"),
    Route(
        "POST", "/v1/partner/keys/{key_id}/rotations", "auth", "partner", "partner:write", "write", 4 * KIB, keyed=True
    ),
    Route("POST", "/v1/partner/users", "auth", "partner", "users:manage", "write", 64 * KIB, keyed=True),
    Route("GET", "/v1/partner/users", "auth", "partner", "users:manage", "read"),
    Route("GET", "/v1/partner/users/{user_id}", "auth", "partner", "users:manage", "read"),
    Route("DELETE", "/v1/partner/users/{user_id}", "auth", "partner", "users:manage", "write"),
    Route("GET", "/.well-known/jwks.json", "auth", "anyone", None, "read"),
    Route("GET", "/.well-known/oauth-authorization-server", "auth", "anyone", None, "read"),
    Route("GET", "/.well-known/oauth-authorization-server/{path}", "auth", "anyone", None, "read"),
    Route("GET", "/oauth/authorize", "auth", "anyone", None, "read", page=True),
    Route("POST", "/oauth/authorize", "auth", "anyone", None, "sign-in", 16 * KIB, FORM, page=True),
    Route("POST", "/oauth/token", "auth", "anyone", None, "write", 16 * KIB, FORM, client=True),
    Route("POST", "/oauth/revoke", "auth", "anyone", None, "write", 16 * KIB, FORM, client=True),
    Route("POST", "/oauth/introspect", "auth", "anyone", None, "write", 16 * KIB, FORM, client=True),
    Route("GET", "/v1/receipts", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/days", "ingest", "user", "days:read", "read"),
    Route("GET", "/v1/days/{date}", "ingest", "user", "days:read", "read"),
    Route("GET", "/v1/days/{date}/explain", "ingest", "user", "days:read", "read"),
    Route("GET", "/v1/timeseries", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/timeseries/history", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/sessions", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/sessions/{session_id}", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/completeness", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/devices", "ingest", "user", "samples:read", "read"),
    Route("GET", "/v1/device-priorities", "ingest", "user", "profile:read", "read"),
    Route("PUT", "/v1/device-priorities/{metric}", "ingest", "user", "profile:write", "write", 64 * KIB),
    Route("GET", "/v1/me/zone", "ingest", "user", "profile:read", "read"),
    Route("PUT", "/v1/me/zone", "ingest", "user", "profile:write", "write", 64 * KIB),
    Route("GET", "/v1/diary/{date}", "nutrition", "user", "diary:read", "read"),
    Route("GET", "/v1/ledger/{date}", "insights", "user", "ledger:read", "read"),
    Route("GET", "/v1/insights", "insights", "user", "insights:read", "read"),
    Route("POST", "/v1/webhook-endpoints", "webhooks", "partner", "webhooks:write", "write", MIB, keyed=True),
    Route("GET", "/v1/webhook-endpoints", "webhooks", "partner", "webhooks:write", "read"),
    Route("GET", "/v1/webhook-endpoints/{endpoint_id}", "webhooks", "partner", "webhooks:write", "read"),
    Route("PATCH", "/v1/webhook-endpoints/{endpoint_id}", "webhooks", "partner", "webhooks:write", "write", MIB),
    Route("DELETE", "/v1/webhook-endpoints/{endpoint_id}", "webhooks", "partner", "webhooks:write", "write"),
    Route(
        "POST",
        "/v1/webhook-endpoints/{endpoint_id}/secrets",
        "webhooks",
        "partner",
        "webhooks:write",
        "write",
        64 * KIB,
        keyed=True,
    ),
    Route(
        "POST",
        "/v1/webhook-endpoints/{endpoint_id}/tests",
        "webhooks",
        "partner",
        "webhooks:write",
        "write",
        keyed=True,
    ),
    Route("GET", "/v1/webhook-endpoints/{endpoint_id}/deliveries", "webhooks", "partner", "webhooks:write", "read"),
    Route("GET", "/v1/webhook-endpoints/{endpoint_id}/replays", "webhooks", "partner", "webhooks:write", "read"),
    Route(
        "POST",
        "/v1/webhook-endpoints/{endpoint_id}/replays",
        "webhooks",
        "partner",
        "webhooks:write",
        "write",
        64 * KIB,
        keyed=True,
    ),
    Route(
        "GET",
        "/v1/webhook-endpoints/{endpoint_id}/replays/{replay_id}",
        "webhooks",
        "partner",
        "webhooks:write",
        "read",
    ),
    Route(
        "PATCH",
        "/v1/webhook-endpoints/{endpoint_id}/replays/{replay_id}",
        "webhooks",
        "partner",
        "webhooks:write",
        "write",
        KIB,
    ),
    Route("GET", "/v1/deliveries/{delivery_id}", "webhooks", "partner", "webhooks:write", "read"),
    Route("POST", "/v1/deliveries/{delivery_id}/retries", "webhooks", "partner", "webhooks:write", "write"),
    Route("GET", "/v1/event-types", "webhooks", "anyone", None, "read"),
    Route("GET", "/v1/events", "webhooks", "user", "live:read", "read"),
)
ROUTES = OWN + PROXIED
if len({(route.method, route.path) for route in ROUTES}) < len(ROUTES):
    raise ValueError("a route is in the table twice")


def limited(route: Route, *, max_batch_bytes: int, max_photo_bytes: int) -> Route:
    """The route with the limits of this installation."""
    if route is BATCHES:
        return replace(route, max_body=max_batch_bytes)
    if route is PHOTOS:
        return replace(route, max_body=max_photo_bytes)
    return route
