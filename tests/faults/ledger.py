"""What the suite sent and what was acknowledged, kept outside the system: on disk line by line, and in memory."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

# All of a user's samples lie behind one another from here on, so a sample is known by its metric and its times.
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
METRICS = ("heart_rate", "steps")
STEP_US = 10_000_000
DEVICE = "watch"
SECOND_US = 1_000_000


class Place(NamedTuple):
    """What makes a sample the same sample: no two that are sent share it, unless one is a copy of the other."""

    metric: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample with the source's own id ("" for none)."""

    place: Place
    value: int
    id: str

    def as_json(self) -> dict[str, Any]:
        """As a phone sends it."""
        metric, start, end = self.place
        made: dict[str, Any] = {"metric": metric, "start": time_text(start), "value": self.value}
        if end != start:
            made["end"] = time_text(end)
        if self.id:
            made["id"] = self.id
        return made


def time_text(micros: int) -> str:
    """Microseconds since 1970 as RFC 3339."""
    return (EPOCH + timedelta(microseconds=micros)).isoformat()


def micros_of(text: str) -> int:
    """RFC 3339 as microseconds since 1970."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


@dataclass
class Batch:
    """One batch, its `copy_of` being the number of the batch whose samples it repeats. Times are `time.monotonic`."""

    number: int
    user_id: str
    samples: tuple[Sample, ...]
    copy_of: int | None = None
    sent_at: float = 0.0
    acknowledged_at: float | None = None
    receipt_id: str = ""
    receipt: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Its Idempotency-Key, the same at every attempt."""
        return f"batch-{self.number}"

    def body(self) -> bytes:
        """What is posted."""
        samples = [sample.as_json() for sample in self.samples]
        device = {"id": DEVICE, "kind": "watch"}
        return json.dumps({"device": device, "app": "faults/1", "zone": "UTC", "samples": samples}).encode()


@dataclass
class Ledger:
    """All batches by number. What stands in `file` is enough to repeat the comparison by hand."""

    file: Path
    batches: list[Batch] = field(default_factory=list[Batch])
    _slots: dict[str, int] = field(default_factory=dict[str, int])
    _numbers: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def fresh(self, user_id: str, rng: Random, size: int) -> Batch:
        """A batch of samples nobody has seen: heart rates and steps, half of either with ids of their own."""
        slot = self._slots.get(user_id, 0)
        count = size // 2
        self._slots[user_id] = slot + count
        begin = int(BEGIN.timestamp()) * SECOND_US
        samples: list[Sample] = []
        for number in range(slot, slot + count):
            start = begin + number * STEP_US
            own = f"{user_id}-{number}" if number % 2 else ""
            samples.append(Sample(Place("heart_rate", start, start), rng.randint(50, 180), own and f"h-{own}"))
            samples.append(Sample(Place("steps", start, start + STEP_US), rng.randint(1, 25), own and f"s-{own}"))
        return self._noted(user_id, samples, None)

    def copy(self, batch: Batch, rng: Random) -> Batch:
        """The same samples in another order under a key of their own."""
        return self._noted(batch.user_id, rng.sample(batch.samples, len(batch.samples)), batch.number)

    def _noted(self, user_id: str, samples: Sequence[Sample], copy_of: int | None) -> Batch:
        batch = Batch(len(self.batches), user_id, tuple(samples), copy_of)
        self.batches.append(batch)
        self._numbers.setdefault(user_id, []).append(batch.number)
        told = [[*sample.place, sample.value, sample.id] for sample in batch.samples] if copy_of is None else []
        self._write({"batch": batch.number, "user": user_id, "copy_of": copy_of, "samples": told})
        return batch

    def acknowledge(self, batch: Batch, receipt_id: str) -> None:
        """The gateway answered 202."""
        batch.acknowledged_at, batch.receipt_id = time.monotonic(), receipt_id
        self._write({"acknowledged": batch.number, "receipt": receipt_id})

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def of_user(self, user_id: str) -> Iterator[Batch]:
        """What was sent for that user."""
        return (self.batches[number] for number in self._numbers.get(user_id, ()))

    def acknowledged(self, user_id: str | None = None) -> Iterator[Batch]:
        """Batches that the system answers for, of one user or of all."""
        batches = self.batches if user_id is None else self.of_user(user_id)
        return (batch for batch in batches if batch.acknowledged_at is not None)

    def users(self) -> list[str]:
        """Everybody something was sent for."""
        return list(self._numbers)

    def expected(self, user_id: str) -> dict[Place, int]:
        """The value of every acknowledged sample of that user."""
        return {one.place: one.value for batch in self.acknowledged(user_id) for one in batch.samples}
