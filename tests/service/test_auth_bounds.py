"""What auth takes of profiles is alike wherever it is sent, and whoever sends something else is told what to send."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.service.account_holder import ACCOUNT
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import REGISTRATION, Desk, desk_of

SECRET = "s3cret-typed-by-somebody"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock()) as one:
        yield one


async def everywhere(desk: Desk, profile: dict[str, Any]) -> list[Any]:
    """The answers to this profile at the three places where one is sent: sign-up, change, managed user."""
    key = str(profile)
    partner = (await desk.active())["partner_id"]
    other = ACCOUNT | {"email": "bob@example.org"}
    bob = (await desk.ask("POST", "/v1/users", other, key="bob")).json()["user_id"]
    return [
        await desk.ask("POST", "/v1/users", ACCOUNT | {"profile": profile}, key=key),
        await desk.ask("PATCH", "/v1/me", profile, user_id=bob),
        await desk.ask("POST", "/v1/partner/users", {"profile": profile}, key=key, partner_id=partner),
    ]


def fields(answer: Any) -> list[str]:
    """What the answer says of the fields."""
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text
    return [f"{one['where'].rsplit('.', 1)[-1]}: {one['message']}" for one in answer.json()["errors"]]


@pytest.mark.parametrize(
    "profile",
    [
        {"height_cm": "-1"},
        {"height_cm": "0"},
        {"height_cm": "49.99"},
        {"height_cm": "272.01"},
        {"height_cm": "100000"},
        {"height_cm": "170.001"},
        {"height_cm": "NaN"},
        {"height_cm": "Infinity"},
        {"sex": "other"},
        {"birth_date": "1899-12-31"},
        {"birth_date": 0},
        {"birth_date": "2999-01-01"},
        {"locale": "e"},
        {"locale": "en_US"},
        {"locale": "e" * 36},
        {"home_zone": "Europe/Nowhere"},
        {"home_zone": "../../etc/passwd"},
        {"home_zone": "Europe"},
        {"home_zone": "\0"},
        {"home_zone": ""},
        {"home_zone": None},
    ],
    ids=str,
)
async def test_no_way_in_takes_a_profile_that_cannot_be(desk: Desk, profile: dict[str, Any]) -> None:
    for answer in await everywhere(desk, profile):
        assert len(fields(answer)) == 1


@pytest.mark.parametrize("height", ["50", "272", "170.25"])
async def test_every_way_in_takes_the_bounds_themselves(desk: Desk, height: str) -> None:
    for answer in await everywhere(desk, {"height_cm": height}):
        assert answer.is_success, answer.text
        assert answer.json()["profile"]["height_cm"] == height


async def test_whoever_sends_a_wrong_time_zone_is_told_what_one_is(desk: Desk) -> None:
    for answer in await everywhere(desk, {"home_zone": SECRET}):
        assert fields(answer) == ["home_zone: Send an IANA time zone such as Europe/Berlin"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"contact": SECRET}, "contact: Send an e-mail address such as ada@example.org"),
        ({"name": f"{SECRET}\u200b"}, "name: Send 1 to 80 characters that can be seen"),
        (
            {"redirect_uris": [f"http://{SECRET}.example/"]},
            "0: Send an https address (or http on loopback) without fragment, user name or wildcard",
        ),
        ({"redirect_uris": [f"https://{SECRET}.example/"] * 2}, "redirect_uris: Name each redirect URI once"),
    ],
    ids=["contact", "name", "redirect_uri", "redirect_uris"],
)
async def test_whoever_registers_is_told_what_to_send(desk: Desk, changed: dict[str, Any], said: str) -> None:
    assert fields(await desk.register(**changed)) == [said]


async def test_whoever_asks_for_a_scope_that_is_none_is_told_which_there_are(desk: Desk) -> None:
    answer = await desk.register(scopes=[*REGISTRATION["scopes"], SECRET])
    (said,) = fields(answer)
    assert said.startswith("scopes: Send none but these: days:read, ")
    key = {"name": "k", "scopes": ["days:read"], "expires_at": "9999-12-31T23:59:59-12:00"}
    partner = (await desk.active())["partner_id"]
    late = await desk.ask("POST", "/v1/partner/keys", key, key="k1", partner_id=partner)
    assert fields(late) == ["expires_at: Send a time in the years 1 to 9999 of UTC"]
