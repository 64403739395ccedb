"""Tokens and keys: what is taken, and everything that must not be."""

import base64
import hashlib
import hmac
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey
from starlette.requests import Request

from shared.access_tokens import ACCESS_TYPE, access_caller, sign_access_token
from shared.callers import ANONYMOUS, OPERATOR_SCOPE, SCOPES, Caller
from shared.errors import Problem
from shared.identity import caller_of, check_scope, install_identity, require
from shared.internal_tokens import InternalTokenSigner, InternalTokenVerifier
from shared.keys import generate_key_files, is_api_key, load_jwks, load_private_jwk, new_api_key, public_jwks
from shared.tokens import UnknownKey, verified

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://issuer.example", "https://api.example"
USER = Caller("user-1", None, frozenset({"days:read"}))
CLAIMS = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "user-1",
    "client_id": "first-party",
    "iat": int(NOW),
    "exp": int(NOW) + 900,
    "scope": "days:read",
}

KEY = OKPKey.generate_key("Ed25519", auto_kid=True)
OTHER = OKPKey.generate_key("Ed25519", auto_kid=True)
KEYS = load_jwks(public_jwks([KEY]))


def token(claims: dict[str, Any] | None = None, key: Any = KEY, **header: object) -> str:
    fields = {"alg": "EdDSA", "typ": "at+jwt", "kid": KEY.kid, **header}
    present = {name: value for name, value in fields.items() if value is not None}
    wanted = {**CLAIMS, **(claims or {})}
    return jwt.encode(present, wanted, key, algorithms=[str(fields["alg"])], default_type=None)


def verify(text: str) -> Caller:
    claims = verified(text, KEYS, token_type=ACCESS_TYPE, issuer=ISSUER, audience=AUDIENCE, now=NOW)
    return access_caller(claims)


def unsigned() -> str:
    parts = [{"alg": "none", "typ": "at+jwt", "kid": KEY.kid}, CLAIMS]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def signed_with_the_public_key() -> str:
    """HMAC under what everybody knows: the public key's PEM."""
    pem = KEY.as_pem(private=False)
    parts = [{"alg": "HS256", "typ": "at+jwt", "kid": KEY.kid}, CLAIMS]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    mac = hmac.new(pem, ".".join(encoded).encode(), hashlib.sha256).digest()
    return ".".join([*encoded, base64.urlsafe_b64encode(mac).rstrip(b"=").decode()])


def tampered() -> str:
    head, body, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "user-2"}).encode()).rstrip(b"=").decode()
    return f"{head}.{forged}.{signature}"


REFUSED: dict[str, Callable[[], str]] = {
    "alg none": unsigned,
    "public key as HMAC secret": signed_with_the_public_key,
    "HMAC": lambda: token(key=OctKey.generate_key(256), alg="HS256"),
    "another key under the same kid": lambda: token(key=OTHER),
    "changed claims": tampered,
    "no signature": lambda: token().rsplit(".", 1)[0] + ".",
    "typ JWT": lambda: token(typ="JWT"),
    "typ internal": lambda: token(typ="internal+jwt"),
    "no typ": lambda: token(typ=None),
    "other audience": lambda: token({"aud": "https://elsewhere.example"}),
    "audience list": lambda: token({"aud": [AUDIENCE, "x"]}),
    "other issuer": lambda: token({"iss": "https://elsewhere.example"}),
    "expired": lambda: token({"exp": int(NOW) - 6}),
    "not yet": lambda: token({"iat": int(NOW) + 6}),
    "no exp": lambda: token({"exp": None}),
    "exp text": lambda: token({"exp": "never"}),
    "exp true": lambda: token({"exp": True}),
    "no subject": lambda: token({"sub": None}),
    "empty subject": lambda: token({"sub": ""}),
    "no client": lambda: token({"client_id": None}),
    "empty client": lambda: token({"client_id": ""}),
    "partner with a session": lambda: token({"client_id": "user-1", "sid": "s"}),
    "partner for a user, no session": lambda: token({"client_id": "p1", "grant_revision": 1}),
    "partner for a user, no grant": lambda: token({"client_id": "p1", "sid": "s"}),
    "partner for a user, grant true": lambda: token({"client_id": "p1", "sid": "s", "grant_revision": True}),
    "critical header": lambda: token().replace(*_with_crit()),
    "empty": lambda: "",
    "words": lambda: "no token at all",
    "dots": lambda: "..",
    "huge": lambda: "a" * 100_000,
    "header is a list": lambda: base64.urlsafe_b64encode(b"[]").decode() + ".e30.AA",
    "header is a deep list": lambda: base64.urlsafe_b64encode(b"[" * 6_000).decode() + ".e30.AA",
}


