"""The pages of the authorization endpoint: what guards them, whose forms they take, what they say."""

import re
from datetime import timedelta

import pytest
from pydantic import ValidationError

from services.auth import sessions
from services.auth.browsers import Browsers
from services.auth.consent import WORDS
from services.auth.settings import Settings
from shared.callers import GRANTABLE_SCOPES
from shared.clock import utc_now
from tests.service.account_holder import EMAIL, OTHER, Ada
from tests.service.oauth_edges import MARKUP, SCOPES, Browser, Client, consented, granted, signed_in, with_partner


async def test_names_are_text_on_every_page(ada: Ada, client: Client) -> None:
    await with_partner(ada, name=MARKUP)
    browser = Browser(ada)
    for page in (await browser.open(client.link()), await browser.sign_in()):
        assert "<script" not in page.text
        assert "&lt;script&gt;" in page.text


async def test_a_wrong_address_is_shown_as_text_and_no_password_ever(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    await browser.open(client.link())
    page = await browser.sign_in(email=MARKUP, password="hunter22hunter22")
    assert page.status_code == 403
    assert "&lt;script&gt;" in page.text
    assert "hunter22" not in page.text


async def test_pages_run_no_script_cannot_be_framed_and_leave_nothing_behind(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    for page in (
        await browser.open(client.link()),
        await browser.sign_in(password="wrong, and long enough"),
        await browser.sign_in(),
        await browser.open(client.link(redirect_uri="https://evil.example")),
    ):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script| on\w+=|javascript:|style=| src=", page.text)


async def test_the_cookie_is_out_of_scripts_and_other_sites_reach(ada: Ada, client: Client) -> None:
    page = await ada.service.http.get(client.link(), headers=ada.service.headers())
    name, _, attributes = page.headers["set-cookie"].partition("=")
    assert name == "__Host-mymacro"
    assert {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"} <= set(attributes.split("; "))
    again = await ada.service.http.get(
        client.link(), headers=ada.service.headers() | {"Cookie": page.headers["set-cookie"].partition(";")[0]}
    )
    assert "set-cookie" not in again.headers


async def test_a_sign_in_lasts_ten_minutes(ada: Ada, client: Client) -> None:
    browser = await signed_in(ada, client)
    ada.clock.ahead += timedelta(minutes=9)
    await browser.open(client.link())
    assert "decide" in browser.forms
    ada.clock.ahead += timedelta(minutes=2)
    answer = await browser.allow()
    assert answer.status_code == 403
    assert "sign-in" in browser.forms
    assert await granted(ada) is None


async def test_ending_all_sessions_ends_the_browsers_sign_in(ada: Ada, client: Client) -> None:
    browser = await signed_in(ada, client)
    await sessions.end_all(ada.service.app.state.deps, ada.user_id, reason="password-changed")
    assert (await browser.allow()).status_code == 403
    assert "sign-in" in browser.forms
    assert await granted(ada) is None


async def test_signing_in_changes_the_cookie_and_signing_out_ends_it(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    await browser.open(client.link())
    before = browser.cookie
    await browser.sign_in()
    inside = browser.cookie
    assert before != inside
    await browser.send("sign-out")
    assert browser.cookie not in (before, inside)
    assert "sign-in" in browser.forms


async def test_a_form_is_taken_from_its_own_browser_alone(ada: Ada, client: Client) -> None:
    """Nobody signs somebody in, or decides for them, from another site."""
    mine, theirs = await signed_in(ada, client), await signed_in(ada, client)
    action, fields = theirs.forms["decide"]
    forged = await mine.post(action, fields | {"decision": "allow"})
    assert forged.status_code == 403
    for cookie in ("", "__Host-mymacro=x", "__Host-mymacro=a.b.c.d", mine.cookie[:-2] + "xx"):
        stranger = Browser(ada, cookie)
        assert (await stranger.post(action, fields | {"decision": "allow"})).status_code == 403
    fresh = Browser(ada)
    await fresh.open(client.link())
    signing = Browser(ada)
    await signing.open(client.link())
    action, fields = fresh.forms["sign-in"]
    assert (await signing.post(action, fields | {"email": EMAIL, "password": "x"})).status_code == 403
    assert "sign-in" in signing.forms
    assert await granted(ada) is None


async def test_a_forms_token_is_good_for_its_own_request_and_act_alone(ada: Ada, client: Client) -> None:
    browser = await signed_in(ada, client)
    _, fields = browser.forms["decide"]
    wider = client.link(scope="days:read diary:read ledger:read")
    assert (await browser.post(wider, fields | {"decision": "allow"})).status_code == 403
    await browser.open(client.link())
    _, fields = browser.forms["sign-out"]
    other = await browser.post(client.link(), fields | {"form": "decide", "decision": "allow"})
    assert other.status_code == 403
    assert (await browser.post(client.link(), {"form": "decide"})).status_code == 403
    assert await granted(ada) is None


async def test_a_second_factor_is_asked_for(ada: Ada, client: Client) -> None:
    secret, codes = await ada.with_second_factor()
    browser = Browser(ada)
    await browser.open(client.link())
    asked = await browser.sign_in()
    assert (asked.status_code, "second factor" in asked.text) == (403, True)
    assert EMAIL in asked.text
    assert (await browser.sign_in(second_factor="000000")).status_code == 403
    await browser.sign_in(second_factor=ada.code(secret))
    assert "decide" in browser.forms
    other = Browser(ada)
    await other.open(client.link())
    await other.sign_in(second_factor=codes[0])
    assert "decide" in other.forms


async def test_guesses_on_the_page_are_throttled_like_all_others(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    await browser.open(client.link())
    statuses = [(await browser.sign_in(password=OTHER)).status_code for _ in range(25)]
    assert statuses[0] == 403
    assert statuses[-1] == 429
    held = await browser.sign_in()
    assert (held.status_code, "Too many attempts" in held.text) == (429, True)
    assert int(held.headers["retry-after"]) > 0


async def test_the_page_shows_what_stays_what_is_new_and_what_ends(ada: Ada, client: Client) -> None:
    first = (await signed_in(ada, client)).page
    assert first is not None
    assert 'class="tag' not in first.text
    await consented(ada, client)
    browser = await signed_in(ada, client, scope="days:read ledger:read")
    text = re.sub(r"\s+", " ", browser.page.text)
    stays, new, ends = (text.index(WORDS[scope][0]) for scope in ("days:read", "ledger:read", "diary:read"))
    assert text.index("as before") > stays
    assert text.index(">new<") > new
    assert text.index("It can no longer") < ends
    await browser.allow()
    assert (await granted(ada)).scopes == ("days:read", "ledger:read")


def test_every_scope_that_users_grant_has_its_words() -> None:
    assert set(WORDS) == set(GRANTABLE_SCOPES)
    assert set(SCOPES) - set(GRANTABLE_SCOPES)


def test_only_loopback_goes_without_tls() -> None:
    now, local = utc_now(), Browsers(bytes(32), secure=False)
    cookie = local.set_cookie(local.new(now))
    assert cookie.startswith("mymacro=")
    assert local.new(now) != local.new(now)
    assert "Secure" not in cookie
    assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    assert Settings(auth_public_url="http://127.0.0.1:8080").public_origin == "http://127.0.0.1:8080"
    assert Settings(auth_public_url="https://api.example.org").public_origin == "https://api.example.org"
    assert Settings().public_origin == "https://mymacrotracker.dev"
    for wrong in (
        "http://api.example.org",
        "https://api.example.org/",
        "http://127.0.0.1.example.org",
        "api.example.org",
    ):
        with pytest.raises(ValidationError):
            Settings(auth_public_url=wrong)


async def test_a_decision_may_lead_anywhere_a_sign_in_only_here(ada: Ada, client: Client) -> None:
    """Chromium holds what a partner's server does after the redirect to the page's policy too."""
    page = (await signed_in(ada, client)).page
    assert page is not None
    assert "form-action 'self' https:;" in page.headers["content-security-policy"]
    await with_partner(ada, redirect_uris=("http://127.0.0.1:9000/cb",))
    local = (await signed_in(ada, client, redirect_uri="http://127.0.0.1:9000/cb")).page
    assert local is not None
    assert "form-action 'self' https: http:;" in local.headers["content-security-policy"]
