"""A route within its limits: whose account a call is on, and what every answer says of that.

* A user: the class of the route (read, write, sign-in, stream). A partner's app that acts for the user has buckets of
  its own in each class, so that it cannot use up the user's.
* A partner: its quota for all of its calls, and beside it a limit for each of its keys, and one for all the tokens of
  its secret. One user with a token of the partner's app gets a quarter of the quota at most, so that nobody spends it
  for all.
* Nobody yet, on routes for anyone: the network that the call comes from, an IPv4 address or an IPv6 /64.
* A network whose calls fail for want of a good token or key: after so many, unknown tokens and keys from there are not
  looked at any more for a while. Those that were good lately are, so a bad neighbour locks nobody out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.entry import IDENTITY, LEFT
from services.gateway.headers import FORWARDED_FOR, headers_of
from services.gateway.identities import Identities, Identity
from services.gateway.rates import Buckets, Charge, MemoryBuckets, Policy, Taken, rate_limited, told
from services.gateway.routes import RateClass, Route
from shared.callers import Caller
from shared.client_address import Network, network_of, origin
from shared.errors import Problem
from shared.keys import API_KEY_PREFIX

QUOTA_WINDOW_S = 60
MOST_GOOD = 10_000
# Nobody's token, or one whose grant is no more.
FAILED = (401, 404)
KEY_PREFIX = API_KEY_PREFIX.encode()
# Bytes of an X-Forwarded-For whose network is remembered.
LONGEST_KEPT = 256

QuotaOf = Callable[[str], int | None]


def no_quota(_: str) -> int | None:
    """No partner has a quota of its own."""
    return None


@dataclass(frozen=True)
class Policies:
    """What is allowed: `users`, and `networks` on routes for anyone, by class; `partner_quota` in calls a minute."""

    users: Mapping[RateClass, Policy]
    networks: Mapping[RateClass, Policy]
    failed: Policy
    key: Policy
    partner_quota: int
    quota_of: QuotaOf = no_quota

    def partner(self, partner_id: str) -> Policy:
        """The partner's quota now."""
        own = self.quota_of(partner_id)
        return _quota(self.partner_quota if own is None else max(1, own))


@lru_cache(1024)
def _quota(calls: int) -> Policy:
    return Policy("partner", calls, QUOTA_WINDOW_S)


