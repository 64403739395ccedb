"""How many long answers may be on their way, which hold a connection each for as long as their caller likes."""

from collections import Counter

from shared.callers import Caller
from shared.errors import Problem

# The other calls need the rest of the connections.
MAX_FLOWING = 96
# Of one user, or of one partner for one: who reads slowly holds up no one else.
MAX_FLOWING_EACH = 12
RETRY_AFTER_S = "10"

# A user and a partner, either of which may be nobody.
Account = tuple[str | None, str | None]


class Flows:
    """The long answers of this process by caller."""

    def __init__(self) -> None:
        self._now: Counter[Account] = Counter()

    def begin(self, caller: Caller) -> Account:
        """One more, on the account that is returned.

        Raises:
            Problem: 429 the caller has too many, 503 all together have.
        """
        account = caller.user_id, caller.partner_id
        if self._now[account] >= MAX_FLOWING_EACH:
            raise Problem(
                429,
                "too-many-long-answers",
                f"Read one of your {MAX_FLOWING_EACH} long answers that are on their way to its end first.",
                headers={"Retry-After": RETRY_AFTER_S},
            )
        if self._now.total() >= MAX_FLOWING:
            raise Problem(
                503,
                "overloaded",
                "Too many long answers are on their way. Ask again later, or for pages instead of a stream.",
                headers={"Retry-After": RETRY_AFTER_S},
            )
        self._now[account] += 1
        return account

    def end(self, account: Account) -> None:
        """One less."""
        self._now[account] -= 1
        if not self._now[account]:
            del self._now[account]
