"""The gateway: identity, limits, accept to Kafka, proxied reads, live streams. It keeps connections and no data."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, get_args

import msgspec
from fastapi import FastAPI
from starlette.routing import Route as HttpRoute

from services.gateway import api, routes
from services.gateway.access import Access
from services.gateway.api import Api
from services.gateway.docs import Docs
from services.gateway.doors import Doors, everybody
from services.gateway.entry import SecurityHeaders
from services.gateway.feeds import Feeds, fetch_from
from services.gateway.grants import Grants, Partners
from services.gateway.issuer import PATH as ISSUER_PATH
from services.gateway.issuer import Issuer
from services.gateway.limited import Policies, QuotaOf, Rates
from services.gateway.live import Live
from services.gateway.lookup import Lookup
from services.gateway.origins import Origins
from services.gateway.partner_keys import good_keys_from
from services.gateway.permissions import Permissions
from services.gateway.pressure import KafkaOffsets, Limits, Offsets, Pressure
from services.gateway.proxy import Answer, Proxy, Unanswered, Upstreams
from services.gateway.rates import MemoryBuckets, policy
from services.gateway.receipts import Ids
from services.gateway.redis_buckets import RedisBuckets
from services.gateway.revocations import Revocations
from services.gateway.settings import Settings
from services.gateway.sockets import Sockets
from services.gateway.tickets import Tickets
from services.gateway.upstreams import AiohttpUpstreams
from services.gateway.uses import MemoryUses, RedisUses
from services.gateway.verifiers import KeyVerifier, TokenVerifier
from shared import problems, topics
from shared.callers import ANONYMOUS
from shared.cancelling import cancelled
from shared.clock import Clock, utc_now
from shared.events.event import Event
from shared.following import follow, read_state
from shared.internal_tokens import InternalTokenSigner
from shared.kafka import Broker, make_broker, publish_bytes
from shared.kafka_access import client_arguments
from shared.objects import open_objects
from shared.service import Check, install_health, serve, stop_event
from shared.settings import read_secret, reading
from shared.start import starting
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
from shared.watchdog import Watchdog
from shared.websocket import BoundedWebSocket

NAME = "gateway"
AUTH_ANSWERS_S = 2.0


@dataclass(frozen=True)
class Edges:
    """Where the process ends: other processes, Kafka, the clock. Tests put fakes here."""

    broker: Broker
    upstreams: Upstreams
    clock: Clock = utc_now
    follows: bool = True
    offsets: Offsets | None = None


class State(Protocol):
    """What is kept in memory of a topic."""

    async def take(self, key: str, event: Event | None, /) -> None:
        """A record of it."""
        ...

    def caught_up(self) -> None:
        """All that was there at the start is taken."""
        ...


States = Mapping[topics.Topic, State]


def create_app(settings: Settings | None = None, edges: Edges | None = None) -> FastAPI:
    """The service; `edges` replaces the real ones in tests."""
    settings = settings or Settings()
    edges = edges or Edges(
        make_broker(settings, NAME),
        AiohttpUpstreams(settings.upstream_urls, drain_s=settings.drain_s),
        offsets=KafkaOffsets(settings.bootstrap_servers, access=client_arguments(settings)),
    )
    with reading("GATEWAY_INTERNAL_KEY_PATH", "name an Ed25519 private key (JWK) that this account may read"):
        signer = InternalTokenSigner(settings.gateway_internal_key_path)
    proxy = Proxy(edges.upstreams, signer, trusted_proxies=settings.trusted_proxies)
    revocations = Revocations(lambda: edges.clock().timestamp())
    grants, partners = Grants(), Partners()
    permissions, good_keys = Permissions(revocations, grants, partners), good_keys_from(proxy, edges.clock)
    feeds = Feeds(fetch_from(proxy), permissions, good_keys, lambda: edges.clock().timestamp())
    states = {topics.REVOCATIONS: revocations, topics.GRANTS: grants, topics.PARTNERS: partners}
    watchdog = Watchdog(edges.broker)
    pressure = Pressure(_limits(settings), edges.offsets)
    app = _without_routes(_lifespan(settings, edges, feeds, states, watchdog, pressure))
    app.state.live = feeds
    app.state.revocations, app.state.grants, app.state.partners = revocations, grants, partners
    app.state.pressure = pressure
    objects = app.state.objects = open_objects(settings)
    ids, publish = Ids(_receipt_key(settings)), partial(_publish, edges.broker)
    own = app.state.api = Api(ids, proxy, publish, objects.put, edges.clock)
    verifiers = _verifiers(settings, proxy, edges.clock)
    access = Access(*verifiers, revocations, grants, partners, lambda: edges.clock().timestamp())
    tickets = app.state.tickets = _tickets(settings, access, edges.clock)
    origins = Origins(settings.gateway_live_origins)
    sockets = Sockets(feeds, origins)
    answers = {route: proxy.forward for route in routes.PROXIED} | api.own_answers(own, Live(feeds, origins).open)
    answers |= {routes.LIVE_SOCKET: sockets.plain, routes.TICKETS: tickets.issue}
    rates = app.state.rates = _rates(settings, partners.quota_of)
    doors = Doors(access, tickets, rates)
    _add_routes(app, settings, doors, answers, pressure)
    app.router.routes.append(doors.socket(routes.LIVE_SOCKET, sockets.open))
    if settings.gateway_docs:
        docs = Docs(edges.upstreams)
        app.router.routes.append(HttpRoute("/openapi.json", docs.openapi))
        app.router.routes.append(HttpRoute("/docs", docs.page))
    parts: dict[str, Check] = {"kafka": watchdog.ready, "revocations": revocations.ready}
    parts |= {"grants": grants.ready, "partners": partners.ready}
    if isinstance(edges.upstreams, AiohttpUpstreams):
        issuer = Issuer(settings.token_issuer, lambda: proxy.ask("auth", "GET", ISSUER_PATH, ANONYMOUS))
        parts["issuer"] = issuer.agrees
    reported: dict[str, Check] = {"objects": objects.answers}
    if isinstance(rates.buckets, RedisBuckets):
        reported["redis"] = rates.buckets.answers
    install_health(app, watchdog.live, parts, metrics=settings.gateway_metrics, reported=reported)
    return app


def _without_routes(lifespan: Callable[[FastAPI], Any]) -> FastAPI:
    app = FastAPI(
        title="MyMacroTracker gateway",
        version="1",
        telemetry=FASTAPI_TELEMETRY,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would go to whatever the Host header says.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # Added last = outermost: the trace's header is on every answer.
    app.add_middleware(SecurityHeaders)
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    return app


def _limits(settings: Settings) -> Limits:
    readers = {
        topics.BATCHES: (topics.BATCHES.group("ingest"), settings.gateway_max_lag_batches),
        topics.PHOTOS: (topics.PHOTOS.group("inference"), settings.gateway_max_lag_photos),
    }
    return Limits(readers, settings.gateway_disk_path, settings.gateway_min_free_bytes)


def _add_routes(
    app: FastAPI, settings: Settings, doors: Doors, answers: Mapping[routes.Route, Any], pressure: Pressure
) -> None:
    fills = {routes.BATCHES: topics.BATCHES, routes.PHOTOS: topics.PHOTOS}
    found: list[HttpRoute] = []
    for route in routes.ROUTES:
        limited = routes.limited(
            route,
            max_batch_bytes=settings.gateway_max_batch_bytes,
            max_photo_bytes=settings.gateway_max_photo_bytes,
        )
        admit = partial(pressure.admit, fills[route]) if route in fills else everybody
        served = HttpRoute(route.path, doors.before(limited, answers[route], admit), methods=[route.method])
        if route.rate == "stream" and served.methods:
            served.methods.discard("HEAD")
        found.append(served)
    app.router.routes.extend([Lookup(found), *found])


def _tickets(settings: Settings, access: Access, clock: Clock) -> Tickets:
    url = settings.gateway_rates_url.get_secret_value()
    uses = RedisUses(url) if url else MemoryUses()
    return Tickets(_receipt_key(settings), uses, access.still, lambda: clock().timestamp())


def _rates(settings: Settings, quota_of: QuotaOf) -> Rates:
    own, url = MemoryBuckets(), settings.gateway_rates_url.get_secret_value()
    policies = Policies(
        users={rate: settings.rate(rate, "user") for rate in get_args(routes.RateClass)},
        networks={rate: settings.rate(rate, "address") for rate in get_args(routes.RateClass)},
        failed=policy("address-failed", settings.gateway_rate_failed),
        key=policy("key", settings.gateway_rate_key),
        partner_quota=settings.gateway_partner_requests_per_min,
        quota_of=quota_of,
    )
    return Rates(policies, RedisBuckets(url, own) if url else own, own, settings.trusted_proxies)


def _receipt_key(settings: Settings) -> bytes:
    return read_secret("GATEWAY_RECEIPT_KEY_PATH", settings.gateway_receipt_key_path)


def _verifiers(settings: Settings, proxy: Proxy, clock: Clock) -> tuple[TokenVerifier, KeyVerifier]:
    async def fetch_jwks() -> dict[str, Any]:
        answer = await _soon(proxy.ask("auth", "GET", "/.well-known/jwks.json", ANONYMOUS))
        if answer.status != 200:
            raise Unanswered("auth")
        return answer.json()

    async def ask_key(key: str) -> Answer:
        headers = {"Content-Type": "application/json"}
        body = msgspec.json.encode({"key": key})
        return await _soon(proxy.ask("auth", "POST", "/internal/keys/verify", ANONYMOUS, headers=headers, body=body))

    def now() -> float:
        return clock().timestamp()

    tokens = TokenVerifier(fetch_jwks, issuer=settings.token_issuer, audience=settings.token_audience, clock=now)
    return tokens, KeyVerifier(ask_key, now)


async def _soon(asking: Awaitable[Answer]) -> Answer:
    """Auth's answer; a caller does not wait long for it, because what is cached may do."""
    try:
        async with asyncio.timeout(AUTH_ANSWERS_S):
            return await asking
    except TimeoutError as error:
        raise Unanswered("auth") from error