def test_a_token_names_a_user_a_partner_or_a_partner_for_a_user() -> None:
    scopes = frozenset({"days:read"})
    assert verify(token({"sid": "s"})) == Caller("user-1", None, scopes, "s")
    assert verify(token({"sub": "p1", "client_id": "p1"})) == Caller(None, "p1", scopes)
    for_a_user = token({"client_id": "p1", "sid": "s", "grant_revision": 3})
    assert verify(for_a_user) == Caller("user-1", "p1", scopes, "s")


def test_a_partner_for_a_user_is_no_partner_itself() -> None:
    both = Caller("user-1", "p1", frozenset({"webhooks:write", "days:read", "profile:read"}))
    check_scope(both, "days:read")
    with pytest.raises(Problem, match="user's token"):
        check_scope(both, "profile:read")
    with pytest.raises(Problem, match="partner's token"):
        check_scope(both, "webhooks:write", kind="partner")


def _with_crit() -> tuple[str, str]:
    head = token().split(".", 1)[0]
    fields = json.loads(base64.urlsafe_b64decode(head + "=="))
    return head, base64.urlsafe_b64encode(json.dumps({**fields, "crit": ["x"]}).encode()).rstrip(b"=").decode()


def test_a_good_access_token_names_its_user() -> None:
    text = sign_access_token(KEY, issuer=ISSUER, audience=AUDIENCE, user_id="user-1", scopes=["days:read"], now=NOW)
    assert verify(text) == USER
    assert json.loads(base64.urlsafe_b64decode(text.split(".")[0] + "==")) == {
        "typ": "at+jwt",
        "alg": "EdDSA",
        "kid": KEY.kid,
    }


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_access_token_is_401(made: Callable[[], str]) -> None:
    with pytest.raises(Problem) as refused:
        verify(made())
    assert (refused.value.status, refused.value.code) == (401, "invalid-token")
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(("claims", "told"), [({"exp": int(NOW) - 6}, True), ({"iat": int(NOW) + 6}, False)])
def test_only_a_token_that_has_expired_is_called_so(claims: dict[str, int], told: bool) -> None:
    with pytest.raises(Problem) as refused:
        verify(token(claims))
    assert ("expired" in refused.value.detail) is told


@pytest.mark.parametrize("kid", ["someone", None, ""])
def test_a_token_of_an_unknown_key_says_so(kid: str | None) -> None:
    with pytest.raises(UnknownKey):
        verify(token(key=OTHER, kid=kid))


@given(st.text(max_size=200))
def test_no_text_is_more_than_a_401(text: str) -> None:
    with pytest.raises(Problem):
        verify(text)


def test_clocks_may_differ_by_a_few_seconds() -> None:
    assert verify(token({"exp": int(NOW) - 3})) == USER
    assert verify(token({"iat": int(NOW) + 3})) == USER


