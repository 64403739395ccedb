"""Nobody reads what is not theirs: every route by every caller, on whole services, with data behind every route."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.gateway.routes import ROUTES
from tests.flows.matrix import ROLES, examined
from tests.flows.matrix_cases import CASES
from tests.flows.matrix_world import World, built
from tests.flows.whole import whole


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setenv("AUTH_PARTNER_APPROVAL", "auto")
    async with whole(tmp_path) as running:
        yield await built(running)


def test_every_route_has_a_case_and_every_case_a_route() -> None:
    assert CASES.keys() == {(route.method, route.path) for route in ROUTES}


async def test_nobody_reads_what_is_not_theirs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = await examined(world, ROUTES, CASES)
    with capsys.disabled():
        sys.stdout.write(f"\n{verdict.summary(ROUTES)}\n")
    assert not verdict.leaks, "\n".join(verdict.leaks)
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert len(verdict.covered) == len(ROUTES) * len(ROLES)
