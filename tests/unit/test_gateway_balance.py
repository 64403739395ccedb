"""In which order the processes of a service are asked."""

import pytest

from services.gateway.balance import AVOIDED_S, HANGS_S, Turns


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_process_has_its_turn() -> None:
    turns = Turns(["a", "b", "c"])
    assert [turns.order()[0] for _ in range(6)] == ["b", "c", "a", "b", "c", "a"]
    assert sorted(turns.order()) == ["a", "b", "c"]


def test_one_that_refused_is_asked_last_for_a_while() -> None:
    clock = Clock()
    turns = Turns(["a", "b"], clock)
    turns.avoid("a")
    assert [turns.order() for _ in range(3)] == [["b", "a"]] * 3
    clock.now += AVOIDED_S
    assert {turns.order()[0] for _ in range(2)} == {"a", "b"}


def test_when_all_refused_each_has_its_turn_again() -> None:
    turns = Turns(["a", "b"], Clock())
    turns.avoid("a")
    turns.avoid("b")
    assert {turns.order()[0] for _ in range(2)} == {"a", "b"}


def test_a_single_process_is_always_asked() -> None:
    turns = Turns(["a"], Clock())
    turns.avoid("a")
    assert turns.order() == ["a"]


def test_one_that_answers_nobody_is_asked_last_until_it_does() -> None:
    clock = Clock()
    turns = Turns(["a", "b"], clock)
    with turns.asking("a"):
        clock.now += HANGS_S + 0.1
        assert [turns.order() for _ in range(3)] == [["b", "a"]] * 3
        with turns.asking("a"):
            clock.now += 0.1
        assert {turns.order()[0] for _ in range(2)} == {"a", "b"}, "a slow answer is no sign while others come"
    assert {turns.order()[0] for _ in range(2)} == {"a", "b"}


def test_an_answer_from_before_is_no_sign_of_life() -> None:
    clock = Clock()
    turns = Turns(["a", "b"], clock)
    with turns.asking("a"):
        clock.now += 0.1
    clock.now += 1
    with turns.asking("a"):
        clock.now += HANGS_S + 0.1
        assert turns.order() == ["b", "a"]


def test_a_failure_is_no_answer() -> None:
    clock = Clock()
    turns = Turns(["a", "b"], clock)
    with turns.asking("a"):
        clock.now += HANGS_S + 0.1
        with pytest.raises(TimeoutError), turns.asking("a"):
            raise TimeoutError
        assert turns.order() == ["b", "a"]
