"""The plan of docs/scaling.md is what the code says, and its arithmetic holds in the simulation."""

from pathlib import Path

from benchmarks.scaling import FULL, LATE_MS, USERS, Habits, plan, simulate, table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
# So many that stream that one process of ingest would not do.
BUSY = plan(80_000, Habits(streaming=1.0))


def test_the_page_shows_the_plan() -> None:
    assert table([plan(users) for users in USERS]) in DOCS.read_text()


def test_what_is_planned_is_the_sum_of_its_parts() -> None:
    small, large = plan(1_000), plan(100_000)
    for part, busy in small.cores.items():
        assert abs(large.cores[part] - 100 * busy) < 1e-9
    habits = Habits()
    a_day = habits.posts + habits.streaming * habits.streamed_posts
    assert abs(large.posts_per_s - 100_000 * a_day * habits.peak / 86_400) < 1e-9
    assert large.machines_cores * FULL >= sum(large.cores.values())


def test_planned_instances_keep_up_and_are_as_busy_as_planned() -> None:
    planned = BUSY.instances["ingest"]
    seen = simulate(BUSY, planned, seconds=10)
    assert planned > 1
    assert seen.p99_ms < LATE_MS
    assert abs(seen.busiest - BUSY.cores["ingest"] / planned) < 0.05


def test_too_few_instances_fall_behind() -> None:
    seen = simulate(BUSY, 1, seconds=10)
    assert seen.busiest >= 1
    assert seen.p99_ms > 10 * LATE_MS
