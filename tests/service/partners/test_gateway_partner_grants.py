"""How long what a user grants a partner counts, and what the gateway keeps of it in memory."""

import tracemalloc
from datetime import timedelta

import pytest

from services.gateway.access import Access
from services.gateway.grants import Grants, Partners
from services.gateway.identities import NEVER, Identity
from services.gateway.revocations import Revocations
from shared.callers import Caller
from shared.errors import Problem, Unavailable
from shared.events.auth import SessionRevoked
from tests.service.gateway_edges import USER, Gateway, answer, partner
from tests.service.partner_calls import (
    AT,
    DAY,
    KEY,
    caller,
    code,
    for_user,
    grant,
    granted,
    itself,
    known,
    plain,
)


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
