"""Limits at the gateway's door: whose they are, what answers say of them, and that nothing else breaks by them."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.local.instance import free_ports
from services.gateway.openapi import merge
from services.gateway.redis_buckets import AGAIN_S, WAIT_S
from services.gateway.routes import ROUTES, Route
from shared import problems, topics
from shared.clock import utc_now
from shared.events.auth import GrantUpdated
from shared.keys import new_api_key
from tests.polling import eventually
from tests.service.gateway_edges import USER, Gateway, Stream, answer, gateway, partner

PARTNER = "prt_1"
BATCH = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "samples": []}
SAMPLE = {"metric": "heart_rate", "start": "2026-03-01T08:00:00+01:00", "value": 61}
FIELD = re.compile(r'"[a-z-]+";r=\d+;t=\d+(, "[a-z-]+";r=\d+;t=\d+)*', re.ASCII)


@asynccontextmanager
async def limited(folder: Path, **settings: Any) -> AsyncGenerator[Gateway]:
    async with gateway(folder, **settings) as door:
        await tell_partner(door)
        yield door


async def tell_partner(door: Gateway, quota: int | None = None, revision: int = 1) -> None:
    news = partner(PARTNER, revision=revision, requests_per_min=quota)
    await door.running.app.state.partners.take(PARTNER, news)


async def statuses(door: Gateway, times: int, path: str = "/v1/whoami", **asked: Any) -> list[int]:
    return [(await door.ask("GET", path, **asked)).status_code for _ in range(times)]


def refusal(got: httpx2.Response) -> str:
    """Which limit a refusal names, once all of it is as it must be."""
    assert got.status_code == 429
    assert got.headers["content-type"] == "application/problem+json"
    document = got.json()
    assert document["type"] == f"{problems.TYPE_PREFIX}rate-limited"
    assert "send it again" in document["detail"]
    assert int(got.headers["retry-after"]) == document["retry_after_s"] >= 1
    assert f'"{document["limit"]}";r=0;t={document["retry_after_s"]}' in got.headers["ratelimit"]
    return document["limit"]


# whose limit it is


async def test_a_user_has_a_limit_in_each_class(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_read="2/60", gateway_rate_write="1/60") as door:
        assert await statuses(door, 2) == [200, 200]
        assert refusal(await door.ask("GET", "/v1/whoami")) == "user-read"
        assert (await door.ask("GET", "/v1/whoami", token=door.token("usr_2"))).status_code == 200
        sent = [await door.ask("POST", "/v1/batches", json=BATCH | {"samples": [SAMPLE]}, key="b1") for _ in range(2)]
        assert sent[0].status_code == 202
        assert refusal(sent[1]) == "user-write"
        assert len(door.running.published[topics.BATCHES.name]) == 1


async def test_what_was_refused_is_taken_as_soon_as_the_answer_said(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_write="1/1") as door:
        await door.ask("POST", "/v1/batches", json=BATCH | {"samples": [SAMPLE]}, key="b1")
        again = BATCH | {"samples": [SAMPLE, SAMPLE]}
        got = await door.ask("POST", "/v1/batches", json=again, key="b2")
        refused_at, wait_s = time.monotonic(), int(got.headers["retry-after"])
        assert refusal(got) == "user-write"

        async def taken() -> bool:
            return (await door.ask("POST", "/v1/batches", json=again, key="b2")).status_code == 202

        await eventually(taken)
        assert time.monotonic() - refused_at < wait_s + 0.5


async def test_a_key_and_its_partner_have_limits_and_the_tighter_counts(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_key="2/60") as door:
        verified = answer({"partner_id": PARTNER, "scopes": ["webhooks:write"], "expires_at": None})
        door.services.handlers["auth"] = lambda *_: verified
        one, other = new_api_key(), new_api_key()
        assert await statuses(door, 2, token=one) == [200, 200]
        assert refusal(await door.ask("GET", "/v1/whoami", token=one)) == "key"
        assert await statuses(door, 1, token=other) == [200]
        await tell_partner(door, quota=1, revision=2)
        assert refusal(await door.ask("GET", "/v1/whoami", token=other)) == "partner"
        assert refusal(await door.ask("GET", "/v1/whoami", token=new_api_key())) == "partner"


async def tell_grant(door: Gateway, user_id: str) -> None:
    """What the user lets the partner see."""
    grant = GrantUpdated(
        event_id="e",
        occurred_at=utc_now(),
        grant_id=f"grt_{user_id}",
        user_id=user_id,
        partner_id=PARTNER,
        revision=1,
        scopes=("days:read",),
    )
    await door.running.app.state.grants.take(grant.grant_id, grant)


async def test_one_user_does_not_use_up_the_quota_of_a_partner(tmp_path: Path) -> None:
    async with limited(tmp_path) as door:
        await tell_partner(door, quota=8)
        for user_id in (USER, "usr_other"):
            await tell_grant(door, user_id)
        apps = {
            user_id: door.token(user_id, client_id=PARTNER, scopes=("days:read",), grant_revision=1, session_id="ses_1")
            for user_id in (USER, "usr_other")
        }
        assert await statuses(door, 2, token=apps[USER]) == [200, 200]
        assert refusal(await door.ask("GET", "/v1/whoami", token=apps[USER])) == "partner-user"
        assert await statuses(door, 1, token=apps["usr_other"]) == [200]


async def test_a_partners_app_does_not_use_up_the_users_own_limit(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_read="2/60") as door:
        await tell_grant(door, USER)
        app = door.token(client_id=PARTNER, scopes=("days:read",), grant_revision=1, session_id="ses_1")
        assert await statuses(door, 2, token=app) == [200, 200]
        assert refusal(await door.ask("GET", "/v1/whoami", token=app)) == "user-read"
        assert await statuses(door, 2) == [200, 200]


async def test_anonymous_calls_are_their_networks(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_sign_in="2/60", gateway_rate_read="1/60") as door:
        door.services.handlers["auth"] = lambda *_: answer({})
        got = [await door.ask("POST", "/v1/tokens", token=None, json={}) for _ in range(3)]
        assert [one.status_code for one in got[:2]] == [200, 200]
        assert refusal(got[2]) == "address-sign-in"
        assert len(door.services.seen) == 2
        assert await statuses(door, 1, "/.well-known/jwks.json", token=None) == [200]


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "allowed"),
    [
        ("", "198.51.100.{}", 2),
        ("10.0.0.0/8", "198.51.100.{}", 2),
        ("127.0.0.0/8", "198.51.100.{}", 6),
        ("127.0.0.0/8", "{}, 198.51.100.1", 2),
        ("127.0.0.0/8", "2001:db8::{}", 2),
        ("127.0.0.0/8", "2001:db8:0:{}::1", 6),
    ],
)
async def test_where_a_caller_is_says_a_trusted_proxy_alone(
    tmp_path: Path, trusted: str, forwarded_for: str, allowed: int
) -> None:
    async with limited(tmp_path, gateway_rate_sign_in="2/60", gateway_trusted_proxies=trusted) as door:
        door.services.handlers["auth"] = lambda *_: answer({})
        found = [
            await door.ask(
                "POST", "/v1/tokens", token=None, json={}, headers={"X-Forwarded-For": forwarded_for.format(number)}
            )
            for number in range(1, 7)
        ]
        assert [one.status_code for one in found] == [200] * allowed + [429] * (6 - allowed)


# calls that fail


async def test_a_network_of_bad_tokens_is_not_looked_at_and_its_good_ones_are(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_failed="3/60") as door:
        known = door.token()
        assert await statuses(door, 1, token=known) == [200]
        failed = [await door.ask("GET", "/v1/whoami", token=bad) for bad in ("x", None, "mmt_" + "A" * 36)]
        assert [one.status_code for one in failed] == [401, 401, 401]
        assert failed[0].headers["ratelimit"].startswith('"address-failed";r=2;')
        seen = len(door.services.seen)
        for token in ("y", None, new_api_key(), door.token("usr_2")):  # nobody's, and a new one that would be good
            assert refusal(await door.ask("GET", "/v1/whoami", token=token)) == "address-failed"
        assert len(door.services.seen) == seen
        assert await statuses(door, 5, token=known) == [200] * 5
        elsewhere = httpx2.ASGITransport(door.running.app, client=("192.0.2.1", 1))
        async with httpx2.AsyncClient(transport=elsewhere, base_url="http://door") as http:
            assert (await http.get("/v1/whoami")).status_code == 401


async def test_auth_that_is_away_is_nobodys_failure(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_failed="1/60") as door:
        door.services.down.add("auth")
        assert await statuses(door, 3) == [503, 503, 503]


# what answers say


def address(route: Route) -> str:
    return re.sub(r"\{[^}]+\}", "2026-03-01", route.path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_is_limited_and_says_so(tmp_path: Path, route: Route) -> None:
    everything = {f"gateway_rate_{rate}": "1/60" for rate in ("read", "write", "sign_in", "stream", "failed")}
    async with limited(tmp_path, **everything) as door:
        asked = await door.ask(route.method, address(route), token="x" if route.caller != "anyone" else None)
        assert FIELD.fullmatch(asked.headers["ratelimit"])
        assert "w=60" in asked.headers["ratelimit-policy"]
        again = await door.ask(route.method, address(route), token="x" if route.caller != "anyone" else None)
        assert refusal(again) == (f"address-{route.rate}" if route.caller == "anyone" else "address-failed")


async def test_answers_of_every_kind_say_what_is_left(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_read="5/60", gateway_rate_write="5/60") as door:
        good = await door.ask("GET", "/v1/whoami")
        assert good.headers["ratelimit-policy"] == '"user-read";q=5;w=60'
        assert good.headers["ratelimit"] == '"user-read";r=4;t=12'
        forbidden = await door.ask("GET", "/v1/days", token=door.token(scopes=()))
        missing = await door.ask("GET", "/v1/days/2026-03-01")
        invalid = await door.ask(
            "POST", "/v1/batches", content=b"{", headers={"Content-Type": "application/json"}, key="b"
        )
        assert [one.status_code for one in (forbidden, missing, invalid)] == [403, 404, 400]
        assert [one.headers["ratelimit"].split(";")[1] for one in (forbidden, missing, invalid)] == [
            "r=3",
            "r=2",
            "r=4",
        ]
        door.broker.away = True
        unavailable = await door.ask("POST", "/v1/batches", json=BATCH | {"samples": [SAMPLE]}, key="b")
        assert (unavailable.status_code, unavailable.headers["ratelimit"][:15]) == (503, '"user-write";r=')
        assert (await door.ask("GET", "/livez", token=None)).headers.get("ratelimit") is None


def test_every_documented_route_has_its_429() -> None:
    for service in {route.service for route in ROUTES}:
        of = [route for route in ROUTES if route.service == service]
        paths: dict[str, dict[str, Any]] = {route.path: {} for route in of}
        for route in of:
            paths[route.path][route.method.lower()] = {"responses": {"default": {}, "200": {}}}
        merged = merge({service: {"paths": paths}})["paths"]
        for route in of:
            responses = merged[route.path][route.method.lower()]["responses"]
            assert set(responses["429"]["headers"]) == {"Retry-After", "RateLimit-Policy", "RateLimit"}
            assert list(responses) == ["200", "429", "default"]


async def test_a_stream_counts_once_and_says_so(tmp_path: Path) -> None:
    async with limited(tmp_path, gateway_rate_stream="2/60", gateway_rate_read="1/60") as door:
        door.services.handlers["webhooks"] = lambda *_: answer({"events": [], "has_more": False, "last_sequence": 0})
        streams = [Stream(door.running.app, {"Authorization": f"Bearer {door.token()}"}) for _ in range(3)]
        assert [await one.open() for one in streams] == [200, 200, 429]
        for one in streams:
            await one.close()
        assert await statuses(door, 1) == [200]


# a Redis that is away


@asynccontextmanager
async def silent_server(port: int) -> AsyncGenerator[None]:
    """Takes connections and never says a word."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", port):
        yield


@asynccontextmanager
async def nothing(port: int) -> AsyncGenerator[None]:
    """Nothing listens there."""
    yield


@pytest.mark.parametrize("away", [nothing, silent_server])
async def test_without_redis_each_gateway_holds_its_own_limits(tmp_path: Path, away: Any) -> None:
    port = free_ports(1)[0]
    url = f"redis://127.0.0.1:{port}/0"
    async with away(port), limited(tmp_path, gateway_rates_url=url, gateway_rate_read="5/60") as door:
        await door.ask("GET", "/v1/whoami", token="x")
        began = time.monotonic()
        assert await statuses(door, 7) == [200] * 5 + [429, 429]
        # One of them waited for Redis, or two when a second went by.
        assert time.monotonic() - began < 2 * WAIT_S + AGAIN_S
