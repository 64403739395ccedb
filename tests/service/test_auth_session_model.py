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
from services.auth.sessions import CUTOFFS, SESSIONS
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
    """The tokens in the order in which they came, and what is left of the session."""

    tokens: list[str]
    used_at: datetime = START
    alive: bool = True

    def expected(self, presented: int, now: datetime) -> int | None:
        """Which token the answer holds, None for a refusal."""
        last = len(self.tokens) - 1
        if not self.alive or now >= min(self.used_at + timedelta(days=30), START + timedelta(days=90)):
            return None
        if presented == last:
            self.used_at = now
            return last + 1
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


async def follow(documents: Documents, steps: list[tuple[int, int]]) -> None:
    deps = Deps(SimpleNamespace(documents=documents), Relay(documents, (SESSIONS,), never), RefreshTokens(b"s" * 32))
    session, text = await sessions.start(deps, "usr_1", "", asked_at=START)
    model = Model([text])
    for back, seconds in steps:
        deps.now += timedelta(seconds=seconds)
        presented = max(0, len(model.tokens) - 1 - back)
        expected = model.expected(presented, deps.now)
        answered = await answer(deps, model.tokens[presented])
        if expected is None:
            assert answered is None
            continue
        if expected == len(model.tokens):
            assert answered not in model.tokens
            model.tokens.append(str(answered))
        assert model.tokens[expected] == answered
    stored = await documents.get(SESSIONS, session.id)
    assert stored is not None
    assert (stored.ended_at is None) == model.alive
    assert len(stored.outbox) == (0 if model.alive else 1)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_at_most_one_token_lives_whatever_is_presented(steps: list[tuple[int, int]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            documents = open_documents(f"sqlite:///{folder}", "auth")
            await documents.open([SESSIONS, CUTOFFS, LINES])
            try:
                await follow(documents, steps)
            finally:
                await documents.close()

    asyncio.run(run())
