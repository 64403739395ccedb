"""How often passwords and codes may be tried, so that neither guessers get far nor owners are locked out.

* An account, from anywhere: 20 attempts at once, then one each 30 min; after 100 failures without a success no more
  (NIST 800-63B-4 §3.2.2), until its owner signs in from a familiar network or sets a new password by mail. It is
  counted in the database: so it survives restarts and holds across processes. An account has a slot of its own, for in
  a shared one a stranger's own success would forget its failures. Addresses of nobody fall into one of 65,536 slots,
  which are counted alike: so they need bounded space, and answers tell nobody which addresses are known.
* A familiar network, one that this user signed in from during 90 days, has a bucket of its own in place of that: 10
  attempts, then one each 10 min. So whoever spends the account's attempts does not keep its owner out at home.
* One network: 100 failures at once, then one each 6 s; and all unfamiliar ones together: 500, then the setting's rate.

The last three are in memory and start anew with the process. A success gives its attempt back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import NoReturn

from msgspec.structs import replace

from services.auth.accounts import Familiar, Pepper, User
from services.auth.store import GuessSlot, Store
from services.auth.throttle import Buckets, Rate
from shared.client_address import network_of
from shared.clock import Clock, truncated
from shared.documents import Conflict
from shared.errors import Problem

SLOTS = 65_536
MOST_FAILURES = 100
ACCOUNT = Rate(20, 1800)
FAMILIAR = Rate(10, 600)
NETWORK = Rate(100, 6)
LETTERS = Rate(3, 1200)
LETTERS_OF_NETWORK = Rate(20, 60)
# Of partners, each of which may lie there for 90 days: 1440 a day from one network, and no more from all together.
REGISTRATIONS = Rate(100, 60)
REGISTRATIONS_OF_ALL = Rate(1000, 60)
BURST_OF_ALL = 500
FAMILIAR_FOR = timedelta(days=90)
FAMILIAR_NETWORKS = 5
SEEN_AGAIN = timedelta(days=1)
CLOSED_S = 3600
ATTEMPTS = 5
ALL = "all"


@dataclass(frozen=True)
class Ticket:
    """Leave for one attempt; `slot` is None for a familiar network."""

    buckets: tuple[tuple[Buckets, str], ...]
    slot: str
    counted: bool


class Guesses:
    """Lets attempts pass or not."""

    def __init__(self, store: Store, pepper: Pepper, clock: Clock, *, per_s: float = 5) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._networks = Buckets(NETWORK)
        self._everybody = Buckets(Rate(BURST_OF_ALL, 1 / per_s))
        self._familiar = Buckets(FAMILIAR)
        self._letters = Buckets(LETTERS)
        self._letters_of_network = Buckets(LETTERS_OF_NETWORK)
        self._registrations = Buckets(REGISTRATIONS)
        self._registrations_of_all = Buckets(REGISTRATIONS_OF_ALL)

    async def admit(self, email: str, user: User | None, address: str) -> Ticket:
        """Leave to try a password of `email`, which is that of `user` if there is one.

        Raises:
            Problem: 429.
        """
        network = network_of(address)
        buckets: tuple[tuple[Buckets, str], ...] = ((self._networks, network),)
        familiar = user is not None and is_familiar(user, self._pepper, network, self._clock())
        if user is not None and familiar:
            buckets += ((self._familiar, f"{user.id} {network}"),)
        else:
            buckets += ((self._everybody, ALL),)
        slot = _slot_of(user) if user is not None else f"slot-{self._pepper.guess_slot(email, SLOTS):05d}"
        self._take(buckets)
        if not familiar:
            try:
                await self._take_slot(slot)
            except BaseException:
                _give_back(buckets)
                raise
        return Ticket(buckets, slot, not familiar)

    def admit_own(self, user_id: str) -> Callable[[], None]:
        """Leave for a signed-in user to try the own password or a code; call the answer after a success.

        Raises:
            Problem: 429.
        """
        buckets = ((self._familiar, f"{user_id} signed in"),)
        self._take(buckets)
        return lambda: _give_back(buckets)

    def admit_letter(self, email: str, address: str) -> None:
        """Leave to have a letter sent to `email`, known or not: three at once, then one each 20 min.

        Raises:
            Problem: 429.
        """
        self._take(((self._letters, self._pepper.email_hash(email)), (self._letters_of_network, network_of(address))))

    def admit_registration(self, address: str) -> None:
        """Leave for anybody to register a partner.

        Raises:
            Problem: 429.
        """
        buckets = ((self._registrations, network_of(address)), (self._registrations_of_all, ALL))
        wait_s = self._taken(buckets)
        if wait_s > 0:
            raise Problem(
                429,
                "too-many-registrations",
                "Too many partners register right now. Wait as long as Retry-After says, then send the same again.",
                headers={"Retry-After": str(ceil(wait_s))},
            )

    async def right(self, ticket: Ticket) -> None:
        """The attempt was right."""
        await self.untried(ticket)
        await self._change_slot(ticket.slot, lambda slot: replace(slot, failures=0))

    async def untried(self, ticket: Ticket) -> None:
        """The attempt was not looked at."""
        _give_back(ticket.buckets)
        if ticket.counted:
            back = timedelta(seconds=ACCOUNT.every_s)
            await self._change_slot(
                ticket.slot, lambda slot: replace(slot, full_at=slot.full_at - back, failures=max(0, slot.failures - 1))
            )

    async def reopen(self, user: User) -> None:
        """The owner of the address has proved it: forget the failures."""
        now = truncated(self._clock())
        await self._change_slot(_slot_of(user), lambda found: replace(found, failures=0, full_at=now))

    async def forget(self, user: User) -> None:
        """The account is gone: keep nothing of it."""
        await self._store.delete_guesses(_slot_of(user))

    def _take(self, buckets: tuple[tuple[Buckets, str], ...]) -> None:
        wait_s = self._taken(buckets)
        if wait_s > 0:
            too_many(wait_s)

    def _taken(self, buckets: tuple[tuple[Buckets, str], ...]) -> float:
        """0 once one of each was taken, else for how many seconds to wait."""
        now = self._clock().timestamp()
        wait_s = max(bucket.wait_s(key, now) for bucket, key in buckets)
        if wait_s <= 0:
            for bucket, key in buckets:
                bucket.take(key, now)
        return wait_s

    async def _take_slot(self, id: str) -> None:
        for _ in range(ATTEMPTS):
            now = truncated(self._clock())
            slot = await self._store.guesses(id) or GuessSlot(id=id, full_at=now)
            if slot.failures >= MOST_FAILURES:
                too_many(CLOSED_S)
            wait_s = ACCOUNT.wait_s(slot.full_at.timestamp(), now.timestamp())
            if wait_s > 0:
                too_many(wait_s)
            full_at = datetime.fromtimestamp(ACCOUNT.taken(slot.full_at.timestamp(), now.timestamp()), UTC)
            try:
                await self._store.put_guesses(replace(slot, full_at=truncated(full_at), failures=slot.failures + 1))
            except Conflict:
                continue
            return
        too_many(1)

    async def _change_slot(self, id: str, change: Callable[[GuessSlot], GuessSlot]) -> None:
        for _ in range(ATTEMPTS):
            slot = await self._store.guesses(id)
            if slot is None or (changed := change(slot)) == slot:
                return
            try:
                await self._store.put_guesses(changed)
            except Conflict:
                continue
            return


def _slot_of(user: User) -> str:
    return f"account-{user.id}"


def is_familiar(user: User, pepper: Pepper, network: str, now: datetime) -> bool:
    """Whether the user signed in from this network during the last 90 days."""
    hashed = pepper.familiar_hash(user.id, network)
    return any(one.hash == hashed and now - one.seen_at < FAMILIAR_FOR for one in user.familiar)


def seen_from(user: User, pepper: Pepper, address: str, now: datetime) -> User:
    """The user with this address's network among the last five; itself while that is known for today."""
    if not address:
        return user
    hashed = pepper.familiar_hash(user.id, network_of(address))
    if any(one.hash == hashed and now - one.seen_at < SEEN_AGAIN for one in user.familiar):
        return user
    others = tuple(one for one in user.familiar if one.hash != hashed)
    return replace(user, familiar=(*others, Familiar(hash=hashed, seen_at=truncated(now)))[-FAMILIAR_NETWORKS:])


def too_many(wait_s: float) -> NoReturn:
    """Raise Problem(429)."""
    raise Problem(
        429,
        "too-many-attempts",
        "Too many attempts. Wait as long as Retry-After says, sign in from where you did before, or set a new password "
        "by mail: POST /v1/password-resets.",
        headers={"Retry-After": str(max(1, ceil(wait_s)))},
    )


def _give_back(buckets: tuple[tuple[Buckets, str], ...]) -> None:
    for bucket, key in buckets:
        bucket.give_back(key)
