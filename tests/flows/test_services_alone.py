"""Every route of every service, asked directly: each checks scope and kind itself, whatever the gateway lets pass."""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx2
import pytest

from services.gateway.routes import PHOTO, RECEIPT, ROUTES, Route
from shared.callers import PARTNER_SCOPES, SCOPES, Caller
from shared.internal_tokens import InternalTokenSigner
from tests.flows.whole import SERVICES, Whole

# Published anyway, and holds nothing of anybody.
OPEN = ("/.well-known/", "/v1/event-types")
OF_PROCESSES = {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
EVERYTHING = frozenset(SCOPES)
PUBLIC = {(route.service, route.method, route.path): route for route in ROUTES if route.service != "gateway"} | {
    # The gateway asks these to answer routes of its own.
    ("ingest", "GET", "/v1/receipts/{receipt_id}"): RECEIPT,
    ("inference", "GET", "/v1/photos/{photo_id}"): PHOTO,
}


def served(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of everything that a service answers, in included routers too."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from served(inner.routes)
            continue
        for method in sorted(set(route.methods or ()) - {"HEAD"}):
            yield method, route.path


async def asked(system: Whole, service: str, method: str, path: str, caller: Caller | None) -> httpx2.Response:
    """The service's own answer; None = without any token."""
    headers = {"Idempotency-Key": "k"}
    if caller is not None:
        token = InternalTokenSigner(system.folder / "internal.jwk").token(caller, service)
        headers["Authorization"] = f"Bearer {token}"
    transport = httpx2.ASGITransport(system.apps[service])
    filled = path.replace("{date}", "2026-03-01").replace("{metric}", "steps")
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
        return await http.request(method, filled, headers=headers, json={"key": "k"} if "internal" in path else None)


def refused(route: Route) -> dict[str, Caller]:
    """Callers that the gateway would not let through, by what is wrong with them."""
    user, partner = "usr_1", "prt_1"
    lacking = EVERYTHING - {route.scope or ""}
    if route.caller == "partner":
        return {
            "a user": Caller(user, None, EVERYTHING, "sid_1"),
            "a partner for a user": Caller(user, partner, EVERYTHING, "sid_1"),
            "a partner without the scope": Caller(None, partner, lacking),
            "nobody": Caller(None, None, EVERYTHING),
        }
    callers = {
        "a user without the scope": Caller(user, None, lacking, "sid_1"),
        "a partner for a user, without the scope": Caller(user, partner, lacking),
        "a partner": Caller(None, partner, EVERYTHING),
        "nobody": Caller(None, None, EVERYTHING),
    }
    return callers if route.about_users else callers | {"a partner for a user": Caller(user, partner, EVERYTHING)}


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json().get("type", "")).rsplit("/", 1)[-1]


async def test_what_services_serve_is_public_by_the_table_or_internal(system: Whole) -> None:
    for service in SERVICES:
        found = {(service, method, path) for method, path in served(system.apps[service].routes)}
        table = {key for key in PUBLIC if key[0] == service}
        assert table <= found
        others = {path for _, _, path in found - table}
        assert all(path in OF_PROCESSES or path.startswith("/internal/") for path in others), others


@pytest.mark.parametrize("service", SERVICES)
async def test_every_public_route_checks_scope_and_kind_again(system: Whole, service: str) -> None:
    checked = 0
    for name, method, path in PUBLIC:
        route = PUBLIC[name, method, path]
        if name != service or path.startswith(OPEN):
            continue
        where = f"{method} {path}"
        nobody = await asked(system, service, method, path, None)
        assert nobody.status_code == 401, (where, nobody.text)
        for wrong, caller in refused(route).items() if route.caller != "anyone" else ():
            answer = await asked(system, service, method, path, caller)
            assert code(answer) == (403, "insufficient-scope"), (where, wrong, answer.text)
        checked += 1
    assert checked


@pytest.mark.parametrize("service", ["auth", "ingest"])
async def test_internal_routes_are_for_operators_or_the_gateway_itself(system: Whole, service: str) -> None:
    internal = [(method, path) for method, path in served(system.apps[service].routes) if path.startswith("/internal/")]
    assert internal
    callers: dict[str, Caller | None] = {
        "a user": Caller("usr_1", None, EVERYTHING | {"operator"}, "sid_1"),
        "a partner": Caller(None, "prt_1", EVERYTHING | {"operator"}),
        "nobody": None,
    }
    for method, path in internal:
        for wrong, caller in callers.items():
            answer = await asked(system, service, method, path, caller)
            assert answer.status_code == (401 if caller is None else 403), (method, path, wrong, answer.text)


def test_every_scope_is_needed_somewhere_or_said_to_be_for_later() -> None:
    needed = {route.scope for route in ROUTES}
    assert EVERYTHING - needed == {"diary:write"}
    assert needed >= PARTNER_SCOPES
