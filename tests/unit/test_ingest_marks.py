"""Marks on days: they forget nothing until the day is computed, and say when that is due."""

from datetime import UTC, date, datetime, timedelta

from msgspec.structs import replace

from services.ingest.marks import DAY_PAUSE, DAY_PAUSE_BEHIND, Touch, marked
from services.ingest.workers import to_compute

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def touch(*metrics: str, hours: tuple[int, int] = (10, 11), reason: str = "late-data", zone: str = "") -> Touch:
    return Touch("user-1", date(2026, 3, 1), *hours, metrics, reason, zone=zone)


def test_a_first_touch_is_due_at_once() -> None:
    mark = marked(None, touch("steps", zone="Europe/Berlin"), NOW)
    assert (mark.id, mark.due_at, mark.metrics, mark.changed) == ("user-1/2026-03-01", NOW, ("steps",), ("steps",))
    assert (mark.from_hour, mark.to_hour, mark.zone) == (10, 11, "Europe/Berlin")


def test_touches_add_up_until_the_day_is_computed() -> None:
    mark = marked(marked(None, touch("steps"), NOW), touch("heart_rate", hours=(8, 9), reason="correction"), NOW)
    assert (mark.changed, mark.from_hour, mark.to_hour) == (("heart_rate", "steps"), 8, 11)
    # New samples stay the reason beside a correction.
    assert mark.reason == "late-data"
    clean = replace(mark, due_at=None, changed=(), reason="", computed_at=NOW, rests_until=NOW + DAY_PAUSE)
    again = marked(clean, touch("steps", reason="correction"), NOW + SECOND)
    assert (again.changed, again.metrics, again.reason) == (("steps",), ("heart_rate", "steps"), "correction")


def test_a_day_rests_before_it_is_computed_again() -> None:
    clean = replace(marked(None, touch("steps"), NOW), due_at=None, computed_at=NOW, rests_until=NOW + DAY_PAUSE)
    assert marked(clean, touch("steps"), NOW + SECOND).due_at == NOW + DAY_PAUSE
    assert marked(clean, touch("steps"), NOW + 60 * SECOND).due_at == NOW + 60 * SECOND
    waiting = marked(clean, touch("steps"), NOW + SECOND)
    assert marked(waiting, touch("steps"), NOW + 1.5 * SECOND).due_at == NOW + DAY_PAUSE


def test_a_day_touched_while_it_is_computed_rests_as_long_as_last_time() -> None:
    claimed = replace(marked(None, touch("steps"), NOW), attempts=1)
    assert marked(claimed, touch("steps"), NOW).due_at == NOW + DAY_PAUSE
    behind = replace(claimed, computed_at=NOW, rests_until=NOW + DAY_PAUSE_BEHIND)
    assert (marked(behind, touch("steps"), NOW).due_at, marked(behind, touch("steps"), NOW).attempts) == (
        NOW + DAY_PAUSE_BEHIND,
        0,
    )


def test_energies_are_computed_together_and_what_is_not_said_is_everything() -> None:
    mark = marked(None, touch("energy_active", "steps"), NOW)
    assert to_compute(mark) == {"steps", "energy_active", "energy_basal", "energy_total"}
    assert to_compute(replace(mark, changed=())) == to_compute(mark)
    assert {"heart_rate", "sleep", "workout"} <= to_compute(replace(mark, changed=(), metrics=()))
    assert to_compute(marked(None, touch("a_metric_of_old"), NOW)) == frozenset()
