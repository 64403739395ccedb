"""How several runs of pytest become one verdict."""

import pytest

from infra.local.testing import NOTHING_COLLECTED, verdict


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0, 0], 0),
        ([0, 1, 0], 1),
        ([2, 1, 0], 2),
        ([0, NOTHING_COLLECTED, NOTHING_COLLECTED], 0),
        ([NOTHING_COLLECTED, 1, NOTHING_COLLECTED], 1),
        ([NOTHING_COLLECTED] * 3, NOTHING_COLLECTED),
    ],
)
def test_a_run_without_tests_counts_only_where_all_are_without(codes: list[int], expected: int) -> None:
    assert verdict(codes) == expected
