"""Partners at the gateway: for whom they call, what of it users let them do, and how soon the end of that counts."""

import tracemalloc
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.access import Access
from services.gateway.acting import taken
from services.gateway.feeds import MAX_READERS_PER_USER
from services.gateway.grants import Grants, Partners
from services.gateway.identities import NEVER, Identity
from services.gateway.permissions import SCOPE_OF
from services.gateway.proxy import Answer
from services.gateway.revocations import Revocations
from services.gateway.routes import ROUTES, Route
from services.gateway.settings import Settings
from services.webhooks.public import TYPES
from shared.callers import GRANTABLE_SCOPES, SCOPES, Caller
from shared.errors import Problem, Unavailable
from shared.events.auth import GrantUpdated, SessionRevoked
from shared.events.webhooks import MessagePublished
from shared.internal_tokens import InternalTokenVerifier
from shared.keys import load_private_jwk, new_api_key
from shared.tokens import signed
from tests.service.gateway_edges import USER, Gateway, Stream, answer, gateway, partner

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
KEY = new_api_key()
DAY = "/v1/days/2026-03-01"
BATCH = {
    "device": {"id": "watch-1", "kind": "watch"},
    "app": "test/1",
    "samples": [{"metric": "heart_rate", "start": "2026-03-01T08:00:00Z", "value": 61}],
}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + (4).to_bytes(4, "big") * 2 + bytes(20) + b"IEND"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    """The gateway; the partner p1 has a key with every scope, and users' days can be read."""
    async with gateway(tmp_path) as one:
        jwks = one.services.handlers["auth"]
        verified = answer({"partner_id": "p1", "scopes": SCOPES, "expires_at": None})
        one.services.handlers["auth"] = lambda *sent: verified if "keys/verify" in sent[1] else jwks(*sent)
        one.services.handlers["ingest"] = lambda *_: answer({"date": "2026-03-01"})
        one.services.handlers["webhooks"] = lambda *_: answer({"events": [], "has_more": False, "last_sequence": 0})
        yield one


def grant(**changed: Any) -> GrantUpdated:
    """The news of what USER lets p1 see."""
    news = GrantUpdated(
        event_id="e",
        occurred_at=AT,
        grant_id="g1",
        user_id=USER,
        partner_id="p1",
        revision=1,
        scopes=GRANTABLE_SCOPES,
    )
    return news.model_copy(update=changed)


async def granted(door: Gateway, **changed: Any) -> None:
    news = grant(**changed)
    await door.running.app.state.grants.take(news.grant_id, news)


async def known(door: Gateway, **changed: Any) -> None:
    await door.running.app.state.partners.take("p1", partner("p1", **changed))


def claims(door: Gateway, **changed: Any) -> str:
    settings, now = Settings(), int(door.clock().timestamp())
    good = {"iss": settings.token_issuer, "aud": settings.token_audience, "iat": now, "exp": now + 900}
    return signed(load_private_jwk(door.folder / "auth.jwk"), "at+jwt", good | changed)


def for_user(door: Gateway, *, revision: int = 1, session_id: str = "sid_p", scope: str = "days:read live:read") -> str:
    """The token of the code flow."""
    return claims(door, sub=USER, client_id="p1", sid=session_id, grant_revision=revision, scope=scope)


def itself(door: Gateway) -> str:
    """The token of client credentials."""
    return claims(door, sub="p1", client_id="p1", scope="days:read webhooks:write")


def caller(door: Gateway) -> Caller:
    """Whom the last call to a service was for."""
    service, _, _, headers, _ = door.services.seen[-1]
    verifier = InternalTokenVerifier(door.folder / "internal-jwks.json", service)
    return verifier.caller(headers["Authorization"].removeprefix("Bearer "))


def plain(response: Any) -> tuple[int, dict[str, Any]]:
    """Status and body but for what the caller itself sent, and the trace."""
    body = response.json()
    return response.status_code, {name: body[name] for name in body.keys() - {"trace_id", "instance"}}


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rsplit("/", 1)[-1]


# for whom


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


# how long


