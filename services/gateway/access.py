"""Who calls, by its `Authorization` header, and whether it still may: known tokens and keys cost next to nothing.

What a partner may do is looked up with every call, so that nothing of it is remembered longer than it is true.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from services.gateway.grants import Grants, Partners
from services.gateway.identities import Identity
from services.gateway.refusals import auth_unavailable, erased, inactive, not_found, unauthorized
from services.gateway.revocations import Revocations
from services.gateway.verifiers import KeyVerifier, TokenVerifier
from shared.callers import Caller
from shared.errors import Problem
from shared.events.auth import SessionRevoked
from shared.keys import API_KEY_PREFIX

MAX_CACHED = 10_000
# A verified token is verified again after a minute; the signature costs 0.1 ms.
TOKEN_CACHED_S = 60


class Access:
    """Identities by `Authorization` header."""

    def __init__(
        self,
        tokens: TokenVerifier,
        keys: KeyVerifier,
        revocations: Revocations,
        grants: Grants,
        partners: Partners,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._revocations = revocations
        self._grants = grants
        self._partners = partners
        self._clock = clock
        self._cached: dict[bytes, tuple[Identity, float]] = {}
        # So that a known token costs nothing more: what is revoked is taken out of the cache.
        self._headers: dict[str, set[bytes]] = {}
        revocations.tell(self._revoked)

    async def identity(self, header: bytes | None) -> Identity:
        """Who calls; of a partner that calls for a user, with the scopes that its grant has now.

        Raises:
            Problem: 401 no valid token or key, or its session was ended, or its partner may not call; 404 the grant
                that it was given for is no more; 503 auth is needed to say so and does not answer.
        """
        if header is None:
            raise unauthorized("Send `Authorization: Bearer` with an access token or a partner key.")
        cached = self._cached.get(header)
        if cached is not None and self._clock() < cached[1]:
            return self._now(cached[0])
        scheme, _, credential = header.decode("latin-1").partition(" ")
        # Spaces alone: what else could be cut off would be one key by another name.
        credential = credential.lstrip(" ")
        if scheme.lower() != "bearer" or not credential:
            raise unauthorized("Send `Authorization: Bearer` with an access token or a partner key.")
        if credential.startswith(API_KEY_PREFIX):
            return self._now(await self._keys.identity(credential))
        identity = await self._tokens.identity(credential)
        now = self.still(identity)
        self._remember(header, identity)
        return now

    def still(self, identity: Identity) -> Identity:
        """One that was good a moment ago, as it is now. Raises as `identity` does."""
        # Before its session: a grant that is revoked ends that too, and the answer must not depend on which is first.
        now = self._now(identity)
        session_id = identity.caller.session_id
        if self._revocations.cover(session_id):
            erasure_id = self._revocations.erasure(session_id)
            # No partner is told of an erasure but by its message.
            if erasure_id is not None and identity.caller.partner_id is None:
                raise erased(erasure_id)
            raise unauthorized("This session was ended. Sign in again.", "invalid_token")
        return now

    def acting(self, caller: Caller, user_id: str | None, scope: str) -> Caller:
        """The caller for the user that it names, where the call needs `scope`.

        Raises:
            Problem: 404 no such user, or none that lets it; 422 a partner that names nobody; 503 not known yet.
        """
        if caller.user_id is not None:
            if user_id not in (None, caller.user_id):
                raise not_found()
            return caller
        if user_id is None or caller.partner_id is None:
            raise Problem(422, "user-required", "Add ?user=<user_id> to the address: whose data is meant.")
        scopes = self._granted(caller, user_id)
        if scope not in scopes:
            raise not_found()
        return Caller(user_id, caller.partner_id, scopes)

    def _now(self, identity: Identity) -> Identity:
        caller = identity.caller
        if caller.partner_id is None:
            return identity
        # Before all of the topic is read, what is known of a partner may be long over.
        if not self._partners.known:
            raise auth_unavailable()
        if not self._partners.active(caller.partner_id):
            raise inactive()
        if caller.user_id is None:
            return identity
        scopes = self._granted(caller, caller.user_id, identity.grant_revision)
        now = Caller(caller.user_id, caller.partner_id, scopes, caller.session_id)
        return replace(identity, caller=now, narrowed=caller.scopes - scopes)

    def _granted(self, caller: Caller, user_id: str, issued: int | None = None) -> frozenset[str]:
        # As with partners: a revocation may come after the grant that is known.
        if not self._grants.known:
            raise auth_unavailable()
        scopes = self._grants.scopes(user_id, caller.partner_id or "", issued)
        if scopes is None:
            raise not_found()
        return caller.scopes & scopes

    def _remember(self, header: bytes, identity: Identity) -> None:
        # By one spelling, or by adding spaces one token would drive out all others.
        if header.count(b" ") != 1:
            return
        if len(self._cached) >= MAX_CACHED:
            self._forget(next(iter(self._cached)))
        self._cached[header] = (identity, min(identity.expires_at, self._clock() + TOKEN_CACHED_S))
        if identity.caller.session_id is not None:
            self._headers.setdefault(identity.caller.session_id, set()).add(header)

    def _forget(self, header: bytes) -> None:
        session_id = self._cached.pop(header)[0].caller.session_id
        if session_id is not None:
            headers = self._headers[session_id]
            headers.discard(header)
            if not headers:
                del self._headers[session_id]

    def _revoked(self, event: SessionRevoked) -> None:
        for header in tuple(self._headers.get(event.session_id, ())):
            self._forget(header)
