"""Access tokens: what is taken, and everything that must not be."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from shared.access_tokens import ACCESS_TYPE, access_caller, sign_access_token
from shared.callers import Caller
from shared.errors import Problem
from shared.identity import check_scope
from shared.keys import load_jwks, public_jwks
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