async def test_a_known_token_follows_its_grant(door: Gateway) -> None:
    await granted(door, scopes=("days:read", "live:read"))
    token = for_user(door)
    assert (await door.ask("GET", DAY, token=token)).status_code == 200
    await granted(door, revision=2, scopes=("live:read",))
    assert code(await door.ask("GET", DAY, token=token)) == (404, "not-found")
    await granted(door, revision=3, scopes=("days:read", "diary:read"))
    assert (await door.ask("GET", DAY, token=token)).status_code == 200
    assert caller(door) == Caller(USER, "p1", frozenset({"days:read"}), "sid_p")


async def test_what_the_grant_leaves_out_is_404_and_what_the_token_never_had_403_in_both_ways(door: Gateway) -> None:
    await granted(door, scopes=("live:read",))
    by_code, by_credentials = for_user(door), itself(door)
    narrowed = [
        await door.ask("GET", path, token=token)
        for path, token in ((DAY, by_code), (f"{DAY}?user={USER}", by_credentials), (f"{DAY}?user={USER}", KEY))
    ]
    unknown = plain(await door.ask("GET", f"{DAY}?user=usr_unknown", token=KEY))
    assert [plain(one) for one in narrowed] == [unknown] * 3
    never = "/v1/diary/2026-03-01"
    for path, token in ((never, by_code), (f"{never}?user={USER}", by_credentials)):
        assert code(await door.ask("GET", path, token=token)) == (403, "insufficient-scope")
    await granted(door, revision=2, scopes=("days:read",))
    assert code(await door.ask("GET", "/v1/live", token=by_code)) == (404, "not-found")


async def test_the_key_of_a_suspended_partner_is_refused_as_its_tokens_are(door: Gateway) -> None:
    await granted(door)
    document = {"type": "https://mymacrotracker.dev/problems/partner-not-active"}
    jwks = door.services.handlers["auth"]
    refused = answer(document, 404)
    door.services.handlers["auth"] = lambda *sent: refused if "keys/verify" in sent[1] else jwks(*sent)
    by_key = await door.ask("GET", f"{DAY}?user={USER}", token=KEY)
    await known(door, revision=2, state="suspended")
    by_token = await door.ask("GET", f"{DAY}?user={USER}", token=itself(door))
    assert plain(by_key) == plain(by_token)
    assert by_key.json()["detail"] == "This partner is not active. Ask the operator."


async def test_a_token_of_before_the_revocation_is_worth_nothing_after_it(door: Gateway) -> None:
    await granted(door)
    old = for_user(door)
    unknown = plain(await door.ask("GET", f"{DAY}?user=usr_unknown", token=KEY))
    assert (await door.ask("GET", DAY, token=old)).status_code == 200
    await granted(door, revision=2, revoked_at=AT)
    for path in (DAY, "/v1/whoami", f"{DAY}?user={USER}"):
        assert plain(await door.ask("GET", path, token=old)) == unknown
    assert plain(await door.ask("GET", f"{DAY}?user={USER}", token=KEY)) == unknown
    await granted(door, revision=3, since_revision=3)
    assert plain(await door.ask("GET", DAY, token=old)) == unknown
    assert (await door.ask("GET", DAY, token=for_user(door, revision=3))).status_code == 200
    assert (await door.ask("GET", f"{DAY}?user={USER}", token=KEY)).status_code == 200


async def test_a_deleted_grant_is_no_grant(door: Gateway) -> None:
    await granted(door)
    await door.running.app.state.grants.take("g1", None)
    for path, token in ((DAY, for_user(door)), (f"{DAY}?user={USER}", KEY)):
        assert code(await door.ask("GET", path, token=token)) == (404, "not-found")


@pytest.mark.parametrize("state", ["pending", "suspended", None])
async def test_a_partner_that_is_not_active_is_refused_also_where_it_is_known(door: Gateway, state: str | None) -> None:
    await granted(door)
    tokens = {KEY: f"{DAY}?user={USER}", itself(door): f"{DAY}?user={USER}", for_user(door): DAY}
    for token, path in tokens.items():
        assert (await door.ask("GET", path, token=token)).status_code == 200
    if state is None:
        await door.running.app.state.partners.take("p1", None)
    else:
        await known(door, revision=2, state=state)
    for token, path in tokens.items():
        assert code(await door.ask("GET", path, token=token)) == (401, "invalid-token")
    assert (await door.ask("GET", DAY)).status_code == 200
    await known(door, revision=3)
    for token, path in tokens.items():
        assert (await door.ask("GET", path, token=token)).status_code == 200


