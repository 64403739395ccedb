"""What must happen once, once more with auth's documents in MongoDB, which knows no transaction."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

# These tests alone, run here with this module's `oat` and `desk`.
from tests.service.gateway_edges import MovableClock
from tests.service.partnering import Desk, Partner, desk_of
from tests.service.test_auth_grants import (  # noqa: F401 - the same tests on MongoDB
    test_a_decision_made_twice_is_told_once,
    test_a_grant_that_comes_to_life_again_begins_anew,
    test_of_a_grant_and_its_end_at_once_the_later_counts,
    test_operators_see_partners_and_addresses_only_when_they_ask_for_one,
    test_whatever_is_done_is_in_the_audit_log,
)
from tests.service.test_auth_managed_users import (  # noqa: F401 - the same tests on MongoDB
    test_the_same_request_twice_makes_one_user,
    test_users_are_listed_in_pages_to_their_own_partner_alone,
)
from tests.service.test_auth_partner_keys import (  # noqa: F401 - the same tests on MongoDB
    test_a_key_ends_when_it_said_or_when_its_partner_says,
    test_a_rotated_key_is_good_for_the_overlap,
    test_another_body_under_a_used_key_makes_and_ends_nothing,
    test_of_different_bodies_under_one_key_at_once_one_counts,
    test_of_equal_rotations_at_once_one_is_given_the_key,
    test_the_same_request_twice_makes_one_key,
)
from tests.service.test_auth_partners import (  # noqa: F401 - the same tests on MongoDB
    test_of_many_equal_registrations_at_once_one_is_given_the_secret,
    test_the_same_rotation_twice_makes_one_secret,
    test_who_was_not_approved_in_three_months_is_forgotten,
)


@pytest.fixture
async def desk(tmp_path: Path, fake_mongo: str) -> AsyncGenerator[Desk]:
    async with desk_of(tmp_path, MovableClock(), database_url=f"{fake_mongo}/{tmp_path.name}") as one:
        yield one


@pytest.fixture
async def oat(desk: Desk) -> Partner:
    return Partner(desk, (await desk.active())["partner_id"])
