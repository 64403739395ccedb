"""Internal tokens, and routes that know their callers by them."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request

from shared.access_tokens import sign_access_token
from shared.callers import ANONYMOUS, OPERATOR_SCOPE, SCOPES, Caller
from shared.errors import Problem
from shared.identity import caller_of, install_identity, require
from shared.internal_tokens import InternalTokenSigner, InternalTokenVerifier
from shared.keys import generate_key_files, load_private_jwk, public_jwks

NOW = 1_800_000_000.0
USER = Caller("user-1", None, frozenset({"days:read"}))


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