async def test_an_ended_session_and_a_dead_grant_answer_alike_whichever_is_heard_of_first(door: Gateway) -> None:
    await granted(door, revision=2, revoked_at=AT)
    token = for_user(door)
    first = plain(await door.ask("GET", DAY, token=token))
    ended = SessionRevoked(
        event_id="e",
        occurred_at=AT,
        session_id="sid_p",
        user_id=USER,
        reason="grant-revoked",
        expires_at=door.clock() + timedelta(minutes=15),
    )
    await door.running.app.state.revocations.take("sid_p", ended)
    assert plain(await door.ask("GET", DAY, token=token)) == first
    await granted(door, revision=3)
    assert code(await door.ask("GET", DAY, token=token)) == (401, "invalid-token")


class Verifies:
    """Takes every token and key for the partner's."""

    async def identity(self, _: str) -> Identity:
        return Identity(Caller(None, "p1", frozenset({"days:read"})), NEVER)


async def test_what_is_not_read_yet_is_neither_granted_nor_denied() -> None:
    grants, partners, every = Grants(), Partners(), Verifies()
    access = Access(every, every, Revocations(), grants, partners)
    with pytest.raises(Problem) as unknown:
        await access.identity(b"Bearer t")
    await partners.take("p1", partner("p1"))
    with pytest.raises(Problem) as perhaps_suspended:
        await access.identity(b"Bearer t")
    partners.caught_up()
    caller = (await access.identity(b"Bearer t")).caller
    await grants.take("g1", grant(scopes=("days:read",)))
    with pytest.raises(Problem) as perhaps_revoked:
        access.acting(caller, USER, "days:read")
    assert [one.value.status for one in (unknown, perhaps_suspended, perhaps_revoked)] == [503, 503, 503]
    with pytest.raises(Unavailable):
        await grants.ready()
    grants.caught_up()
    for state in (grants, partners):
        await state.ready()
    assert access.acting(caller, USER, "days:read").user_id == USER
    await grants.take("g1", None)
    with pytest.raises(Problem, match="nothing here"):
        access.acting(caller, USER, "days:read")


# streams


def stream(door: Gateway, token: str, query: bytes = b"") -> Stream:
    return Stream(door.running.app, {"Authorization": f"Bearer {token}"}, query)


async def said(door: Gateway, sequence: int, message_type: str) -> None:
    await door.running.app.state.live.take(
        MessagePublished(
            event_id=f"e{sequence}",
            occurred_at=AT,
            user_id=USER,
            message_id=f"m{sequence}",
            sequence=sequence,
            message_type=message_type,
            message_time=AT,
            trace_id="t",
            data={"sequence": sequence},
        )
    )


async def opened(door: Gateway, *, key: bool) -> Stream:
    one = stream(door, KEY, f"user={USER}".encode()) if key else stream(door, for_user(door))
    assert await one.open() == 200
    assert await one.block() == "retry: 1000"
    return one


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("end", ["revoked", "deleted", "suspended", "narrowed"])
async def test_a_partners_stream_ends_with_what_it_reads_by_and_says_so(door: Gateway, key: bool, end: str) -> None:
    await granted(door)
    theirs, own = await opened(door, key=key), stream(door, door.token())
    assert await own.open() == 200
    assert await own.block() == "retry: 1000"
    if end == "revoked":
        await granted(door, revision=2, revoked_at=AT)
    elif end == "deleted":
        await door.running.app.state.grants.take("g1", None)
    elif end == "suspended":
        await known(door, revision=2, state="suspended")
    else:
        await granted(door, revision=2, scopes=("days:read",))
    last = await theirs.block() or ""
    assert last.startswith("event: stream.ended\ndata: ")
    assert '"reason":"not-granted"' in last
    assert await theirs.block() == ": end"
    assert await theirs.block() is None
    assert not own.ended
    await own.close()


