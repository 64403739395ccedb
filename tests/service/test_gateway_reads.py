"""Reads passed on to the services: who may, what travels along, and long answers that flow through."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.gateway import flows, routes
from services.gateway.proxy import Answer, Unanswered
from services.gateway.routes import PROXIED, Route
from services.gateway.upstreams import AiohttpUpstreams
from tests.polling import eventually
from tests.service.gateway_edges import Gateway, answer, gateway
from tests.service.test_gateway import problem

MIB = 1024 * 1024
INGEST = [route for route in PROXIED if route.service == "ingest"]
VALUES = {"date": "2026-03-01", "metric": "steps", "session_id": "s1"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


def path_of(route: Route) -> str:
    return route.path.format(**VALUES)


def body_of(route: Route) -> dict[str, Any]:
    return {"json": {}} if route.max_body else {}


@pytest.mark.parametrize("route", INGEST, ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_is_ingests_to_answer(door: Gateway, route: Route) -> None:
    door.services.handlers["ingest"] = lambda *_: answer({"is": "here"})
    got = await door.ask(route.method, f"{path_of(route)}?a=b%2Bc", **body_of(route))
    assert (got.status_code, got.json()) == (200, {"is": "here"})
    service, method, target, _, _ = door.services.seen[-1]
    assert (service, method, target) == ("ingest", route.method, f"{path_of(route)}?a=b%2Bc")


@pytest.mark.parametrize("route", INGEST, ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_needs_its_scope_and_a_user(door: Gateway, route: Route) -> None:
    others = tuple(one for one in ("samples:read", "days:read", "profile:read", "profile:write") if one != route.scope)
    lacking = await door.ask(route.method, path_of(route), token=door.token(scopes=others), **body_of(route))
    assert problem(lacking) == (403, "insufficient-scope")
    assert problem(await door.ask(route.method, path_of(route), token=None, **body_of(route))) == (
        401,
        "token-required",
    )
    assert not any(service == "ingest" for service, *_ in door.services.seen)


@pytest.mark.parametrize("route", INGEST, ids=lambda route: f"{route.method} {route.path}")
async def test_what_is_not_yours_is_what_ingest_says(door: Gateway, route: Route) -> None:
    missing = {"type": "https://mymacrotracker.dev/problems/not-found", "status": 404, "detail": "x"}
    door.services.handlers["ingest"] = lambda *_: answer(missing, 404, "application/problem+json")
    got = await door.ask(route.method, path_of(route), token=door.token("usr_2"), **body_of(route))
    assert problem(got) == (404, "not-found")


async def test_all_metrics_at_once_are_a_star(door: Gateway) -> None:
    door.services.handlers["ingest"] = lambda *_: answer({})
    got = await door.ask("PUT", "/v1/device-priorities/*", json={"order": ["kind:watch"]})
    assert got.status_code == 200
    _, _, target, headers, body = door.services.seen[-1]
    assert (target, body, headers["content-type"]) == (
        "/v1/device-priorities/*",
        b'{"order":["kind:watch"]}',
        "application/json",
    )


def test_settings_are_bounded_and_repeatable_without_a_key() -> None:
    puts = [route for route in INGEST if route.method == "PUT"]
    assert [(route.keyed, route.max_body) for route in puts] == [(False, 64 * routes.KIB)] * 2


# long answers


class Parts:
    """A long answer, part by part, as a service may send it."""

    service = "ingest"

    def __init__(self, *parts: bytes | Exception) -> None:
        self.parts = parts
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    def close(self) -> None:
        self.closed += 1


def flowing(parts: Parts, **headers: str) -> Answer:
    return Answer(200, {"content-type": "application/x-ndjson", "server": "secret/1", **headers}, b"", parts)


async def raw(door: Gateway, receive: Any, method: str = "GET") -> list[Any]:
    """What the gateway sends on /v1/timeseries."""
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/v1/timeseries",
        "raw_path": b"/v1/timeseries",
        "query_string": b"metric=steps",
        "headers": [(b"authorization", f"Bearer {door.token()}".encode()), (b"accept", b"application/x-ndjson")],
        "root_path": "",
    }
    await asyncio.wait_for(door.running.app(scope, receive, keep), 5)
    return sent


async def staying() -> Any:
    return await asyncio.Event().wait()


async def test_a_long_answer_flows_part_by_part(door: Gateway) -> None:
    parts = Parts(b"one\n", b"two\n")
    door.services.handlers["ingest"] = lambda *_: flowing(parts)
    start, *body = await raw(door, staying)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, b"application/x-ndjson")
    assert b"server" not in headers
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert [(one["body"], one["more_body"]) for one in body] == [(b"one\n", True), (b"two\n", True), (b"", False)]
    assert parts.closed == 1
    assert door.services.seen[-1][3]["accept"] == "application/x-ndjson"


async def test_an_answer_that_breaks_off_has_no_end(door: Gateway) -> None:
    parts = Parts(b"one\n", Unanswered("ingest"))
    door.services.handlers["ingest"] = lambda *_: flowing(parts)
    _, *body = await raw(door, staying)
    assert [(one["body"], one["more_body"]) for one in body] == [(b"one\n", True)]
    assert parts.closed == 1


async def test_a_caller_that_leaves_ends_the_flow(door: Gateway) -> None:
    class Endless(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)  # or nobody else would have a turn
                yield b"more\n"

    parts = Endless()
    door.services.handlers["ingest"] = lambda *_: flowing(parts)

    async def leaving() -> Any:
        for _ in range(20):
            await asyncio.sleep(0)  # some parts flow first
        return {"type": "http.disconnect"}

    await raw(door, leaving)
    assert parts.closed == 1


async def test_only_the_head_of_a_long_answer_is_asked_for(door: Gateway) -> None:
    parts = Parts(b"one\n")
    door.services.handlers["ingest"] = lambda *_: flowing(parts)
    start, *body = await raw(door, staying, "HEAD")
    assert start["status"] == 200
    assert [one["body"] for one in body] == [b""]
    assert parts.closed == 1


async def test_long_answers_are_bounded_in_number(door: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MAX_FLOWING", 1)
    release = asyncio.Event()

    class Held(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await release.wait()
            yield b"one\n"

    first, second = Held(), Parts(b"two\n")
    waiting = iter((first, second, Parts(b"three\n")))
    door.services.handlers["ingest"] = lambda *_: flowing(next(waiting))
    held = asyncio.create_task(raw(door, staying))
    await eventually(lambda: len(door.services.seen) >= 2)
    got = await door.ask("GET", "/v1/timeseries?metric=steps")
    assert problem(got) == (503, "overloaded")
    assert got.headers["retry-after"]
    assert second.closed == 1
    release.set()
    await held
    assert (await door.ask("GET", "/v1/timeseries?metric=steps")).text == "three\n"


async def test_answers_that_the_gateway_reads_itself_are_bounded() -> None:
    parts = Parts(*[b" " * MIB] * 17)
    with pytest.raises(Unanswered):
        await flowing(parts).whole()
    assert parts.closed == 1
    assert (await flowing(Parts(b"a", b"b")).whole()).body == b"ab"


@asynccontextmanager
async def upstream(handler: Any) -> AsyncGenerator[AiohttpUpstreams]:
    """The real client, against a server in this process."""
    app = web.Application()
    app.router.add_get("/", handler)
    async with TestServer(app) as server:
        upstreams = AiohttpUpstreams({"ingest": [str(server.make_url("")).rstrip("/")]})
        await upstreams.open()
        try:
            yield upstreams
        finally:
            await upstreams.close()


async def test_the_client_holds_little_of_a_long_answer_however_slow_the_reader() -> None:
    written = 0

    async def long(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"x" * MIB)
            written += 1
        return response

    async with upstream(long) as upstreams:
        tracemalloc.start()
        got = await upstreams.send("ingest", "GET", "/", {}, b"")
        assert got.rest is not None
        parts = aiter(got.rest)
        size = len(await anext(parts))
        for _ in range(100):
            await asyncio.sleep(0)  # the server writes while it is let
        assert written < 32
        async for part in parts:
            size += len(part)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        got.rest.close()
    assert size == 64 * MIB
    assert peak < 16 * MIB


async def test_the_client_tells_a_broken_answer_from_a_whole_one() -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async with upstream(broken) as upstreams:
        got = await upstreams.send("ingest", "GET", "/", {}, b"")
        with pytest.raises(Unanswered):
            await got.whole()


async def test_the_client_reads_a_short_answer_at_once() -> None:
    async def short(request: web.Request) -> web.Response:
        return web.json_response({"a": 1})

    async with upstream(short) as upstreams:
        got = await upstreams.send("ingest", "GET", "/", {}, b"")
    assert (got.rest, got.json()) == (None, {"a": 1})
