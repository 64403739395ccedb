"""Partners at the gateway: for whom they call, what of it users let them do, and how soon the end of that counts."""

from datetime import timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.acting import taken
from shared.callers import SCOPES, Caller
from shared.errors import Problem
from tests.service.gateway_edges import USER, Gateway, answer
from tests.service.partner_calls import (
    AT,
    BATCH,
    DAY,
    KEY,
    PICTURE,
    caller,
    code,
    for_user,
    granted,
    itself,
    plain,
)


async def test_a_partner_reads_for_a_user_as_far_as_key_and_grant_reach(door: Gateway) -> None:
    await granted(door, scopes=("days:read", "diary:read", "profile:read"))
    got = await door.ask("GET", f"{DAY}?user={USER}&zone=UTC", token=KEY)
    assert got.status_code == 200, got.text
    assert door.services.seen[-1][2] == f"{DAY}?zone=UTC"
    assert caller(door) == Caller(USER, "p1", frozenset({"days:read", "diary:read"}))
    assert (await door.ask("GET", f"{DAY}?user={USER}", token=itself(door))).status_code == 200
    assert caller(door) == Caller(USER, "p1", frozenset({"days:read"}))


async def test_services_are_told_when_the_key_of_a_partner_itself_ends(door: Gateway) -> None:
    end = door.clock() + timedelta(hours=1)
    verified = answer({"partner_id": "p1", "scopes": ["webhooks:write"], "expires_at": end.isoformat()})
    door.services.handlers["auth"] = lambda *_: verified
    door.services.handlers["webhooks"] = lambda *_: answer({"endpoints": []})
    assert (await door.ask("GET", "/v1/webhook-endpoints", token=KEY)).status_code == 200
    assert caller(door) == Caller(None, "p1", frozenset({"webhooks:write"}), key_ends_at=end.timestamp())


async def test_a_partner_that_names_nobody_is_told_how(door: Gateway) -> None:
    for token in (KEY, itself(door)):
        assert code(await door.ask("GET", DAY, token=token)) == (422, "user-required")
    assert not any(one[0] == "ingest" for one in door.services.seen)


async def test_no_grant_no_user_and_no_scope_are_one_answer(door: Gateway) -> None:
    await granted(door, grant_id="g2", user_id="usr_revoked", revoked_at=AT)
    await granted(door, grant_id="g3", user_id="usr_other_scope", scopes=("diary:read",))
    await granted(door, grant_id="g4", user_id="usr_other_partner", partner_id="demo-partner")
    users = ("usr_revoked", "usr_other_scope", "usr_other_partner", "usr_unknown", "%00", "..", "a" * 3000)
    answers = [plain(await door.ask("GET", f"{DAY}?user={one}", token=KEY)) for one in users]
    assert {one[0] for one in answers} == {404}
    assert all(one == answers[0] for one in answers)
    foreign = await door.ask("GET", f"{DAY}?user=usr_unknown")
    assert plain(foreign) == answers[0]
    assert not any(one[0] == "ingest" for one in door.services.seen)


@pytest.mark.parametrize(
    "query",
    ["user=", "user", "user=usr_1&user=usr_1", "user=usr_1&%75ser=usr_2", "user=%ff", "user=&user=usr_1", "u%73er="],
)
async def test_a_user_that_is_not_given_once_is_refused(door: Gateway, query: str) -> None:
    await granted(door)
    for token in (KEY, "", for_user(door)):
        assert code(await door.ask("GET", f"{DAY}?{query}", token=token)) == (422, "invalid-request")
    assert not any(one[0] == "ingest" for one in door.services.seen)