async def test_a_stream_shows_what_its_scopes_cover(door: Gateway) -> None:
    await granted(door, scopes=("live:read", "insights:read", "photos:read"))
    theirs = await opened(door, key=True)
    sent = ("day.updated", "insight.created", "entry.created", "photo.read", "day.updated", "insight.created")
    for number, message_type in enumerate(sent, 1):
        await said(door, number, message_type)
    shown = [one[:2] for one in await theirs.events(3)]
    assert shown == [(2, "insight.created"), (4, "photo.read"), (6, "insight.created")]
    await granted(door, revision=2, scopes=("live:read", "photos:read", "days:read"))
    for number, message_type in enumerate(("insight.created", "photo.rejected"), 7):
        await said(door, number, message_type)
    assert [one[:2] for one in await theirs.events(1)] == [(8, "photo.rejected")]
    await theirs.close()


async def test_stored_messages_are_cut_to_the_scopes_as_well(door: Gateway) -> None:
    await granted(door, scopes=("live:read", "diary:read"))
    types = ("day.updated", "entry.created", "unheard.of")

    def stored(method: str, target: str, headers: Any, body: bytes) -> Answer:
        events = [
            {"sequence": number, "type": kind, "timestamp": "2026-03-01T08:00:00.000Z", "data": {}}
            for number, kind in enumerate(types, 1)
        ]
        return answer({"events": events, "has_more": False, "last_sequence": 3})

    door.services.handlers["webhooks"] = stored
    resumed = Stream(
        door.running.app, {"Authorization": f"Bearer {KEY}", "Last-Event-ID": "0"}, f"user={USER}".encode()
    )
    assert await resumed.open() == 200
    await said(door, 4, "entry.deleted")
    assert [one[:2] for one in await resumed.events(2)] == [(2, "entry.created"), (4, "entry.deleted")]
    await resumed.close()


async def test_a_stream_by_a_key_is_opened_anew_after_a_while(door: Gateway) -> None:
    await granted(door)
    theirs = await opened(door, key=True)
    door.clock.ahead = timedelta(minutes=16)
    door.running.app.state.live.fed_from_here()
    assert await theirs.reason() == "token-expired"


async def test_a_partners_streams_leave_the_users_own_apps_theirs(door: Gateway) -> None:
    await granted(door)
    theirs = [await opened(door, key=True) for _ in range(MAX_READERS_PER_USER)]
    assert await stream(door, for_user(door)).open() == 429
    own = stream(door, door.token())
    assert await own.open() == 200
    for one in (own, *theirs):
        await one.close()
    assert not door.running.app.state.live.connected(USER)


async def test_a_stream_without_a_grant_is_not_opened(door: Gateway) -> None:
    await granted(door, scopes=("days:read",))
    assert await stream(door, KEY, f"user={USER}".encode()).open() == 404
    assert await stream(door, KEY, b"user=usr_2").open() == 404
    assert await stream(door, KEY).open() == 422


def test_every_message_has_the_scope_that_deliveries_go_by() -> None:
    assert {name: one.scope for name, one in TYPES.items()} == SCOPE_OF


# the state in memory


async def test_older_news_of_a_grant_changes_nothing_also_after_its_end() -> None:
    grants = Grants()
    heard: list[str | None] = []
    grants.tell(heard.append)
    await grants.take("g1", grant(revision=2, revoked_at=AT))
    await grants.take("g1", grant(revision=1))
    assert grants.scopes(USER, "p1") is None
    await grants.take("g1", grant(revision=3, since_revision=3, scopes=("days:read", "profile:read", "webhooks:write")))
    await grants.take("g1", grant(revision=2, revoked_at=AT))
    for _ in range(2):
        await grants.take("g1", grant(revision=3, since_revision=3, scopes=("days:read", "profile:read")))
    assert grants.scopes(USER, "p1") == {"days:read"}
    assert grants.scopes(USER, "p1", 3) == {"days:read"}
    assert grants.scopes(USER, "p1", 2) is None
    await grants.take("g9", None)
    await grants.take("g2", grant(grant_id="g2", partner_id="p2", scopes=("diary:read",)))
    await grants.take("g1", None)
    assert (grants.scopes(USER, "p1"), grants.scopes(USER, "p2")) == (None, {"diary:read"})
    assert heard == [USER] * 6