@lru_cache(1024)
def _share(quota: int) -> Policy:
    """What one user with a partner's token may use of the partner's quota: enough is left for the others."""
    return Policy("partner-user", max(1, quota // 4), QUOTA_WINDOW_S)


class Rates:
    """The limits with what they need. `own` are this process's buckets: what fails is counted where it costs."""

    def __init__(
        self, policies: Policies, buckets: Buckets, own: MemoryBuckets, trusted_proxies: Sequence[Network] = ()
    ) -> None:
        self.policies = policies
        self.buckets = buckets
        self.own = own
        self.good = Lately(MOST_GOOD)
        self._trusted = tuple(trusted_proxies)
        self._known_network = lru_cache(4096)(self._network)

    def network(self, peer: str, forwarded_for: bytes | None) -> str:
        """The network a request came from. X-Forwarded-For counts where a trusted proxy wrote it, else for nothing."""
        if not self._trusted or forwarded_for is None:
            return self._known_network(peer, b"")
        if len(forwarded_for) > LONGEST_KEPT:
            return self._network(peer, forwarded_for)
        return self._known_network(peer, forwarded_for)

    def _network(self, peer: str, forwarded_for: bytes) -> str:
        return network_of(origin(peer, forwarded_for.decode("latin-1"), self._trusted))


class Lately:
    """Headers that were good lately, by their hash. One that has another's hash is looked at, and nothing more."""

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._young: set[int] = set()
        self._old: set[int] = set()

    def add(self, header: bytes) -> None:
        """Remember it."""
        if len(self._young) >= self._half:
            self._young, self._old = set(), self._young
        self._young.add(hash(header))

    def discard(self, header: bytes) -> None:
        """Forget it."""
        self._young.discard(hash(header))
        self._old.discard(hash(header))

    def __contains__(self, header: bytes) -> bool:
        number = hash(header)
        if number in self._young:
            return True
        if number not in self._old:
            return False
        # Whoever goes on is not forgotten because many others came.
        self.add(header)
        return True


class Limited:
    """A route's application, held to its limits; `SecurityHeaders` says on every answer what is left of them."""

    def __init__(self, app: ASGIApp, route: Route, identities: Identities, rates: Rates) -> None:
        self._app = app
        self._route = route
        self._identities = identities
        self._rates = rates
        self._anyone = route.caller == "anyone"
        self._of_user = rates.policies.users[route.rate]
        self._of_network = rates.policies.networks[route.rate]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises Problem: 429 over a limit, and what the application raises."""
        # As the application does: the refusals here are of this route too.
        scope["route"] = self._route
        charges = await self._charges(scope)
        taken = await self._rates.buckets.take(charges)
        scope[LEFT] = told(charges, taken)
        if not taken.allowed:
            raise rate_limited(charges, taken)
        await self._app(scope, receive, send)

    async def _charges(self, scope: Scope) -> list[Charge]:
        headers = headers_of(scope)
        if self._anyone:
            return [Charge(self._of_network, self._network(scope))]
        authorization = headers.get(b"authorization")
        caller = await self._caller(scope, authorization)
        if caller.partner_id is None:
            return [Charge(self._of_user, caller.user_id or "")]
        return self._of_partner(caller, caller.partner_id, authorization or b"")

    async def _caller(self, scope: Scope, authorization: bytes | None) -> Caller:
        """Who calls. Raises Problem: 401, 404, 429 too many of these for this network, 503."""
        if authorization is not None and authorization in self._rates.good:
            try:
                identity = await self._identities.identity(authorization)
            except Problem as problem:
                if problem.status in FAILED:
                    self._rates.good.discard(authorization)
                    self._failure(scope)
                raise
        else:
            identity = await self._stranger(scope, authorization)
        # So that the application need not look again.
        scope[IDENTITY] = identity
        return identity.caller

    async def _stranger(self, scope: Scope, authorization: bytes | None) -> Identity:
        """Who it is that was not good lately. It is a failure until it is known to be none.

        Or as many as come while auth is asked about one of them would all be let through.
        """
        failures, taken = self._failure(scope)
        if not taken.allowed:
            raise rate_limited(failures, taken)
        failed = False
        try:
            identity = await self._identities.identity(authorization)
        except Problem as problem:
            failed = problem.status in FAILED
            raise
        finally:
            if not failed:
                self._rates.own.give_back(failures)
                del scope[LEFT]
        # By one spelling, or by adding spaces one token would drive out all others.
        if authorization is not None and authorization.count(b" ") == 1:
            self._rates.good.add(authorization)
        return identity

    def _failure(self, scope: Scope) -> tuple[list[Charge], Taken]:
        failures = [Charge(self._rates.policies.failed, self._network(scope))]
        taken = self._rates.own.take_now(failures)
        scope[LEFT] = told(failures, taken)
        return failures, taken

    def _of_partner(self, caller: Caller, partner_id: str, authorization: bytes) -> list[Charge]:
        quota = Charge(self._rates.policies.partner(partner_id), partner_id)
        if caller.user_id is not None:
            subject = f"{caller.user_id} {partner_id}"
            return [Charge(self._of_user, subject), Charge(_share(quota.policy.quota), subject), quota]
        # What comes after the scheme, however that is written. All tokens that one client's secret gets are one.
        credential = authorization.rpartition(b" ")[2]
        is_key = credential.startswith(KEY_PREFIX)
        subject = blake2b(credential, digest_size=16).hexdigest() if is_key else partner_id
        return [Charge(self._rates.policies.key, subject), quota]

    def _network(self, scope: Scope) -> str:
        client = scope.get("client")
        return self._rates.network(client[0] if client else "", headers_of(scope).get(FORWARDED_FOR))
