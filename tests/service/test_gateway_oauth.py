"""What passes the gateway on pages and for OAuth clients, and on no other route."""

import base64
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.gateway.pages import prefers_html
from services.gateway.proxy import Answer, Unanswered
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
        Route("GET", "/v1/x", "auth", "user", "profile:read", "read", **{flag: True})


@pytest.mark.parametrize("path", OAUTH)
async def test_only_forms_are_taken_and_small_ones(door: Gateway, path: str) -> None:
    json = await door.ask("POST", path, token=None, headers={"Content-Type": "application/json"}, content=b"{}")
    assert json.status_code == 415
    large = await door.ask("POST", path, token=None, headers=FORM, content=b"a" * 20_000)
    assert large.status_code == 413
    assert door.services.seen == []


# people


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
AUTHORIZE = "/oauth/authorize"


def is_page(got: httpx2.Response, status: int) -> bool:
    assert got.status_code == status, got.text
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["retry-after"].isdigit()
    if not got.headers["content-type"].startswith("text/html"):
        assert got.json()["status"] == status
        return False
    assert got.headers["content-security-policy"].startswith("default-src 'none'")
    assert f"in {got.headers['retry-after']} seconds" in got.text
    return True


async def test_a_browser_with_too_many_requests_is_shown_a_page_and_a_program_a_problem(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_rate_sign_in="1/60") as door:

        async def post(path: str, accept: str) -> httpx2.Response:
            return await door.ask("POST", path, token=None, headers=FORM | {"Accept": accept}, content=b"a=b")

        assert (await post(AUTHORIZE, BROWSER)).status_code == 404
        limited = await post(AUTHORIZE, BROWSER)
        assert is_page(limited, 429)
        assert "ratelimit" in limited.headers
        assert not is_page(await post(AUTHORIZE, "application/json"), 429)


async def test_a_browser_is_shown_a_page_while_auth_is_away_or_says_so_itself(door: Gateway) -> None:
    def away(*_: Any) -> Answer:
        raise Unanswered("auth")

    own = answer({"status": 503}, 503, "application/problem+json", **{"retry-after": "5"})
    for handler in (away, lambda *_: own):
        door.services.handlers["auth"] = handler
        for method in ("GET", "POST"):
            for accept, expected in ((BROWSER, True), ("*/*", False), ("application/json, text/html;q=0.5", False)):
                headers = FORM | {"Accept": accept}
                got = await door.ask(method, AUTHORIZE, token=None, headers=headers, content=b"a=b")
                assert is_page(got, 503) == expected
        client = await door.ask("POST", "/oauth/token", token=None, headers=FORM | {"Accept": BROWSER}, content=b"a=b")
        assert not is_page(client, 503)
    refused = await door.ask("POST", AUTHORIZE, token=None, headers={"Accept": BROWSER}, content=b"{}")
    assert refused.status_code == 415
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (b"text/html", True),
        (b"TEXT/HTML;q=0.9, application/json;q=0.8", True),
        (b"text/html;level=1;q=1", True),
        (b"", False),
        (b"*/*", False),
        (b"text/html;q=0", False),
        (b"text/html;q=x", False),
        (b"text/html, application/json", False),
        (b"text/html;q=0.1, application/problem+json", False),
        (b"\xff,;;q=,text/plain", False),
    ],
)
def test_only_whoever_names_html_and_wants_json_less_prefers_it(accept: bytes, html: bool) -> None:
    assert prefers_html(accept) is html
