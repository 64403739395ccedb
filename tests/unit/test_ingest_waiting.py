"""Those who wait for a receipt are told, and there are never too many of them."""

from services.ingest.waiting import Waiting


def test_all_who_wait_for_a_receipt_are_told_and_nobody_else() -> None:
    waiting = Waiting()
    first, second, other = waiting.join("r1"), waiting.join("r1"), waiting.join("r2")
    assert first is not None
    assert second is not None
    assert other is not None
    waiting.told(["r1", "r3"])
    assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)
    waiting.leave("r1", first)
    first.clear()
    waiting.told(["r1"])
    assert not first.is_set()


def test_only_so_many_wait() -> None:
    waiting = Waiting(most=2)
    first = waiting.join("r1")
    assert first is not None
    assert waiting.join("r2") is not None
    assert waiting.join("r3") is None
    waiting.leave("r1", first)
    assert waiting.join("r3") is not None
