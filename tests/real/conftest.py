"""Tests in this folder run on a whole stack of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_stack import Stack, running_stack

# The first test of a session waits for the start, and faults take their time to heal.
TIMEOUT_S = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def kafka() -> Iterator[Stack]:
    """A broker alone, for tests that kill it."""
    with running_stack(only="kafka") as found:
        yield found


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole stack, ready, with the demo user and partner; stopped and removed at the end, come what may."""
    with running_stack() as found:
        yield found
