"""The gateway's table of routes: who may call each, how often, and what nobody reaches from outside."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.acting import taken
from services.gateway.routes import ROUTES, Route
from shared.errors import Problem
from tests.service.gateway_edges import Gateway
from tests.service.partner_calls import KEY, partners_gateway


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with partners_gateway(tmp_path) as one:
        yield one


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": None},
        {"scope": "no:such"},
        {"scope": "webhooks:write"},
        {"caller": "partner"},
        {"caller": "anyone"},
        {"caller": "nobody"},
        {"rate": "often"},
        {"rate": None},
        {"path": "/internal/keys/verify"},
        {"path": "/v1/internal/keys"},
        {"path": "/readyz"},
    ],
)
def test_a_route_that_does_not_say_who_may_call_and_how_often_is_refused(changed: dict[str, Any]) -> None:
    route = {"method": "GET", "path": "/v1/x", "service": "ingest", "caller": "user", "scope": "days:read"}
    assert Route(**route | {"rate": "read"}).about_users
    with pytest.raises(ValueError, match="/"):
        Route(**route | {"rate": "read"} | changed)


def test_every_route_names_scope_and_rate() -> None:
    for route in ROUTES:
        assert route.rate in ("sign-in", "write", "read", "stream"), route
        assert (route.scope is None) == (route.caller in ("anyone", "signed-in")), route


@pytest.mark.parametrize(
    "path",
    [
        "/internal/keys/verify",
        "//internal/keys/verify",
        "/v1/../internal/keys/verify",
        "/v1/days/..%2f..%2finternal%2fkeys%2fverify",
        "/v1/days/%2e%2e/%2e%2e/internal/keys/verify",
        "/INTERNAL/keys/verify",
        "/v1/days/../../internal/keys/verify",
        "/%69nternal/keys/verify",
        "/internal",
        "/metrics",
    ],
)
async def test_what_is_internal_is_not_reached_from_outside(door: Gateway, path: str) -> None:
    for method in ("GET", "POST"):
        for token in (
            "",
            KEY,
            door.running.signer.operator_token("auth"),
            door.running.signer.operator_token("ingest"),
        ):
            got = await door.ask(method, path, token=token, json={"key": KEY})
            assert got.status_code in (401, 404, 405), got.text
    targets = {one[2] for one in door.services.seen}
    assert targets <= {"/internal/keys/verify", "/.well-known/jwks.json"}
    assert all(KEY.encode() in one[4] for one in door.services.seen if "internal" in one[2])


async def test_a_problem_of_the_query_is_one_for_the_caller() -> None:
    with pytest.raises(Problem, match="once"):
        taken(b"user=a&user=b")
