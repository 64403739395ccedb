"""`./mymacro faults`: nothing acknowledged is lost or doubled, and planted defects turn the suite red."""

import os
from pathlib import Path
from random import Random

import pytest

from infra.local.instance import on_free_ports
from tests.faults import small_disks
from tests.faults.cluster import CLUSTER_FAULTS
from tests.faults.injections import FAULTS
from tests.faults.ledger import Ledger, Sample
from tests.faults.load import Mark
from tests.faults.poison import Letter, repeated
from tests.faults.suite import PLANTED, Plan, run
from tests.faults.supervisor import parts
from tests.faults.verdict import Row, Rows, Verdict, compare, rows_of, strangers, wrong_receipts

# Two minutes on two free cores; the others wait 15 to 25 s each.
SHORT = (
    "broker-killed",
    "gateway-killed",
    "gateway-stopped",
    "ingest-killed-while-locked",
    "database-full",
    "rebalance",
    "first-batches",
)
on_request = pytest.mark.skipif(not os.environ.get("MYMACRO_TEST_ALL"), reason="runs with ./mymacro test --all")


def green(found: Verdict) -> bool:
    rows = "; ".join(f"{row.mark.name}: {row.lost} lost, {row.duplicates} twice" for row in found.rows)
    assert not found.red, f"{found.wrong}; {rows}"
    assert all(row.mark.in_flight for row in found.rows[1:])
    return True


@pytest.mark.timeout(600)
def test_what_is_acknowledged_is_found_exactly_once_whatever_dies():
    found = run(Plan(0, 1, SHORT), [].append)
    assert green(found)
    assert [row.mark.name for row in found.rows[1:]] == Plan(0, 1, SHORT).order(Random(1))
    assert found.total("acknowledged") >= 30_000
    assert found.poison > 0
    assert found.days > 0


@on_request
@pytest.mark.timeout(1200)
def test_every_fault_of_the_list_loses_nothing():
    found = run(Plan(2, 2), [].append)
    assert green(found)
    assert {row.mark.name for row in found.rows[1:]} | set(found.not_run) == set(FAULTS)
    assert found.total("acknowledged") >= 100_000


@on_request
@pytest.mark.timeout(1500)
def test_every_fault_of_a_cluster_loses_nothing():
    found = run(Plan(3, 3, cluster=True), [].append)
    assert green(found)
    assert {row.mark.name for row in found.rows[1:]} == set(CLUSTER_FAULTS)
    assert found.total("acknowledged") >= 100_000


@on_request
@pytest.mark.timeout(600)
def test_with_two_of_three_brokers_dead_nothing_is_half_accepted_and_it_recovers_by_itself():
    found = run(Plan(0, 1, ("majority-lost",), cluster=True), [].append)
    assert green(found)
    assert "answered 503" in found.rows[1].mark.note


@on_request
@pytest.mark.timeout(600)
def test_a_leader_lost_with_its_followers_behind_takes_nothing_with_it():
    found = run(Plan(0, 1, ("leader-lost",), cluster=True), [].append)
    assert green(found)


@on_request
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("planted", "found_as"), [("commit-early", "lost"), ("acks-1", "lost"), ("no-dedupe", "duplicates")]
)
def test_a_planted_defect_turns_the_suite_red(planted: str, found_as: str):
    faults, cluster = PLANTED[planted]
    found = run(Plan(0.3, 1, faults, planted, cluster), [].append)
    assert found.red
    assert found.total(found_as) > 0


# The comparison itself, without a stack.


def a_batch(tmp_path: Path) -> tuple[Ledger, Rows]:
    """One acknowledged batch whose receipt adds up, and its samples as stored."""
    ledger = Ledger(tmp_path / "ledger")
    batch = ledger.fresh("user-1", Random(1), 6)
    ledger.acknowledge(batch, "rcp_1")
    batch.receipt = {"state": "stored", "received": 6, "stored": 6, "duplicates": 0, "corrections": 0, "refused": []}
    return ledger, Rows({(sample.place, float(sample.value)): 1 for sample in batch.samples})


def compared(ledger: Ledger, found: Rows, *marks: Mark) -> list[Row]:
    rows = rows_of(marks)
    compare(rows, ledger, "user-1", found)
    return rows


