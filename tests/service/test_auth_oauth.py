"""The authorization endpoint: pages, sign-in, consent, and everything that is not sent back or not shown."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.auth.grants import grant_id
from tests.service.account_holder import Ada, auth_of
from tests.service.gateway_edges import MovableClock
from tests.service.oauth_edges import OAT, Browser, Client, consented, sent_back, with_partner

ISSUER = "https://mymacrotracker.dev/auth"


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, MovableClock()) as one:
        await with_partner(one)
        yield one


@pytest.fixture
def client(ada: Ada) -> Client:
    return Client(ada)


async def test_a_person_signs_in_allows_and_is_sent_back_with_a_code(ada: Ada, client: Client) -> None:
    browser = Browser(ada)
    assert "Sign in" in (await browser.open(client.link())).text
    page = await browser.sign_in()
    assert "Oat &amp; Co" in page.text
    assert "see your food diary" in page.text
    told = sent_back(await browser.allow())
    assert (told["state"], told["iss"]) == ("s1", ISSUER)
    assert told["code"].startswith("mmc_")
    granted = await ada.service.app.state.deps.store.grant(grant_id(ada.user_id, OAT))
    assert granted.scopes == ("days:read", "diary:read")


async def test_the_code_is_exchanged_for_tokens(ada: Ada, client: Client) -> None:
    answer = await client.exchange(await consented(ada, client))
    assert answer.status_code == 200, answer.text
    assert answer.json()["user_id"] == ada.user_id
