"""What passes the gateway on pages and for OAuth clients, and on no other route."""

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.gateway.routes import PROXIED, Route
from tests.service.gateway_edges import Gateway, answer, gateway

BASIC = "Basic " + base64.b64encode(b"prt_oat:secret").decode()
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SENT = {
    "Cookie": "mymacro=c",
    "Authorization": BASIC,
    "Client-Authorization": "Basic lies",
    "Client-Address": "192.0.2.1",
}
OF_PAGES = {
    "set-cookie": "mymacro=d",
    "content-security-policy": "default-src 'none'",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
OF_CLIENTS = {"www-authenticate": 'Basic realm="oauth"'}
OAUTH = ("/oauth/authorize", "/oauth/token", "/oauth/revoke", "/oauth/introspect")
OPEN = [route for route in PROXIED if route.caller == "anyone"]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        one.services.handlers["auth"] = lambda *_: answer({}, 400, **OF_PAGES, **OF_CLIENTS, location="/next")
        yield one


async def asked(door: Gateway, route: Route) -> tuple[dict[str, str], dict[str, str]]:
    """What the service was told, and what the caller was."""
    content_type = {"Content-Type": route.content_types[0]}
    path = route.path.replace("{path}", "auth")
    got = await door.ask(
        route.method, path, token=None, headers=SENT | content_type, key="k" if route.keyed else None, content=b"{}"
    )
    told = {name.lower(): value for name, value in door.services.seen[-1][3].items()}
    return told, dict(got.headers)


@pytest.mark.parametrize("route", OPEN, ids=lambda route: f"{route.method} {route.path}")
async def test_cookies_and_credentials_pass_on_the_routes_that_say_so(door: Gateway, route: Route) -> None:
    told, seen = await asked(door, route)
    assert told.get("cookie") == ("mymacro=c" if route.page else None)
    assert told.get("client-authorization") == (BASIC if route.client else None)
    assert told["authorization"].startswith("Bearer ")
    assert told["client-address"] == "127.0.0.1"
    assert {name for name in OF_PAGES if name in seen} == (OF_PAGES.keys() if route.page else set())
    assert {name for name in OF_CLIENTS if name in seen} == (OF_CLIENTS.keys() if route.client else set())
    assert seen["cache-control"] == "no-store"


def test_only_routes_of_oauth_say_so() -> None:
    said = {(route.path, route.page, route.client) for route in PROXIED if route.page or route.client}
    assert said == {(path, path == "/oauth/authorize", path != "/oauth/authorize") for path in OAUTH}


@pytest.mark.parametrize("flag", ["page", "client"])
def test_a_route_with_callers_of_its_own_cannot_say_so(flag: str) -> None:
    with pytest.raises(ValueError, match="own token or cookie"):
        Route("GET", "/v1/x", "auth", "user", "profile:read", "read", **{flag: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("path", OAUTH)
async def test_only_forms_are_taken_and_small_ones(door: Gateway, path: str) -> None:
    json = await door.ask("POST", path, token=None, headers={"Content-Type": "application/json"}, content=b"{}")
    assert json.status_code == 415
    large = await door.ask("POST", path, token=None, headers=FORM, content=b"a" * 20_000)
    assert large.status_code == 413
    assert door.services.seen == []