async def test_partners_are_as_their_newest_revision_says() -> None:
    partners = Partners()
    assert not partners.active("p1")
    await partners.take("p1", partner("p1", revision=2, state="suspended", requests_per_min=30))
    await partners.take("p1", partner("p1", revision=1))
    assert (partners.active("p1"), partners.quota_of("p1")) == (False, 30)
    await partners.take("p1", partner("p1", revision=3))
    assert (partners.active("p1"), partners.quota_of("p1"), partners.quota_of("p2")) == (True, None, None)


async def test_partners_who_change_nothing_that_streams_go_by_wake_none() -> None:
    partners = Partners()
    heard: list[str | None] = []
    partners.tell(heard.append)
    await partners.take("p1", partner("p1"))
    for revision in (2, 3):
        await partners.take("p1", partner("p1", revision=revision, name="Another", requests_per_min=revision))
    assert heard == [None]
    await partners.take("p1", partner("p1", revision=4, state="suspended"))
    await partners.take("p1", None)
    assert heard == [None] * 2


async def test_a_hundred_thousand_grants_fit() -> None:
    """Measured: 365 bytes each at 100,000; here fewer and by another measure, for time."""
    grants, count = Grants(), 5_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            id = f"{number:036d}"
            user_id = f"usr_{number:032d}"
            await grants.take(id, grant(grant_id=id, user_id=user_id, scopes=tuple(["days:read", "diary:read"])))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grants.scopes(f"usr_{7:032d}", "p1") == {"days:read", "diary:read"}
    assert (after - before) / count < 700


# the table


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": None},
        {"scope": "no:such"},
        {"scope": "webhooks:write"},
        {"caller": "partner"},
        {"caller": "anyone"},
        {"caller": "nobody"},
        {"rate": "often"},
        {"rate": None},
        {"path": "/internal/keys/verify"},
        {"path": "/v1/internal/keys"},
        {"path": "/readyz"},
    ],
)
def test_a_route_that_does_not_say_who_may_call_and_how_often_is_refused(changed: dict[str, Any]) -> None:
    route = {"method": "GET", "path": "/v1/x", "service": "ingest", "caller": "user", "scope": "days:read"}
    assert Route(**route | {"rate": "read"}).about_users
    with pytest.raises(ValueError, match="/"):
        Route(**route | {"rate": "read"} | changed)


def test_every_route_names_scope_and_rate() -> None:
    for route in ROUTES:
        assert route.rate in ("sign-in", "write", "read", "stream"), route
        assert (route.scope is None) == (route.caller in ("anyone", "signed-in")), route


@pytest.mark.parametrize(
    "path",
    [
        "/internal/keys/verify",
        "//internal/keys/verify",
        "/v1/../internal/keys/verify",
        "/v1/days/..%2f..%2finternal%2fkeys%2fverify",
        "/v1/days/%2e%2e/%2e%2e/internal/keys/verify",
        "/INTERNAL/keys/verify",
        "/v1/days/../../internal/keys/verify",
        "/%69nternal/keys/verify",
        "/internal",
        "/metrics",
    ],
)
async def test_what_is_internal_is_not_reached_from_outside(door: Gateway, path: str) -> None:
    for method in ("GET", "POST"):
        for token in (
            "",
            KEY,
            door.running.signer.operator_token("auth"),
            door.running.signer.operator_token("ingest"),
        ):
            got = await door.ask(method, path, token=token, json={"key": KEY})
            assert got.status_code in (401, 404, 405), got.text
    targets = {one[2] for one in door.services.seen}
    assert targets <= {"/internal/keys/verify", "/.well-known/jwks.json"}
    assert all(KEY.encode() in one[4] for one in door.services.seen if "internal" in one[2])


async def test_a_problem_of_the_query_is_one_for_the_caller() -> None:
    with pytest.raises(Problem, match="once"):
        taken(b"user=a&user=b")
