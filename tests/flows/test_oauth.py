"""OAuth as its users have it: a person in a browser, a partner with a library of its own, tokens that others verify."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
import uvicorn
from aiohttp import web
from authlib.common.security import generate_token
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuthError

from infra.local.browser import CHROMIUM, chromium
from services.auth.settings import Settings
from tests.flows.people import Person, signed_in
from tests.flows.whole import Whole, whole
from tests.polling import eventually
from tests.service.oauth_edges import forms_of

DAYS = "/v1/days?from=2026-03-01&to=2026-03-02"


@dataclass
class Oat:
    """A partner with a server, which sends whoever comes back on to its app, elsewhere."""

    id: str = ""
    secret: str = ""
    came_back: list[str] = field(default_factory=list[str])
    callback: str = ""
    app: str = ""

    async def called(self, request: web.Request) -> web.Response:
        self.came_back.append(str(request.url))
        raise web.HTTPFound(self.app)

    async def shown(self, _: web.Request) -> web.Response:
        return web.Response(text="<h1 id=done>Connected</h1>", content_type="text/html")


@dataclass(frozen=True)
class World:
    """The whole system on a port, a person who has an account, and the partner."""

    system: Whole
    url: str
    ada: Person
    oat: Oat

    def client(self, **more: Any) -> AsyncOAuth2Client:
        """The partner's library."""
        return AsyncOAuth2Client(
            self.oat.id,
            self.oat.secret,
            redirect_uri=self.oat.callback,
            scope="days:read diary:read",
            code_challenge_method="S256",
            **more,
        )


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AUTH_PUBLIC_URL", url)
        monkeypatch.setenv("AUTH_PARTNER_APPROVAL", "auto")
        async with whole(tmp_path) as system, served(system, listener), listening() as oat:
            body = {
                "name": "Oat & Co",
                "contact": "dev@oat.example",
                "redirect_uris": [oat.callback],
                "scopes": ["days:read", "diary:read", "partner:read"],
            }
            made = await system.http.post("/v1/partners", json=body, headers={"Idempotency-Key": "oat"})
            assert made.status_code == 201, made.text
            oat.id, oat.secret = made.json()["partner_id"], made.json()["client_secret"]
            yield World(system, url, await signed_in(system), oat)


@asynccontextmanager
async def served(system: Whole, listener: socket.socket) -> AsyncGenerator[None]:
    """The gateway on a real port; the app runs already."""
    config = uvicorn.Config(system.apps["gateway"], lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started)
    yield
    server.should_exit = True
    await running


@asynccontextmanager
async def listening() -> AsyncGenerator[Oat]:
    """The partner's server: its callback under one origin, its app under another."""
    oat, app = Oat(), web.Application()
    app.router.add_get("/callback", oat.called)
    app.router.add_get("/app", oat.shown)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    for _ in range(2):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    callback, elsewhere = (f"http://127.0.0.1:{port}" for _, port in runner.addresses)
    oat.callback, oat.app = f"{callback}/callback", f"{elsewhere}/app"
    yield oat
    await runner.cleanup()


async def allowed(world: World, link: str) -> str:
    """Where a person's browser ends who signs in and allows it."""
    async with httpx2.AsyncClient(base_url=world.url, follow_redirects=False) as browser:
        page = await browser.get(link)
        action, fields = forms_of(page.text)["sign-in"]
        typed = {"email": world.ada.email, "password": world.ada.password}
        moved = await browser.post(action, data=fields | typed)
        page = await browser.get(moved.headers["location"])
        action, fields = forms_of(page.text)["decide"]
        return (await browser.post(action, data=fields | {"decision": "allow"})).headers["location"]


async def test_a_library_of_others_goes_the_whole_way(world: World) -> None:
    verifier = generate_token(48)
    async with httpx2.AsyncClient() as http:
        metadata = (await http.get(f"{world.url}/.well-known/oauth-authorization-server")).json()
    async with world.client() as client:
        link, state = client.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier)
        back = await allowed(world, link)
        assert parse_qs(urlsplit(back).query)["iss"] == [metadata["issuer"]]
        first = await client.fetch_token(
            metadata["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier
        )
        assert (first["user_id"], first["scope"]) == (world.ada.user_id, "days:read diary:read")
        assert (await client.get(f"{world.url}{DAYS}")).status_code == 200
        second = await client.refresh_token(metadata["token_endpoint"])
        assert second["refresh_token"] != first["refresh_token"]
        told = await client.introspect_token(metadata["introspection_endpoint"], token=second["access_token"])
        assert told.json()["active"] is True
        _verify(await _keys(metadata["jwks_uri"]), second["access_token"], world)
        revoked = await client.revoke_token(metadata["revocation_endpoint"], token=second["refresh_token"])
        assert revoked.status_code == 200

        async def is_over() -> bool:
            return (await client.get(f"{world.url}{DAYS}")).status_code == 401

        await eventually(is_over)
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.refresh_token(metadata["token_endpoint"])


async def _keys(jwks_uri: str) -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        found = (await http.get(jwks_uri)).json()["keys"]
    return {one["kid"]: jwt.PyJWK(one, algorithm="EdDSA").key for one in found}


def _verify(keys: dict[str, Any], token: str, world: World) -> None:
    """As a resource server would that knows no code of ours."""
    settings, header = Settings(), jwt.get_unverified_header(token)
    assert header["typ"] == "at+jwt"
    claims = jwt.decode(
        token,
        keys[header["kid"]],
        algorithms=["EdDSA"],
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"]},
    )
    assert (claims["sub"], claims["client_id"]) == (world.ada.user_id, world.oat.id)
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, keys[header["kid"]], algorithms=["EdDSA"], audience="https://elsewhere.example")


async def test_a_partners_own_token_works_and_has_no_user(world: World) -> None:
    async with world.client() as client:
        await client.fetch_token(f"{world.url}/oauth/token", grant_type="client_credentials", scope="partner:read")
        assert (await client.get(f"{world.url}/v1/partner")).json()["partner_id"] == world.oat.id
        assert (await client.get(f"{world.url}{DAYS}")).status_code in (403, 422)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.timeout(180)
async def test_a_person_connects_a_partner_in_a_real_browser(world: World, tmp_path: Path) -> None:
    """Chromium holds every redirect after a form to the page's policy, the partner's own ones too."""
    async with world.client() as client:
        link, state = client.create_authorization_url(f"{world.url}/oauth/authorize", code_verifier="v" * 48)
    async with chromium(tmp_path / "chromium") as page:
        await page.open(link)
        await page.shows("#email")
        await page.types("#email", world.ada.email)
        await page.types("#password", world.ada.password)
        await page.clicks("form button[value=sign-in]")
        await page.shows("button[value=allow]")
        assert "Oat & Co" in await page.value("document.body.innerText")
        assert await page.value("document.cookie") == ""
        await page.clicks("button[value=allow]")
        await page.shows("#done")
    (back,) = world.oat.came_back
    told = parse_qs(urlsplit(back).query)
    assert (told["state"], told["iss"]) == ([state], [Settings().token_issuer])
    assert told["code"][0].startswith("mmc_")
