"""Names are looked up side by side, and those that nobody answers hold up none that somebody does."""

import asyncio
import threading
from collections.abc import AsyncGenerator

import pytest

from services.webhooks.lookups import THREADS, Lookups

SOON_S, WITHIN_S = 0.05, 5.0


class Names:
    """A name server that leaves names unanswered while they are in `silent`."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.over = threading.Event()

    def resolve(self, host: str) -> list[str]:
        if host in self.silent:
            self.over.wait(30)
        if host == "nowhere":
            raise OSError("no such name")
        return ["192.0.2.1"]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def lookups(names: Names) -> AsyncGenerator[Lookups]:
    one = Lookups(names.resolve)
    yield one
    names.over.set()
    one.close()


async def unanswered(lookups: Lookups, hosts: set[str]) -> int:
    found = await asyncio.gather(*(lookups.addresses(host, SOON_S) for host in hosts), return_exceptions=True)
    return sum(isinstance(one, TimeoutError) for one in found)


async def test_names_that_nobody_answers_hold_up_none_that_was_answered(lookups: Lookups, names: Names):
    assert await lookups.addresses("good", WITHIN_S) == ["192.0.2.1"]
    names.silent = {f"silent-{number}" for number in range(2 * THREADS)}
    assert await unanswered(lookups, names.silent) == 2 * THREADS
    assert await lookups.addresses("good", WITHIN_S) == ["192.0.2.1"]
    # One that was not looked up before has to wait.
    assert await unanswered(lookups, {"new"}) == 1


async def test_a_name_that_falls_silent_counts_as_answered_no_more(lookups: Lookups, names: Names):
    hosts = {f"host-{number}" for number in range(THREADS - 1)}
    await asyncio.gather(*(lookups.addresses(host, WITHIN_S) for host in (*hosts, "good")))
    names.silent = hosts
    assert await unanswered(lookups, hosts) == len(hosts)
    assert await lookups.addresses("good", WITHIN_S) == ["192.0.2.1"]
    names.over.set()
    with pytest.raises(OSError, match="no such name"):
        await lookups.addresses("nowhere", WITHIN_S)