def one_of(ledger: Ledger) -> Sample:
    return ledger.batches[0].samples[0]


def test_a_full_comparison_finds_nothing_wrong(tmp_path: Path):
    ledger, found = a_batch(tmp_path)
    (row,) = compared(ledger, found)
    assert (row.acknowledged, row.stored, row.lost, row.duplicates) == (6, 6, 0, 0)
    assert strangers(ledger, "user-1", found) == 0
    assert wrong_receipts(ledger) == []


def test_a_sample_that_is_missing_or_changed_is_lost(tmp_path: Path):
    ledger, found = a_batch(tmp_path)
    place, value = one_of(ledger).place, one_of(ledger).value
    del found[place, value]
    found[place, value + 1] = 1
    (row,) = compared(ledger, found)
    assert (row.stored, row.lost) == (5, 1)
    assert strangers(ledger, "user-1", found) == 1


def test_a_sample_found_twice_is_a_duplicate_and_its_copy_is_not(tmp_path: Path):
    ledger, found = a_batch(tmp_path)
    copy = ledger.copy(ledger.batches[0], Random(2))
    ledger.acknowledge(copy, "rcp_2")
    (row,) = compared(ledger, found)
    assert (row.acknowledged, row.duplicates) == (6, 0)
    found[one_of(ledger).place, one_of(ledger).value] = 2
    (row,) = compared(ledger, found)
    assert row.duplicates == 1


def test_samples_count_for_the_fault_they_were_first_sent_after(tmp_path: Path):
    ledger, found = a_batch(tmp_path)
    ledger.batches[0].sent_at = 20.0
    rows = compared(ledger, found, Mark("early", hit_at=10.0), Mark("late", hit_at=30.0))
    assert [row.acknowledged for row in rows] == [0, 6, 0]


@pytest.mark.parametrize(
    "changed",
    [{"duplicates": 1}, {"state": "failed"}, {"received": 5, "stored": 5}, {"stored": 5, "refused": [[0, "x"]]}],
)
def test_a_receipt_that_does_not_add_up_is_wrong(tmp_path: Path, changed: dict[str, object]):
    ledger, _ = a_batch(tmp_path)
    ledger.batches[0].receipt = {**(ledger.batches[0].receipt or {}), **changed}
    assert wrong_receipts(ledger)


def test_a_receipt_that_never_came_is_wrong(tmp_path: Path):
    ledger, _ = a_batch(tmp_path)
    ledger.batches[0].receipt = None
    assert wrong_receipts(ledger)


def test_the_same_seed_gives_the_same_order_and_the_same_samples(tmp_path: Path):
    assert Plan(1, 7).order(Random(7)) == Plan(1, 7).order(Random(7)) != Plan(1, 8).order(Random(8))
    first, second = (Ledger(tmp_path / name).fresh("u", Random(3), 20) for name in ("a", "b"))
    assert first.body() == second.body()


def test_a_second_letter_of_the_same_record_is_a_repeat_and_one_of_another_is_not():
    first, second = Letter(b"x", 0, 7, 1.0), Letter(b"x", 0, 8, 1.0)
    assert repeated([first, second]) == []
    assert repeated([first, second, first]) == [first]


def test_where_nothing_can_be_mounted_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = small_disks.mount(on_free_ports(tmp_path), ["objects"])
    assert found["objects"].startswith("no small file system can be mounted here")


def test_parts_are_exchanged_for_planted_ones_in_every_process_of_a_service(tmp_path: Path):
    plan = Plan(1, 1, planted="acks-1", cluster=True)
    instance = on_free_ports(tmp_path, only="kafka,gateway,ingest,auth", cluster=True)
    found = {part.name: part for part in parts(instance, plan.exchanged())}
    assert {"kafka-1", "kafka-2", "kafka-3"} <= found.keys()
    for name in ("gateway-1", "gateway-2"):
        assert found[name].command[2:] == ["tests.faults.planted", "acks-1", "services.gateway.app"]
    assert found["auth-1"].command[2:] == ["services.auth.app"]
    assert found["ingest-3"].env["KAFKA_BOOTSTRAP_SERVERS"].count(",") == 2
    assert found["ingest-3"].env["INSTANCE"] == "ingest-3"
    assert len({part.port for part in found.values()}) == len(found) == 3 + 2 + 3 + 2
