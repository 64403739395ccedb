"""The gateway's routes are found as if they were tried one by one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from services.gateway.lookup import FOUND, Lookup
from services.gateway.routes import ROUTES


class Answers:
    """Never called."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError


SERVED = [Route(route.path, Answers(), methods=[route.method]) for route in ROUTES]
LOOKUP = Lookup(SERVED)
PARTS = sorted({part for route in ROUTES for part in route.path.split("/")} | {"2026-03-01", "..", "v1", "x", "\n"})


def request(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": ""}


def one_by_one(scope: dict[str, Any]) -> tuple[Route, Any] | None:
    for route in SERVED:
        match, child = route.matches(scope)
        if match is Match.FULL:
            return route, child["path_params"]
    return None


def looked_up(scope: dict[str, Any]) -> tuple[Route, Any] | None:
    match, child = LOOKUP.matches(scope)
    return (child[FOUND], child["path_params"]) if match is Match.FULL else None


@pytest.mark.parametrize("route", SERVED, ids=lambda route: f"{sorted(route.methods)} {route.path}")
def test_every_route_is_found(route: Route) -> None:
    for method in route.methods or ():
        scope = request(method, route.path.replace("{", "").replace("}", ""))
        assert one_by_one(scope) == looked_up(scope) is not None


@given(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]), st.lists(st.sampled_from(PARTS)))
def test_whatever_the_path_the_lookup_finds_no_other_route(method: str, parts: list[str]) -> None:
    scope = request(method, "/" + "/".join(parts))
    found = looked_up(scope)
    # What it leaves to the routes themselves, they find.
    assert found is None or found == one_by_one(scope)


def test_other_protocols_are_for_their_own_routes() -> None:
    assert LOOKUP.matches({"type": "websocket", "path": "/v1/live/ws"})[0] is Match.NONE
