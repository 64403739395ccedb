"""How several runs of pytest become one verdict."""

import sys

import pytest

from infra.local import testing
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


def test_each_part_says_what_it_is_before_its_tests(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(testing, "_pytest", lambda paths, _: [sys.executable, "-c", f"print('ran', {paths[0]!r})"])
    assert testing.run(["-q"]) == 0
    said = [line.split(":")[0] for line in capfd.readouterr().out.splitlines() if line]
    assert said == [
        "1 of 3, one at a time",
        "ran tests/unit",
        "2 of 3, all together",
        "ran tests",
        "3 of 3, faults",
        "ran tests/faults",
    ]