async def _publish(broker: Broker, topic: topics.Topic, value: bytes, key: str) -> None:
    await publish_bytes(broker, topic.name, value, key)


def _lifespan(
    settings: Settings, edges: Edges, feeds: Feeds, states: States, watchdog: Watchdog, pressure: Pressure
) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await app.state.objects.start()
        async with AsyncExitStack() as stack:
            if isinstance(edges.upstreams, AiohttpUpstreams):
                await edges.upstreams.open()
                stack.push_async_callback(edges.upstreams.close)
            stack.push_async_callback(app.state.rates.buckets.close)
            stack.push_async_callback(app.state.tickets.close)
            # Reads go on without Kafka, so nothing here waits for it.
            await stack.enter_async_context(starting(edges.broker))
            await stack.enter_async_context(watchdog)
            await pressure.look_at_disk()
            follows = [_follow_state(settings, edges, topic, state) for topic, state in states.items()]
            fed = (_feed(settings, edges, feeds), feeds.watch(), feeds.watch_keys(), _end(stop_event(app), feeds))
            for work in (*fed, *follows, pressure.watch()):
                task = asyncio.create_task(work)
                stack.push_async_callback(cancelled, task)
            yield

    return lifespan


async def _feed(settings: Settings, edges: Edges, feeds: Feeds) -> None:
    if not edges.follows:
        return
    follower = await follow(settings, topics.MESSAGES, feeds.take, wanted=feeds.connected)
    feeds.fed_from_here()
    try:
        await asyncio.Event().wait()
    finally:
        await follower.stop()


async def _follow_state(settings: Settings, edges: Edges, topic: topics.Topic, state: State) -> None:
    if not edges.follows:
        state.caught_up()
        return
    follower = await read_state(settings, topic, state.take)
    state.caught_up()
    try:
        await asyncio.Event().wait()
    finally:
        await follower.stop()


async def _end(stopping: asyncio.Event, feeds: Feeds) -> None:
    await stopping.wait()
    feeds.end()


if __name__ == "__main__":
    serve(create_app, NAME, websocket=BoundedWebSocket)
