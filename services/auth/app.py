"""Auth: users with their profiles, sign-in, partners with their keys, and grants."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta

from fastapi import Depends, FastAPI

from services.auth import (
    account_api,
    api,
    audit,
    audit_api,
    erasure_api,
    exporting,
    exports_api,
    grants_api,
    handlers,
    oauth_api,
    operator_api,
    partner_users_api,
    partners_api,
    registration,
    sessions_api,
    token_api,
)
from services.auth.accounts import Pepper
from services.auth.attempts import Attempts
from services.auth.browsers import Browsers
from services.auth.consent import Pages
from services.auth.enrolment import Deps
from services.auth.erasure import Eraser
from services.auth.erasure_documents import ERASURE_JOBS, Erasure
from services.auth.export_documents import EXPORTS, Export
from services.auth.exports import Exports
from services.auth.factors import Factors
from services.auth.guesses import Guesses
from services.auth.keys import read_key_file
from services.auth.mail import FileMail, Mail, Post, SmtpMail
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import SigningKeys
from services.auth.store import COLLECTIONS, Store
from services.auth.tokens import AccessTokens, RefreshTokens
from services.auth.workers import forget_what_is_over, make_relay
from shared import problems
from shared.cancelling import cancelled
from shared.clock import Clock, utc_now
from shared.documents import Documents, open_documents
from shared.identity import install_identity
from shared.internal_tokens import InternalTokenVerifier
from shared.jobs import Workers
from shared.kafka import Broker, make_broker
from shared.objects import Objects, open_objects
from shared.outbox import Relay
from shared.secrets import open_secrets
from shared.service import install_health, serve
from shared.settings import read_secret, reading
from shared.start import starting
from shared.telemetry import FASTAPI_TELEMETRY, TraceMiddleware
from shared.watchdog import Watchdog

NAME = "auth"
ROUTES = (
    api,
    account_api,
    sessions_api,
    partners_api,
    partner_users_api,
    grants_api,
    operator_api,
    audit_api,
    erasure_api,
    exports_api,
)


def create_app(settings: Settings | None = None, *, broker: Broker | None = None, clock: Clock = utc_now) -> FastAPI:
    """The service; `broker` and `clock` replace the real ones in tests."""
    settings = settings or Settings()
    broker = broker or make_broker(settings, NAME)
    documents = open_documents(settings.database_url, NAME)
    store = Store(documents)
    watchdog = Watchdog(broker)
    secret = read_secret("AUTH_PEPPER_PATH", settings.auth_pepper_path)
    deps = _deps(settings, store, make_relay(documents, broker), clock, secret)
    objects = open_objects(settings)
    erasures = Workers(documents, ERASURE_JOBS, Eraser(deps, objects).work, concurrency=2, clock=clock)
    exports = Exports(deps, objects, exporting.CONTENTS, exporting.readme)
    collecting = Workers(documents, EXPORTS, exports.work, concurrency=2, clock=clock)
    handlers.subscribe(broker, deps, erasures.nudge, exports, collecting.nudge)
    app = FastAPI(
        title="MyMacroTracker auth",
        version="1",
        telemetry=FASTAPI_TELEMETRY,
        dependencies=[Depends(audit.note_origin)],
        lifespan=_lifespan(settings, objects, documents, watchdog, deps, (erasures, collecting)),
    )
    app.state.deps, app.state.exports = deps, exports
    app.state.broker, app.state.erasures_begun = broker, erasures.nudge
    app.add_middleware(TraceMiddleware)
    problems.install(app)
    install_identity(app, InternalTokenVerifier(settings.internal_jwks_path, NAME))
    for routes in ROUTES:
        app.include_router(routes.router)
    _serve_oauth(app, settings, deps, secret)

    async def database() -> None:
        await store.partner("-")

    ready = {"kafka": watchdog.ready, "database": database}
    install_health(app, watchdog.live, ready, reported={"objects": objects.answers})
    return app


def _serve_oauth(app: FastAPI, settings: Settings, deps: Deps, secret: bytes) -> None:
    browsers = Browsers(secret, secure=settings.public_origin.startswith("https://"))
    app.state.door = oauth_api.Door(deps, browsers, Pages())
    app.state.public_origin = settings.public_origin
    for routes in (oauth_api, token_api):
        app.include_router(routes.router)
        routes.install(app)


def _deps(settings: Settings, store: Store, relay: Relay, clock: Clock, secret: bytes) -> Deps:
    pepper = Pepper(secret)
    needs = "name an Ed25519 private key (JWK) that this account may read; those beside it must be such keys too"
    with reading("AUTH_SIGNING_KEY_PATH", needs):
        keys = SigningKeys(settings.auth_signing_key_path)
    return Deps(
        store=store,
        passwords=Passwords(threads=settings.auth_hash_threads),
        tokens=AccessTokens(keys, settings.token_issuer, settings.token_audience),
        pepper=pepper,
        refresh_tokens=RefreshTokens(secret),
        guesses=Guesses(store, pepper, clock, per_s=settings.auth_guesses_per_s),
        factors=Factors(open_secrets(settings), pepper),
        mail=_mail(settings),
        post=Post(),
        attempts=Attempts(store.documents, clock),
        relay=relay,
        clock=clock,
        approval=settings.auth_partner_approval,
    )


def _mail(settings: Settings) -> Mail:
    url = settings.auth_smtp_url.get_secret_value()
    if url:
        return SmtpMail(url, settings.auth_mail_from)
    return FileMail(settings.auth_mail_folder, settings.auth_mail_from)


def _demo_key(settings: Settings) -> str | None:
    path = settings.auth_demo_partner_key_path
    if path is None:
        return None
    with reading("AUTH_DEMO_PARTNER_KEY_PATH", "name a file with a partner's key that this account may read"):
        return read_key_file(path)


def _lifespan(
    settings: Settings,
    objects: Objects,
    documents: Documents,
    watchdog: Watchdog,
    deps: Deps,
    jobs: tuple[Workers[Erasure], Workers[Export]],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    demo_key = _demo_key(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await objects.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(documents.close)
            await documents.open(COLLECTIONS)
            stack.callback(deps.passwords.close)
            if demo_key is not None:
                await registration.seed_demo_partner(deps, demo_key)
            # Signing in and up goes on without Kafka: events wait in the outbox.
            await stack.enter_async_context(starting(app.state.broker))
            await stack.enter_async_context(watchdog)
            pruning = audit.keep_pruned(documents, deps.clock, timedelta(days=settings.auth_audit_days))
            forgetting = forget_what_is_over(documents, deps.clock)
            for work in (
                *(one.run() for one in jobs),
                deps.relay.run(),
                deps.post.run(),
                deps.attempts.run(),
                forgetting,
                pruning,
            ):
                stack.push_async_callback(cancelled, asyncio.create_task(work))
            yield

    return lifespan


if __name__ == "__main__":
    serve(create_app, NAME)
