"""Refresh tokens against a model: whatever is presented when, in whatever order, at most one token lives."""

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.auth import sessions
from services.auth.audit import LINES
from services.auth.session_documents import CUTOFFS, SESSIONS, Session
from services.auth.tokens import RefreshTokens
from shared.documents import Documents, open_documents
from shared.errors import Problem
from shared.outbox import Relay

START = datetime(2026, 3, 1, tzinfo=UTC)
STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 20, 31, 3600, 20 * 86400, 31 * 86400])),
    max_size=12,
)


@dataclass
class Deps:
    """What sessions need: a database, a clock that stands still, and a relay that nobody runs."""

    store: SimpleNamespace
    relay: Relay
    refresh_tokens: RefreshTokens
    now: datetime = START

    def clock(self) -> datetime:
        return self.now


@dataclass
class Model:
    """What is left of the session after `last` exchanges."""

    last: int = 0
    used_at: datetime = START
    alive: bool = True

    def expected(self, presented: int, now: datetime) -> int | None:
        """Which token the answer holds, None for a refusal."""
        last = self.last
        if not self.alive or now >= min(self.used_at + timedelta(days=30), START + timedelta(days=90)):
            return None
        if presented == last:
            self.used_at, self.last = now, last + 1
            return self.last
        if presented == last - 1 and now - self.used_at <= timedelta(seconds=30):
            return last
        self.alive = False
        return None


async def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing is published here")


async def answer(deps: Deps, token: str) -> str | None:
    try:
        return (await sessions.refresh(deps, token))[1]
    except Problem:
        return None


@dataclass
class Outcome:
    """Which token each answer held and should have held, None for a refusal; and what the session came to."""

    answered: list[int | None]
    expected: list[int | None]
    session: Session
    alive: bool


async def follow(documents: Documents, steps: list[tuple[int, int]]) -> Outcome:
    deps = Deps(SimpleNamespace(documents=documents), Relay(documents, (SESSIONS,), never), RefreshTokens(b"s" * 32))
    session, text = await sessions.start(deps, "usr_1", "", asked_at=START)
    model, tokens = Model(), [text]
    answered: list[int | None] = []
    expected: list[int | None] = []
    for back, seconds in steps:
        deps.now += timedelta(seconds=seconds)
        presented = max(0, len(tokens) - 1 - back)
        expected.append(model.expected(presented, deps.now))
        text = await answer(deps, tokens[presented])
        if text is not None and text not in tokens:
            tokens.append(text)
        answered.append(tokens.index(text) if text is not None else None)
    stored = await documents.get(SESSIONS, session.id)
    assert stored is not None
    return Outcome(answered, expected, stored, model.alive)


async def outcome(steps: list[tuple[int, int]]) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        documents = open_documents(f"sqlite:///{folder}", "auth")
        await documents.open([SESSIONS, CUTOFFS, LINES])
        try:
            return await follow(documents, steps)
        finally:
            await documents.close()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_at_most_one_token_lives_whatever_is_presented(steps: list[tuple[int, int]]) -> None:
    found = asyncio.run(outcome(steps))
    assert found.answered == found.expected
    assert (found.session.ended_at is None) == found.alive
    assert len(found.session.outbox) == (0 if found.alive else 1)