@pytest.mark.parametrize(
    "query",
    ["user=usr_1", "%75ser=usr%5F1", "%75%73%65%72=%75sr_1", "a=1&user=usr_1&b=%20+", "&&user=usr_1&"],
)
async def test_user_reaches_no_service_however_it_is_escaped(door: Gateway, query: str) -> None:
    await granted(door)
    for token in (KEY, "", for_user(door)):
        assert (await door.ask("GET", f"{DAY}?{query}", token=token)).status_code == 200
        assert caller(door).user_id == USER
        assert "us" not in door.services.seen[-1][2]


def test_other_names_are_left_as_they_came() -> None:
    for query in (b"users=1&User=2&auser=3&user[]=4&x=user", b"%2575ser=1", b"user%00=1", b"x=%zz&us%65", b"user;a=1"):
        assert taken(query) == (query, None)
    assert taken(b"a=b&user=1;x") == (b"a=b", "1;x")


PIECES = st.sampled_from(
    ["user", "us%65r", "%75ser", "User", "u", "=", "=", "&", "&", ";", "+", "%", "%26", "%3D", "a", "%ff"]
)


@given(st.lists(PIECES, max_size=24).map("".join))
def test_whatever_the_query_services_see_no_user_and_everything_else(query: str) -> None:
    def read(one: str) -> list[tuple[str, str]]:
        return parse_qsl(one, keep_blank_values=True)  # as the services do

    given_users = [value for name, value in read(query) if name == "user"]
    try:
        left, user_id = taken(query.encode())
    except Problem:
        assert len(given_users) > 1 or not given_users[0] or "\N{REPLACEMENT CHARACTER}" in given_users[0]
        return
    assert read(left.decode()) == [pair for pair in read(query) if pair[0] != "user"]
    assert given_users == ([] if user_id is None else [user_id])


async def test_users_name_themselves_or_nobody(door: Gateway) -> None:
    await granted(door, grant_id="g2", user_id="usr_2")
    assert (await door.ask("GET", f"{DAY}?user={USER}")).status_code == 200
    assert caller(door).user_id == USER
    for token in ("", for_user(door)):
        assert code(await door.ask("GET", f"{DAY}?user=usr_2", token=token))[0] == 404


async def test_account_routes_are_not_for_partners(door: Gateway) -> None:
    await granted(door, scopes=SCOPES)
    token = for_user(door, scope=" ".join(SCOPES))
    for method, path in (("GET", "/v1/me"), ("DELETE", "/v1/me/sessions"), ("GET", "/v1/webhook-endpoints")):
        assert code(await door.ask(method, path, token=token)) == (403, "insufficient-scope")
    assert code(await door.ask("GET", f"/v1/me?user={USER}", token=KEY)) == (403, "insufficient-scope")
    assert not any(one[0] in ("webhooks", "ingest") for one in door.services.seen)


async def test_a_partner_sends_and_follows_a_users_batches_and_photos(door: Gateway) -> None:
    await granted(door)
    sent = await door.ask("POST", f"/v1/batches?user={USER}", token=KEY, key="b", json=BATCH)
    photo = await door.ask(
        "PUT",
        f"/v1/photos?grams=80&user={USER}",
        token=KEY,
        key="p",
        content=PICTURE,
        headers={"Content-Type": "image/png"},
    )
    assert (sent.status_code, photo.status_code) == (202, 202), photo.text
    door.services.handlers["ingest"] = lambda *_: answer({}, 404)
    for link in (sent.json()["link"], photo.json()["link"]):
        for path, token in ((link, ""), (f"{link}?user={USER}", KEY)):
            followed = await door.ask("GET", path, token=token)
            assert followed.json()["state"] == "queued"
        assert code(await door.ask("GET", link, token=KEY)) == (422, "user-required")
    await granted(door, grant_id="g2", user_id="usr_2")
    assert (await door.ask("GET", f"{sent.json()['link']}?user=usr_2", token=KEY)).status_code == 404
    waited = await door.ask("GET", f"{sent.json()['link']}?wait=5ms&user={USER}", token=KEY)
    assert waited.status_code == 200
    assert door.services.seen[-1][2].endswith("?wait=5ms")