def test_a_set_gives_public_halves_and_takes_only_our_kind() -> None:
    document = public_jwks([KEY])
    assert "d" not in document["keys"][0]
    assert document["keys"][0]["kid"] == KEY.thumbprint()
    document["keys"].append({"kty": "oct", "k": "c2VjcmV0"})
    assert len(load_jwks(document).keys) == 1
    with pytest.raises(ValueError, match="not a JWK set"):
        load_jwks({"keys": "none"})


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_key_files(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(keys: Path, clock: Clock) -> InternalTokenSigner:
    return InternalTokenSigner(keys / "internal.jwk", clock=clock)


@pytest.fixture
def verifier(keys: Path, clock: Clock) -> InternalTokenVerifier:
    return InternalTokenVerifier(keys / "internal-jwks.json", "ingest", clock=clock)


@pytest.mark.parametrize(
    "caller",
    [
        ANONYMOUS,
        USER,
        Caller(None, "partner-1", frozenset({"webhooks:write"})),
        Caller(None, "partner-1", frozenset({"partner:write"}), key_ends_at=NOW + 0.125),
        Caller("u", "p", frozenset(SCOPES)),
    ],
)
def test_the_caller_survives_the_way_to_a_service(
    signer: InternalTokenSigner, verifier: InternalTokenVerifier, caller: Caller
) -> None:
    assert verifier.caller(signer.token(caller, "ingest")) == caller


def test_a_token_is_reused_for_30_s_and_valid_for_60(
    signer: InternalTokenSigner, verifier: InternalTokenVerifier, clock: Clock
) -> None:
    first = signer.token(USER, "ingest")
    clock.now += 29
    assert signer.token(USER, "ingest") == first
    clock.now += 2
    assert signer.token(USER, "ingest") != first
    clock.now += 28
    assert verifier.caller(first) == USER
    clock.now += 7
    with pytest.raises(Problem):
        verifier.caller(first)


def test_no_caller_is_signed_as_an_operator(signer: InternalTokenSigner, verifier: InternalTokenVerifier) -> None:
    scopes = frozenset({"days:read", OPERATOR_SCOPE})
    for caller in (Caller("user-1", None, scopes), Caller(None, "partner-1", scopes), Caller(None, None, scopes)):
        assert verifier.caller(signer.token(caller, "ingest")).scopes == {"days:read"}
    assert verifier.caller(signer.operator_token("ingest")) == Caller(None, None, frozenset({OPERATOR_SCOPE}))
    assert OPERATOR_SCOPE not in SCOPES
    with pytest.raises(Problem):
        verifier.caller(signer.operator_token("insights"))


def test_a_token_for_another_service_is_refused(signer: InternalTokenSigner, verifier: InternalTokenVerifier) -> None:
    with pytest.raises(Problem):
        verifier.caller(signer.token(USER, "insights"))


def test_an_access_token_is_no_internal_token(keys: Path, verifier: InternalTokenVerifier) -> None:
    key = load_private_jwk(keys / "internal.jwk")
    with pytest.raises(Problem):
        verifier.caller(sign_access_token(key, issuer="gateway", audience="ingest", user_id="u", scopes=[], now=NOW))


def test_during_rotation_both_keys_are_known(
    keys: Path, signer: InternalTokenSigner, verifier: InternalTokenVerifier, clock: Clock, tmp_path: Path
) -> None:
    old = signer.token(USER, "ingest")
    verifier.caller(old)
    generate_key_files(tmp_path / "new")
    new_key = tmp_path / "new" / "internal.jwk"
    new = InternalTokenSigner(new_key, clock=clock).token(USER, "ingest")
    with pytest.raises(Problem):
        verifier.caller(new)
    both = public_jwks([load_private_jwk(keys / "internal.jwk"), load_private_jwk(new_key)])
    (keys / "internal-jwks.json").write_text(json.dumps(both))
    assert verifier.caller(new) == verifier.caller(old) == USER


def test_a_missing_key_set_is_our_fault_not_the_callers(tmp_path: Path, signer: InternalTokenSigner) -> None:
    with pytest.raises(Problem) as refused:
        InternalTokenVerifier(tmp_path / "nowhere.json", "ingest").caller(signer.token(USER, "ingest"))
    assert refused.value.status == 503


def request(verifier: InternalTokenVerifier, authorization: str | None) -> Request:
    app = FastAPI()
    install_identity(app, verifier)
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return Request({"type": "http", "app": app, "headers": headers})


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer junk"])
async def test_a_request_without_a_token_is_401(verifier: InternalTokenVerifier, authorization: str | None) -> None:
    with pytest.raises(Problem) as refused:
        await caller_of(request(verifier, authorization))
    assert refused.value.status == 401


@pytest.mark.parametrize(
    ("caller", "kind", "allowed"),
    [
        (Caller("u", None, frozenset({"days:read"})), "user", True),
        (Caller("u", None, frozenset({"diary:read"})), "user", False),
        (ANONYMOUS, "user", False),
        (Caller(None, "p", frozenset({"days:read"})), "user", False),
        (Caller(None, "p", frozenset({"days:read"})), "partner", True),
        (Caller("u", None, frozenset({"days:read"})), "partner", False),
    ],
)
async def test_a_route_takes_its_scope_and_kind_only(
    signer: InternalTokenSigner, verifier: InternalTokenVerifier, caller: Caller, kind: Any, allowed: bool
) -> None:
    checked = require("days:read", kind).dependency
    asked = request(verifier, f"Bearer {signer.token(caller, 'ingest')}")
    if allowed:
        assert await checked(asked) == caller
        return
    with pytest.raises(Problem) as refused:
        await checked(asked)
    assert (refused.value.status, refused.value.code) == (403, "insufficient-scope")


def test_a_misspelt_scope_is_found_at_start() -> None:
    with pytest.raises(ValueError, match="no such scope"):
        require("day:read")


def test_key_files_are_private_and_made_once(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert set(before) == {
        "internal.jwk",
        "internal-jwks.json",
        "receipts.key",
        "auth.jwk",
        "auth-pepper.key",
        "secrets.key",
        "demo-partner.key",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys.iterdir())
    assert len(bytes.fromhex((keys / "receipts.key").read_text())) == 32
    generate_key_files(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_a_public_key_is_not_taken_for_a_private_one(keys: Path) -> None:
    path = keys / "public.jwk"
    path.write_text(json.dumps(public_jwks([KEY])["keys"][0]))
    with pytest.raises(ValueError, match="not an Ed25519 private key"):
        load_private_jwk(path)


def test_api_keys_carry_their_checksum() -> None:
    key = new_api_key()
    assert is_api_key(key)
    assert key != new_api_key()
    wrong = "A" if key[-1] != "A" else "B"
    for other in (key[:-1] + wrong, key[:-1], key + "A", key.removeprefix("mmt_"), "", "mmt_", "mmt_" + "é" * 36):
        assert not is_api_key(other)
