"""Nobody reads what is not theirs: every route by every caller, on whole services, with data behind every route."""

import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from services.gateway.routes import ROUTES
from services.ingest.api import _days_of as days_of
from shared.callers import SCOPES
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


READS = [route for route in ROUTES if route.rate == "read" and route.about_users]
DAY = [route for route in ROUTES if route.path == "/v1/days/{date}"]


class EverybodysDays:
    """Ingest's days without the user in the question: whoever asks gets the owner's."""

    def __init__(self, world: World) -> None:
        self._days = world.whole.apps["ingest"].state.days
        self._owner = world.owner.user_id

    async def day(self, _: str, date: date) -> Any:
        return await self._days.day(self._owner, date)


async def test_the_matrix_is_red_with_a_check_taken_out(world: World) -> None:
    assert not (await examined(world, READS, CASES)).leaks

    grants = world.whole.apps["gateway"].state.grants
    asked = grants.scopes
    grants.scopes = lambda *_: frozenset(SCOPES)
    without_grants = await examined(world, READS, CASES)
    grants.scopes = asked
    for role in ("partner without a grant", "partner of a revoked grant"):
        assert {one.split(" as ")[0] for one in without_grants.leaks if f" as {role} " in one} >= {
            f"GET {route.path}" for route in READS if CASES["GET", route.path].shows
        }

    overrides = world.whole.apps["ingest"].dependency_overrides
    overrides[days_of] = lambda: EverybodysDays(world)
    without_users = await examined(world, DAY, CASES)
    overrides.clear()
    assert [one.split(" (")[0] for one in without_users.leaks] == ["GET /v1/days/{date} as other user"]
    assert not (await examined(world, DAY, CASES)).leaks


async def test_the_matrix_is_red_when_a_grant_gives_more_than_its_scopes(world: World) -> None:
    grants = world.whole.apps["gateway"].state.grants
    asked = grants.scopes
    grants.scopes = lambda *of: frozenset(SCOPES) if asked(*of) is not None else None
    leaks = (await examined(world, READS, CASES)).leaks
    assert {one.split(" as ")[1].split(" (")[0] for one in leaks} == {"partner of other scopes"}
    assert {one.split(" as ")[0] for one in leaks} >= {
        f"GET {route.path}" for route in READS if CASES["GET", route.path].shows
    }


async def test_the_matrix_is_red_when_not_yours_and_not_there_differ(world: World) -> None:
    key = ("GET", "/v1/sessions/{session_id}")
    route = [one for one in ROUTES if (one.method, one.path) == key]
    too_long = {key: replace(CASES[key], ids={"session_id": ("session", "a" * 5000)})}
    assert not (await examined(world, route, CASES)).wrong
    wrong = (await examined(world, route, too_long)).wrong
    assert wrong
    assert all("unlike what is nowhere" in one for one in wrong)
