"""Internal tokens, by which the gateway tells one service who calls; operators' commands sign such ones too."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc.jwk import KeySet

from shared.callers import ANONYMOUS, OPERATOR_SCOPE, Caller
from shared.errors import Problem
from shared.keys import load_jwks, load_private_jwk
from shared.tokens import UnknownKey, claimed_scopes, signed, verified

INTERNAL_TYPE = "internal+jwt"
INTERNAL_ISSUER = "gateway"
INTERNAL_LIFETIME_S = 60
INTERNAL_REUSE_S = 30
CACHED_TOKENS = 4096


class InternalTokenSigner:
    """Signs who the caller is, for one service at a time; used by the gateway, and by operators' commands."""

    def __init__(self, key_path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._key = load_private_jwk(Path(key_path))
        self._clock = clock
        self._cache: OrderedDict[tuple[Caller, str], tuple[float, str]] = OrderedDict()

    def token(self, caller: Caller, audience: str) -> str:
        """A token of 60 s for the service `audience`, never an operator's; the same one is given again for 30 s."""
        now = self._clock()
        cached = self._cache.get((caller, audience))
        if cached is not None and now < cached[0]:
            return cached[1]
        token = signed(self._key, INTERNAL_TYPE, _internal_claims(caller, audience, int(now)))
        self._cache[(caller, audience)] = (now + INTERNAL_REUSE_S, token)
        self._cache.move_to_end((caller, audience))
        while len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return token

    def operator_token(self, audience: str) -> str:
        """A token of 60 s with which the holder of the gateway's key operates the service `audience`."""
        claims = _internal_claims(ANONYMOUS, audience, int(self._clock())) | {"scope": OPERATOR_SCOPE}
        return signed(self._key, INTERNAL_TYPE, claims)


class InternalTokenVerifier:
    """Reads the gateway's tokens; knows the old and the new key during rotation."""

    def __init__(self, jwks_path: Path, audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(jwks_path)
        self._audience = audience
        self._clock = clock
        self._keys = KeySet([])
        self._read_mtime_ns = -1
        self._cache: OrderedDict[str, tuple[float, Caller]] = OrderedDict()

    def caller(self, token: str) -> Caller:
        """The caller that `token` speaks for.

        Raises:
            Problem: 401.
        """
        now = self._clock()
        cached = self._cache.get(token)
        if cached is not None and now < cached[0]:
            return cached[1]
        claims = self._claims(token, now)
        caller = Caller(
            claims.get("sub"), claims.get("act"), claimed_scopes(claims), claims.get("sid"), claims.get("key_ends_at")
        )
        self._cache[token] = (float(claims["exp"]), caller)
        while len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return caller

    def _claims(self, token: str, now: float) -> dict[str, Any]:
        try:
            return self._verified(token, now)
        except UnknownKey:
            if not self._read_again():
                raise
            return self._verified(token, now)

    def _verified(self, token: str, now: float) -> dict[str, Any]:
        return verified(
            token, self._keys, token_type=INTERNAL_TYPE, issuer=INTERNAL_ISSUER, audience=self._audience, now=now
        )

    def _read_again(self) -> bool:
        # Made-up key ids cost one stat, not one read.
        try:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns == self._read_mtime_ns:
                return False
            self._keys = load_jwks(json.loads(self._path.read_text()))
        except (OSError, ValueError) as error:
            raise Problem(503, "keys-unavailable", "Try again later.", headers={"Retry-After": "5"}) from error
        self._read_mtime_ns = mtime_ns
        return True


def _internal_claims(caller: Caller, audience: str, now: int) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": INTERNAL_ISSUER,
        "aud": audience,
        "scope": " ".join(sorted(caller.scopes - {OPERATOR_SCOPE})),
        "iat": now,
        "exp": now + INTERNAL_LIFETIME_S,
    }
    if caller.user_id is not None:
        claims["sub"] = caller.user_id
    if caller.partner_id is not None:
        claims["act"] = caller.partner_id
    if caller.session_id is not None:
        claims["sid"] = caller.session_id
    if caller.key_ends_at is not None:
        claims["key_ends_at"] = caller.key_ends_at
    return claims
