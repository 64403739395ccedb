"""A partner's side of OAuth, and a browser's: what they send to auth, and what stands on the pages."""

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

from services.auth.grants import Grant, grant_id
from services.auth.partners import PARTNERS, ClientSecret, Partner, secret_hash
from tests.service.account_holder import EMAIL, HOME, PASSWORD, Ada

CALLBACK = "https://oat.example/callback"
SECRET = "a-secret-of-oat"
VERIFIER = "v" * 50
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
PATH = "/oauth/authorize"
SCOPE = "days:read diary:read"
REFUSED = (400, "invalid_grant")
# What a name or an address must not become on a page.
MARKUP = "<script>alert(1)</script>\"'><b>"
OAT, RYE = "prt_oat", "prt_rye"
SCOPES = ("days:read", "diary:read", "ledger:read", "partner:read", "samples:read", "webhooks:write")


async def with_partner(ada: Ada, id: str = OAT, **changed: Any) -> Partner:
    """A registered partner whose secret is SECRET."""
    documents = ada.service.app.state.deps.store.documents
    known = await documents.get(PARTNERS, id)
    values: dict[str, Any] = {
        "id": id,
        "version": known.version if known is not None else 0,
        "name": "Oat & Co",
        "scopes": SCOPES,
        "revision": 1,
        "state": "active",
        "redirect_uris": (CALLBACK,),
        "secrets": (ClientSecret(hash=secret_hash(SECRET), created_at=ada.clock()),),
    }
    return await documents.put(PARTNERS, Partner(**values | changed))


@dataclass
class Client:
    """The partner's server."""

    ada: Ada
    id: str = OAT
    secret: str = SECRET

    def link(self, **changed: str | None) -> str:
        """Where it sends its users."""
        values = {
            "client_id": self.id,
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "scope": SCOPE,
            "state": "s1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        } | changed
        return f"{PATH}?{urlencode({name: value for name, value in values.items() if value is not None})}"

    async def post(self, path: str, *, basic: tuple[str, str] | None = None, **fields: str | None) -> httpx2.Response:
        """A form as the client, by HTTP Basic."""
        client_id, secret = basic or (self.id, self.secret)
        presented = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        headers = {"Client-Authorization": f"Basic {presented}"}
        return await self.post_as(path, headers, **fields)

    async def post_as(self, path: str, headers: dict[str, str], **fields: str | None) -> httpx2.Response:
        """A form with these headers alone."""
        sent = self.ada.service.headers() | {"Content-Type": "application/x-www-form-urlencoded"} | headers
        body = urlencode({name: value for name, value in fields.items() if value is not None})
        return await self.ada.service.http.post(path, content=body, headers=sent)

    async def exchange(self, code: str, **changed: str | None) -> httpx2.Response:
        """The code for tokens."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        } | changed
        return await self.post("/oauth/token", **fields)

    async def refresh(self, token: str, **changed: str | None) -> httpx2.Response:
        """The refresh token for the next ones."""
        return await self.post("/oauth/token", grant_type="refresh_token", refresh_token=token, **changed)


@dataclass
class Browser:
    """A person's browser: one cookie, and the forms of the page that it shows."""

    ada: Ada
    cookie: str = ""
    page: httpx2.Response | None = None
    forms: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict[str, tuple[str, dict[str, str]]])

    async def open(self, link: str) -> httpx2.Response:
        """GET, and the same again where we are sent on among our own pages."""
        return await self._shown(await self.ada.service.http.get(link, headers=self._headers()))

    async def send(self, form: str, **typed: str) -> httpx2.Response:
        """Fill in one of the page's forms and send it."""
        action, fields = self.forms[form]
        return await self.post(action, fields | typed)

    async def post(self, action: str, fields: dict[str, str]) -> httpx2.Response:
        headers = self._headers() | {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._shown(await self.ada.service.http.post(action, content=urlencode(fields), headers=headers))

    async def sign_in(self, **typed: str) -> httpx2.Response:
        return await self.send("sign-in", **{"email": EMAIL, "password": PASSWORD} | typed)

    async def allow(self) -> httpx2.Response:
        return await self.send("decide", decision="allow")

    async def _shown(self, answer: httpx2.Response) -> httpx2.Response:
        set_cookie = answer.headers.get("set-cookie")
        if set_cookie:
            self.cookie = set_cookie.partition(";")[0]
        if answer.headers.get("location", "").startswith(PATH):
            return await self.open(answer.headers["location"])
        self.page, self.forms = answer, forms_of(answer.text)
        return answer

    def _headers(self) -> dict[str, str]:
        found = self.ada.service.headers() | {"Client-Address": HOME}
        return found | ({"Cookie": self.cookie} if self.cookie else {})


def forms_of(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """A page's forms by name: where each goes, and what it sends unseen."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for action, content in re.findall(r'<form[^>]* action="([^"]*)">(.*?)</form>', text, re.DOTALL):
        fields = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', content))
        found[fields["form"]] = (html.unescape(action), {name: html.unescape(one) for name, one in fields.items()})
    return found


def sent_back(answer: httpx2.Response) -> dict[str, str]:
    """What the client is told, by the redirect to it."""
    assert answer.status_code == 303, answer.text
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == CALLBACK
    assert not where.fragment
    return {name: value for name, (value,) in parse_qs(where.query, strict_parsing=True).items()}


async def consented(ada: Ada, client: Client, browser: Browser | None = None, **changed: str | None) -> str:
    """A code, after the whole way through the pages."""
    browser = browser or Browser(ada)
    answer = await browser.open(client.link(**changed))
    if "sign-in" in browser.forms:
        answer = await browser.sign_in()
    assert "decide" in browser.forms, answer.text
    return sent_back(await browser.allow())["code"]


async def signed_in(ada: Ada, client: Client, **changed: str | None) -> Browser:
    """A browser that shows the page on which a person decides."""
    browser = Browser(ada)
    await browser.open(client.link(**changed))
    await browser.sign_in()
    assert "decide" in browser.forms
    return browser


async def granted(ada: Ada) -> Grant | None:
    """What Ada lets Oat see."""
    return await ada.service.app.state.deps.store.grant(grant_id(ada.user_id, OAT))


async def tokens(ada: Ada, client: Client, **changed: str | None) -> dict[str, Any]:
    """What the client holds after the whole way through the pages."""
    answer = await client.exchange(await consented(ada, client, **changed))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def is_active(client: Client, token: str) -> bool:
    """What introspection says."""
    answer = await client.post("/oauth/introspect", token=token)
    assert answer.status_code == 200
    return answer.json()["active"]


def claims(token: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))


def error(answer: httpx2.Response) -> tuple[int, str]:
    """An error in OAuth's own form."""
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["error_description"]
    return answer.status_code, answer.json()["error"]
