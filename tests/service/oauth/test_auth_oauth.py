"""The authorization endpoint: pages, sign-in, consent, and everything that is not sent back or not shown."""

import html
import re
from urllib.parse import quote

import pytest

from tests.service.account_holder import EMAIL, Ada
from tests.service.oauth_edges import (
    CALLBACK,
    MARKUP,
    OAT,
    PATH,
    Browser,
    Client,
    granted,
    sent_back,
    signed_in,
    with_partner,
)

ISSUER = "https://mymacrotracker.dev/auth"


async def test_a_person_signs_in_allows_and_is_sent_back_with_a_code(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    assert "Sign in" in (await browser.open(client.link())).text
    page = await browser.sign_in()
    assert "Oat &amp; Co" in page.text
    assert "see your food diary" in page.text
    assert EMAIL in page.text
    assert await granted(ada) is None
    told = sent_back(await browser.allow())
    assert (told["state"], told["iss"], set(told)) == ("s1", ISSUER, {"code", "state", "iss"})
    assert (await granted(ada)).scopes == ("days:read", "diary:read")


async def test_denying_grants_nothing_and_says_so(ada: Ada, client: Client) -> None:
    told = sent_back(await (await signed_in(ada, client)).send("decide", decision="deny"))
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", "s1", ISSUER)
    assert "code" not in told
    cancelled = Browser(ada)
    page = await cancelled.open(client.link(state="a&b"))
    (link,) = re.findall(r'<a class="button" href="([^"]*)"', page.text)
    assert html.unescape(link).startswith(f"{CALLBACK}?error=access_denied&")
    assert "state=a%26b&iss=" in html.unescape(link)
    assert "form-action 'self';" in page.headers["content-security-policy"]
    assert await granted(ada) is None


NOT_TRUSTED = {
    "another host": {"redirect_uri": "https://evil.example/callback"},
    "a host that ends alike": {"redirect_uri": "https://oat.example.evil.example/callback"},
    "a user name before the host": {"redirect_uri": "https://oat.example@evil.example/callback"},
    "another path": {"redirect_uri": "https://oat.example/callback/x"},
    "a path that leads back": {"redirect_uri": "https://oat.example/x/../callback"},
    "another case": {"redirect_uri": "https://oat.example/Callback"},
    "a host in capitals": {"redirect_uri": "https://OAT.example/callback"},
    "a slash more": {"redirect_uri": "https://oat.example/callback/"},
    "a query more": {"redirect_uri": "https://oat.example/callback?x=1"},
    "a fragment more": {"redirect_uri": "https://oat.example/callback#x"},
    "a port more": {"redirect_uri": "https://oat.example:443/callback"},
    "another scheme": {"redirect_uri": "http://oat.example/callback"},
    "an escape": {"redirect_uri": "https://oat.example/%63allback"},
    "a script": {"redirect_uri": "javascript:alert(1)"},
    "loopback by another name": {"redirect_uri": "http://localhost:9000/cb"},
    "another port of loopback": {"redirect_uri": "http://127.0.0.1:9001/cb"},
    "none": {"redirect_uri": None},
    "an unknown client": {"client_id": "prt_nobody"},
    "a client that is markup": {"client_id": MARKUP},
    "no client": {"client_id": None},
}


@pytest.mark.parametrize("changed", NOT_TRUSTED.values(), ids=NOT_TRUSTED.keys())
async def test_whoever_is_not_trusted_gets_a_page_and_no_redirect(
    ada: Ada, client: Client, changed: dict[str, str | None]
) -> None:
    await with_partner(ada, redirect_uris=(CALLBACK, "http://127.0.0.1:9000/cb"))
    browser = Browser(ada)
    answer = await browser.open(client.link(**changed))
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    assert "evil" not in answer.text
    assert "<script" not in answer.text
    assert browser.forms == {}
    assert "form-action 'none'" in answer.headers["content-security-policy"]
    posted = await browser.post(client.link(**changed), {"form": "decide", "decision": "allow"})
    assert (posted.status_code, posted.headers.get("location")) == (400, None)


@pytest.mark.parametrize("state", ["pending", "suspended"])
async def test_partners_that_are_not_active_cannot_ask(ada: Ada, client: Client, state: str) -> None:
    await with_partner(ada, state=state)
    assert (await Browser(ada).open(client.link())).status_code == 400


async def test_a_parameter_of_trust_that_is_there_twice_is_not_trusted(ada: Ada, client: Client) -> None:
    for more in (f"&redirect_uri={quote(CALLBACK)}", f"&client_id={OAT}"):
        assert (await Browser(ada).open(client.link() + more)).status_code == 400
    assert (await Browser(ada).open(f"{PATH}?state=%ff")).status_code == 400
    assert (await Browser(ada).open(f"{PATH}?" + "&".join(f"a{number}=1" for number in range(40)))).status_code == 400


SENT_BACK: dict[str, tuple[dict[str, str | None], str]] = {
    "no response type": ({"response_type": None}, "invalid_request"),
    "implicit": ({"response_type": "token"}, "unsupported_response_type"),
    "hybrid": ({"response_type": "code token"}, "unsupported_response_type"),
    "fragment": ({"response_mode": "fragment"}, "invalid_request"),
    "no challenge": ({"code_challenge": None}, "invalid_request"),
    "neither challenge nor method": ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    "no method": ({"code_challenge_method": None}, "invalid_request"),
    "plain": ({"code_challenge_method": "plain"}, "invalid_request"),
    "a short challenge": ({"code_challenge": "short"}, "invalid_request"),
    "a challenge with a line break": ({"code_challenge": "c" * 42 + "\n"}, "invalid_request"),
    "no scope": ({"scope": None}, "invalid_scope"),
    "a blank scope": ({"scope": "  "}, "invalid_scope"),
    "an unknown scope": ({"scope": "days:read everything"}, "invalid_scope"),
    "a scope that is markup": ({"scope": MARKUP}, "invalid_scope"),
    "a scope it is not registered for": ({"scope": "photos:read"}, "invalid_scope"),
    "a scope of the partner itself": ({"scope": "webhooks:write"}, "invalid_scope"),
    "a scope of the user's own app": ({"scope": "profile:read"}, "invalid_scope"),
    "a state that is too long": ({"state": "ä" * 700}, "invalid_request"),
    "a request object": ({"request": "eyJ"}, "request_not_supported"),
    "a request by reference": ({"request_uri": "https://evil.example"}, "request_uri_not_supported"),
}


@pytest.mark.parametrize(("changed", "error"), SENT_BACK.values(), ids=SENT_BACK.keys())
async def test_what_is_wrong_otherwise_is_told_the_client(
    ada: Ada, client: Client, changed: dict[str, str | None], error: str
) -> None:
    told = sent_back(await Browser(ada).open(client.link(**changed)))
    assert (told["error"], told["state"], told["iss"]) == (error, changed.get("state", "s1"), ISSUER)


async def test_a_parameter_that_is_there_twice_is_told_the_client(ada: Ada, client: Client) -> None:
    assert sent_back(await Browser(ada).open(client.link() + "&scope=ledger:read"))["error"] == "invalid_request"
    twice = sent_back(await Browser(ada).open(client.link() + "&state=s2"))
    assert twice["error"] == "invalid_request"
    assert "state" not in twice


@pytest.mark.parametrize("state", ["a b+c", "%2e&x=1#", "ä€\u202e", "x" * 1500, "\r\nSet-Cookie: a=b", MARKUP])
async def test_the_state_comes_back_as_it_was(ada: Ada, client: Client, state: str) -> None:
    browser = await signed_in(ada, client, state=state)
    assert "<script" not in browser.page.text
    assert sent_back(await browser.allow())["state"] == state


async def test_without_a_state_none_comes_back(ada: Ada, client: Client) -> None:
    assert "state" not in sent_back(await (await signed_in(ada, client, state=None)).allow())


async def test_a_redirect_uri_keeps_its_query(ada: Ada, client: Client) -> None:
    uri = f"{CALLBACK}?tenant=7"
    await with_partner(ada, redirect_uris=(uri,))
    told = sent_back(await (await signed_in(ada, client, redirect_uri=uri)).allow())
    assert (told["tenant"], told["state"]) == ("7", "s1")
