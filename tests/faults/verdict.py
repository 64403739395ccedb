"""The comparison: every acknowledged sample is found exactly once, receipts add up, days tell the ledger's sums."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.faults.door import Door, Refused
from tests.faults.ledger import METRICS, SECOND_US, Ledger, Place, micros_of, time_text
from tests.faults.load import Mark
from tests.faults.poison import Letter, Poison, letters, repeated
from tests.polling import eventually

DAYS_S = 120.0
LETTERS_S = 30.0
# A letter may be repeated by who was not able to commit: so long around a fault that ends processes.
AROUND_S = 12.0
Rows = Counter[tuple[Place, float]]


@dataclass
class Row:
    """What became of the samples first sent between one fault and the next."""

    mark: Mark
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    duplicates: int = 0
    longest_pause: float = 0.0


@dataclass
class Verdict:
    """All that was found; `wrong` are sentences, and there are none when all is well."""

    rows: list[Row]
    not_run: dict[str, str]
    sent_again: int = 0
    poison: int = 0
    letters_repeated: int = 0
    days: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])

    def total(self, name: str) -> int:
        """The sum of a column."""
        return sum(getattr(row, name) for row in self.rows)

    @property
    def red(self) -> bool:
        """Whether anything was lost, doubled or wrong, or a fault hit nothing."""
        return bool(self.wrong) or self.total("lost") > 0 or self.total("duplicates") > 0


async def stored_rows(door: Door, ledger: Ledger, user_id: str) -> Rows:
    """How often each sample of a user is found through the public API, with its value."""
    found: Rows = Counter()
    last = max(sample.place.end_us for batch in ledger.of_user(user_id) for sample in batch.samples)
    for metric in METRICS:
        end = time_text(last + SECOND_US).replace("+", "%2B")
        path = f"/v1/timeseries?metric={metric}&resolution=raw&from=1970-01-02T00:00:00Z&to={end}"
        for point in await door.lines(path, user_id):
            start = micros_of(point["start"])
            place = Place(metric, start, micros_of(point["end"]) if "end" in point else start)
            found[place, point["value"]] += 1
    return found


def rows_of(marks: Sequence[Mark]) -> list[Row]:
    """An empty row per stretch between two faults, beginning with the one before the first."""
    return [Row(Mark("before the first fault")), *(Row(mark) for mark in marks)]


def compare(rows: Sequence[Row], ledger: Ledger, user_id: str, found: Rows) -> None:
    """Count one user's samples, each in the stretch that it was first sent in."""
    known: set[Place] = set()
    for batch in sorted(ledger.acknowledged(user_id), key=lambda one: one.sent_at):
        row = [one for one in rows if one.mark.hit_at <= batch.sent_at][-1]
        for sample in batch.samples:
            if sample.place in known:
                continue
            known.add(sample.place)
            times = found[sample.place, sample.value]
            row.acknowledged += 1
            row.stored += times > 0
            row.lost += times == 0
            row.duplicates += max(0, times - 1)


def strangers(ledger: Ledger, user_id: str, found: Rows) -> int:
    """Stored samples that nobody sent for this user, or with another value."""
    sent = {(one.place, float(one.value)) for batch in ledger.of_user(user_id) for one in batch.samples}
    return len(found.keys() - sent)


def wrong_receipts(ledger: Ledger) -> list[str]:
    """Receipts that are missing or do not add up, as sentences."""
    missing = [batch.number for batch in ledger.acknowledged() if batch.receipt is None]
    odd = [batch.number for batch in ledger.acknowledged() if batch.receipt is not None and not _adds_up(batch.receipt)]
    short = [
        batch.number
        for batch in ledger.acknowledged()
        if batch.receipt is not None and batch.receipt["received"] != len(batch.samples)
    ]
    stored = sum(batch.receipt["stored"] for batch in ledger.acknowledged() if batch.receipt is not None)
    distinct = sum(len(ledger.expected(user_id)) for user_id in ledger.users())
    said: list[str] = []
    for what, numbers in (("are still queued", missing), ("do not add up", odd), ("miss records", short)):
        if numbers:
            said.append(f"{len(numbers)} receipts {what}, the first of batch {numbers[0]}")
    if stored > distinct:
        said.append(f"the receipts call {stored} samples new, but only {distinct} are")
    return said


def _adds_up(receipt: dict[str, Any]) -> bool:
    parts = receipt["stored"] + receipt["duplicates"] + receipt["corrections"] + receipt.get("deleted", 0)
    clean = not receipt["refused"] and not receipt["corrections"]
    return receipt["state"] == "stored" and clean and parts == receipt["received"]


async def wrong_days(door: Door, ledger: Ledger) -> tuple[int, list[str]]:
    """How many days were read, and those whose sums are not the ledger's, as sentences."""
    said: list[str] = []
    count = 0
    for user_id in ledger.users():
        days: dict[str, Counter[str]] = {}
        for place, value in ledger.expected(user_id).items():
            date = datetime.fromtimestamp(place.start_us / SECOND_US, UTC).date().isoformat()
            days.setdefault(date, Counter())[place.metric] += value if place.metric == "steps" else 1
        for date, expected in days.items():
            count += 1
            said += await _wrong_day(door, user_id, date, expected, DAYS_S if not said else 0)
    return count, said


async def _wrong_day(door: Door, user_id: str, date: str, expected: Counter[str], seconds: float) -> list[str]:
    last: dict[str, Any] = {}

    async def right() -> bool:
        nonlocal last
        try:
            metrics = (await door.get(f"/v1/days/{date}", user_id))["metrics"]
        except Refused as refused:
            last = {"answer": str(refused)}
            return False
        last = {"steps": metrics["steps"]["sum"], "heart_rate": metrics["heart_rate"]["count"]}
        return last == dict(expected)

    try:
        await eventually(right, seconds=seconds, every=0.2)
    except AssertionError:
        return [f"the day {date} of {user_id} says {last} instead of {dict(expected)}"]
    return []


async def wrong_poison(door: Door, poison: Poison, marks: Sequence[Mark], to_unix: float) -> tuple[int, list[str]]:
    """How many dead letters were repeated, and what is wrong about them; `to_unix` turns marks' times into Unix's."""
    found: list[Letter] = []

    async def all_there() -> bool:
        nonlocal found
        found = await letters(poison.servers)
        return poison.acknowledged <= {letter.value for letter in found}

    said: list[str] = []
    try:
        await eventually(all_there, seconds=LETTERS_S, every=0.5)
    except AssertionError:
        missing = poison.acknowledged - {letter.value for letter in found}
        said.append(f"{len(missing)} of {len(poison.acknowledged)} poisonous records have no dead letter")
    again = repeated(found)
    spans = [(m.hit_at, max(m.healed_at, m.recovered_at or 0) + AROUND_S) for m in marks if m.ends_processes]
    odd = [a for a in again if not any(b <= a.failed_at - to_unix <= e for b, e in spans)]
    if odd:
        said.append(f"{len(odd)} dead letters were repeated while no process had ended")
    for receipt_id, user_id in poison.rejected.items():
        state = (await door.get(f"/v1/receipts/{receipt_id}", user_id))["state"]
        if state != "failed":
            said.append(f"the receipt of a rejected batch is {state}")
            break
    return len(again), said
