"""Sessions at the gateway: what an ended one loses, what bad tokens are told, and keys that change under load."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

from services.auth.app import create_app as create_auth
from services.auth.settings import Settings as AuthSettings
from services.auth.signing import add_key
from services.gateway.access import MAX_CACHED, Access
from services.gateway.grants import Grants, Partners
from services.gateway.identities import NEVER, Identity
from services.gateway.revocations import Revocations
from services.gateway.routes import ROUTES
from services.gateway.settings import Settings
from services.gateway.verifiers import JWKS_FRESH_S, JWKS_PAUSE_S
from shared.access_tokens import sign_access_token
from shared.callers import Caller
from shared.errors import Problem, Unavailable
from shared.events.auth import SessionRevoked
from shared.kafka import make_broker
from shared.keys import generate_key_files, load_private_jwk
from shared.tokens import signed
from tests.service.gateway_edges import USER, Gateway, Stream, answer, gateway
from tests.service.running import common_settings

ACCOUNT = {"email": "ada@example.org", "password": "fourteen teal herons march"}
JWKS = "/.well-known/jwks.json"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        yield one


def revoked(door: Gateway, session_id: str, *, lasts: timedelta = timedelta(minutes=16)) -> SessionRevoked:
    now = door.clock()
    return SessionRevoked(
        event_id="e",
        occurred_at=now,
        session_id=session_id,
        user_id=USER,
        reason="signed-out",
        expires_at=now + lasts,
    )


async def tell(door: Gateway, event: SessionRevoked | None) -> None:
    await door.running.app.state.revocations.take("key", event)


async def whoami(door: Gateway, token: str) -> Any:
    return await door.ask("GET", "/v1/whoami", token=token)


def refused(answer: Any) -> bool:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    return answer.json()["type"].endswith("/invalid-token")


async def test_an_ended_session_is_refused_also_where_its_token_is_known(door: Gateway) -> None:
    known, unseen, other = (
        door.token(session_id="sid_a"),
        door.token(session_id="sid_a"),
        door.token(session_id="sid_b"),
    )
    for token in (known, other):
        assert (await whoami(door, token)).status_code == 200
    for _ in range(2):
        await tell(door, revoked(door, "sid_a"))
    assert refused(await whoami(door, known))
    assert refused(await whoami(door, unseen))
    assert (await whoami(door, other)).status_code == 200
    assert (await whoami(door, door.token())).status_code == 200


async def test_whoever_lost_the_answer_to_an_erasure_is_told_where_to_look(door: Gateway) -> None:
    token = door.token(session_id="sid_a")
    ended = revoked(door, "sid_a").model_copy(update={"reason": "erased", "erasure_id": "ers_1"})
    await tell(door, ended)
    answer = await door.ask("DELETE", "/v1/me", token=token)
    told = answer.json()
    assert (answer.status_code, told["type"].rsplit("/", 1)[1], told["link"]) == (
        401,
        "account-erased",
        "/v1/erasures/ers_1",
    )
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    await tell(door, revoked(door, "sid_b"))
    assert refused(await whoami(door, door.token(session_id="sid_b")))


async def test_an_erasure_is_forgotten_with_its_session(door: Gateway) -> None:
    revocations = door.running.app.state.revocations
    await tell(door, revoked(door, "sid_a").model_copy(update={"erasure_id": "ers_1"}))
    assert revocations.erasure("sid_a") == "ers_1"
    door.clock.ahead += timedelta(minutes=17)
    await tell(door, revoked(door, "sid_b"))
    assert (revocations.erasure("sid_a"), revocations.erasure("sid_b"), revocations.erasure(None)) == (None, None, None)


async def test_a_null_record_and_an_old_revocation_say_nothing(door: Gateway) -> None:
    await tell(door, None)
    await tell(door, revoked(door, "sid_a", lasts=timedelta(seconds=-1)))
    assert (await whoami(door, door.token(session_id="sid_a"))).status_code == 200


async def test_ended_sessions_are_forgotten_when_their_tokens_are_over(door: Gateway) -> None:
    revocations = door.running.app.state.revocations
    for number in range(100):
        await tell(door, revoked(door, f"sid_{number}"))
    assert revocations.cover("sid_7")
    door.clock.ahead = timedelta(minutes=17)
    await tell(door, revoked(door, "sid_new"))
    assert not revocations.cover("sid_7")
    assert revocations.cover("sid_new")


async def test_a_stream_ends_with_its_session_and_no_other(door: Gateway) -> None:
    none_yet = answer({"events": [], "has_more": False, "last_sequence": 0})
    door.services.handlers["webhooks"] = lambda *_: none_yet
    streams = {
        session_id: Stream(door.running.app, {"Authorization": f"Bearer {door.token(session_id=session_id)}"})
        for session_id in ("sid_a", "sid_b")
    }
    for stream in streams.values():
        assert await stream.open() == 200
        assert await stream.block() == "retry: 1000"
    await tell(door, revoked(door, "sid_a"))
    assert await streams["sid_a"].reason() == "session-ended"
    assert not streams["sid_b"].ended
    await streams["sid_b"].close()


class EveryToken:
    """Takes every token for a good one of the session that it names."""

    def __init__(self) -> None:
        self.asked = 0

    async def identity(self, token: str) -> Identity:
        self.asked += 1
        return Identity(Caller(USER, None, frozenset(), token), NEVER)


async def test_known_tokens_are_bounded_and_the_ones_that_fell_out_are_refused_too(door: Gateway) -> None:
    tokens, revocations = EveryToken(), Revocations()
    known = Access(tokens, tokens, revocations, Grants(), Partners())
    headers = [f"Bearer sid_{number}".encode() for number in range(MAX_CACHED + 2)]
    for header in (*headers, headers[-1]):
        await known.identity(header)
    assert tokens.asked == len(headers)
    for session_id in ("sid_0", f"sid_{MAX_CACHED}"):
        await revocations.take("key", revoked(door, session_id))
        with pytest.raises(Problem, match="Sign in again"):
            await known.identity(f"Bearer {session_id}".encode())
    await known.identity(headers[-1])
    assert tokens.asked == len(headers) + 2


async def test_a_gateway_is_not_ready_before_it_knows_who_signed_out() -> None:
    revocations = Revocations()
    with pytest.raises(Unavailable):
        await revocations.ready()
    revocations.caught_up()
    await revocations.ready()


# bad tokens


def claims(door: Gateway, **changed: Any) -> dict[str, Any]:
    settings, now = Settings(), int(door.clock().timestamp())
    good = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "sub": USER,
        "client_id": "first-party",
        "sid": "sid_a",
        "scope": "days:read",
        "iat": now,
        "exp": now + 900,
    }
    return good | changed


def key(door: Gateway) -> OKPKey:
    return load_private_jwk(door.folder / "auth.jwk")


def unsigned(door: Gateway) -> str:
    parts = [{"alg": "none", "typ": "at+jwt", "kid": key(door).kid}, claims(door)]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def under_the_public_key(door: Gateway) -> str:
    secret = OctKey.import_key(key(door).as_dict(private=False)["x"])
    header = {"alg": "HS256", "typ": "at+jwt", "kid": key(door).kid}
    return jws.serialize_compact(header, json.dumps(claims(door)), secret, algorithms=["HS256"])


def now(door: Gateway) -> int:
    return int(door.clock().timestamp())


BAD: dict[str, Callable[[Gateway], str]] = {
    "alg none": unsigned,
    "wrong alg": under_the_public_key,
    "wrong typ": lambda door: signed(key(door), "JWT", claims(door)),
    "internal typ": lambda door: signed(key(door), "internal+jwt", claims(door)),
    "wrong aud": lambda door: signed(key(door), "at+jwt", claims(door, aud="https://elsewhere.example")),
    "wrong iss": lambda door: signed(key(door), "at+jwt", claims(door, iss="https://elsewhere.example")),
    "expired": lambda door: signed(key(door), "at+jwt", claims(door, iat=now(door) - 910, exp=now(door) - 10)),
    "not yet valid": lambda door: signed(key(door), "at+jwt", claims(door, iat=now(door) + 60)),
    "no user": lambda door: signed(key(door), "at+jwt", claims(door, sub=None)),
    "session is a number": lambda door: signed(key(door), "at+jwt", claims(door, sid=1)),
    "session is empty": lambda door: signed(key(door), "at+jwt", claims(door, sid="")),
}


@pytest.mark.parametrize("made", BAD.values(), ids=BAD.keys())
async def test_a_bad_token_is_refused(door: Gateway, made: Callable[[Gateway], str]) -> None:
    assert (await whoami(door, signed(key(door), "at+jwt", claims(door)))).status_code == 200
    assert refused(await whoami(door, made(door)))


async def test_a_flood_of_unknown_keys_reads_the_key_set_once_in_ten_seconds(door: Gateway, tmp_path: Path) -> None:
    generate_key_files(tmp_path / "other")
    foreign = load_private_jwk(tmp_path / "other" / "auth.jwk")
    await whoami(door, door.token())
    for ahead, reads in ((9, 1), (11, 2), (20, 2), (22, 3)):
        door.clock.ahead = timedelta(seconds=ahead)
        flood = [signed(foreign, "at+jwt", claims(door, jti=str(number))) for number in range(20)]
        answers = await asyncio.gather(*(whoami(door, token) for token in flood))
        assert all(refused(answer) for answer in answers)
        assert door.services.count("auth", JWKS) == reads


# with the real auth behind it


@pytest.fixture
async def with_auth(door: Gateway) -> AsyncGenerator[Gateway]:
    """The gateway with the real auth."""
    folder = door.folder
    settings = AuthSettings(
        **common_settings(folder),
        auth_signing_key_path=folder / "auth.jwk",
        auth_pepper_path=folder / "auth-pepper.key",
        kafka_bootstrap_servers="127.0.0.1:9",
    )
    auth = create_auth(settings, broker=make_broker(settings, "auth"), clock=door.clock)
    door.services.apps["auth"] = auth
    async with auth.router.lifespan_context(auth):
        assert (await door.ask("POST", "/v1/users", token=None, json=ACCOUNT, key="u1")).status_code == 201
        yield door


async def sign_in(door: Gateway) -> dict[str, Any]:
    return (await door.ask("POST", "/v1/tokens", token=None, json=ACCOUNT)).json()


async def test_sessions_are_listed_ended_and_refreshed_through_the_gateway(with_auth: Gateway) -> None:
    door = with_auth
    mine, other = await sign_in(door), await sign_in(door)
    listed = (await door.ask("GET", "/v1/me/sessions", token=mine["access_token"])).json()["sessions"]
    assert {one["session_id"]: one["current"] for one in listed} == {
        mine["session_id"]: True,
        other["session_id"]: False,
    }
    gone = await door.ask("DELETE", f"/v1/me/sessions/{other['session_id']}", token=mine["access_token"])
    assert gone.status_code == 204
    old = {"refresh_token": other["refresh_token"]}
    assert (await door.ask("POST", "/v1/tokens/refresh", token=None, json=old)).status_code == 401
    new = {"refresh_token": mine["refresh_token"]}
    next_one = (await door.ask("POST", "/v1/tokens/refresh", token=None, json=new)).json()
    assert (await whoami(door, next_one["access_token"])).status_code == 200
    foreign = await door.ask("DELETE", f"/v1/me/sessions/{mine['session_id']}")
    assert foreign.status_code == 404
    rest = await door.ask("DELETE", "/v1/me/sessions", token=mine["access_token"])
    assert rest.json() == {"ended": 0}


async def test_keys_change_under_load_without_a_refused_token(with_auth: Gateway) -> None:
    door = with_auth
    await whoami(door, (await sign_in(door))["access_token"])
    held: list[tuple[timedelta, str]] = []
    kids: set[str] = set()
    _, signs_from = add_key(door.folder / "auth.jwk", door.clock())
    for minute in range(0, 40, 2):
        door.clock.ahead = timedelta(minutes=minute)
        token = (await sign_in(door))["access_token"]
        held = [(until, old) for until, old in held if until > door.clock.ahead]
        held.append((door.clock.ahead + timedelta(minutes=15), token))
        kids.add(json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"])
        for _, one in held:
            assert (await whoami(door, one)).status_code == 200
    assert len(kids) == 2
    published = (await door.ask("GET", JWKS, token=None)).json()["keys"]
    assert len(published) == 1
    assert door.clock() > signs_from


async def test_the_metadata_names_everything_that_is_there(with_auth: Gateway) -> None:
    for path in ("", "/auth"):
        answered = await with_auth.ask("GET", f"/.well-known/oauth-authorization-server{path}", token=None)
        told = answered.json()
        assert (told["issuer"], answered.status_code) == (Settings().token_issuer, 200)
        for name, where in (
            ("authorization_endpoint", "/oauth/authorize"),
            ("token_endpoint", "/oauth/token"),
            ("revocation_endpoint", "/oauth/revoke"),
            ("introspection_endpoint", "/oauth/introspect"),
            ("jwks_uri", "/.well-known/jwks.json"),
        ):
            assert told[name] == f"https://mymacrotracker.dev{where}"
            method = "GET" if name in ("authorization_endpoint", "jwks_uri") else "POST"
            served = {(route.method, route.path) for route in ROUTES}
            assert (method, where) in served
        assert told["response_types_supported"] == ["code"]
        assert told["grant_types_supported"] == ["authorization_code", "refresh_token", "client_credentials"]
        assert told["code_challenge_methods_supported"] == ["S256"]
        assert told["authorization_response_iss_parameter_supported"] is True
        assert told["token_endpoint_auth_methods_supported"] == ["client_secret_basic", "client_secret_post"]
    other = await with_auth.ask("GET", "/.well-known/oauth-authorization-server/other", token=None)
    assert other.status_code == 404


async def test_a_new_key_is_published_before_it_signs(with_auth: Gateway) -> None:
    door = with_auth
    path, signs_from = add_key(door.folder / "auth.jwk", door.clock())
    new = load_private_jwk(path)
    door.clock.ahead = timedelta(seconds=11)
    published = (await door.ask("GET", JWKS, token=None)).json()["keys"]
    assert {one["kid"] for one in published} == {key(door).kid, new.kid}
    assert not any("d" in one for one in published)
    settings = Settings()
    early = sign_access_token(
        new,
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        user_id=USER,
        scopes=(),
        now=door.clock().timestamp(),
    )
    assert (await whoami(door, early)).status_code == 200
    assert signs_from - door.clock() > timedelta(seconds=JWKS_FRESH_S + JWKS_PAUSE_S)
