"""When the gateway takes more and when it does not, by what Kafka and the disk say."""

import asyncio
import logging
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError

from services.gateway.pressure import HOLDS_S, OLDEST_MS, Backlog, Limits, Pressure
from shared import topics
from shared.errors import Problem
from shared.metrics import METRICS
from shared.topics import BATCHES, PHOTOS, Topic
from tests.polling import eventually

READERS = {BATCHES: ("ingest.gateway.batches.v1", 100), PHOTOS: ("inference.gateway.photos.v1", 10)}


class Said:
    """Kafka, as a test says."""

    def __init__(self) -> None:
        self.backlogs: dict[str, Backlog | Exception] = {
            BATCHES.name: Backlog(0, False),
            PHOTOS.name: Backlog(0, False),
        }
        self.asked: list[tuple[str, str, int]] = []
        self.closed = 0

    async def backlog(self, topic: Topic, group: str, older_than_ms: int) -> Backlog:
        self.asked.append((topic.name, group, older_than_ms))
        found = self.backlogs[topic.name]
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self) -> None:
        self.closed += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kafka() -> Said:
    return Said()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pressure(kafka: Said, clock: Clock) -> Pressure:
    return Pressure(Limits(READERS), kafka, clock)


def refusal(pressure: Pressure, topic: Topic = BATCHES) -> Problem:
    with pytest.raises(Problem) as refused:
        pressure.admit(topic)
    return refused.value


def lets_in(pressure: Pressure, topic: Topic = BATCHES) -> bool:
    try:
        pressure.admit(topic)
    except Problem:
        return False
    return True


async def test_each_topic_is_judged_by_its_own_reader(pressure: Pressure, kafka: Said) -> None:
    kafka.backlogs[BATCHES.name] = Backlog(101, False)
    await pressure.look_at_readers()
    problem = refusal(pressure)
    assert (problem.status, problem.code, problem.members["reason"]) == (503, "overloaded", "behind")
    assert int(problem.headers["Retry-After"]) > 0
    assert lets_in(pressure, PHOTOS)
    assert kafka.asked == [(topic.name, group, OLDEST_MS) for topic, (group, _) in READERS.items()]
    assert OLDEST_MS * 2 == topics.LOG_RETENTION_MS
    kafka.backlogs[BATCHES.name] = Backlog(100, False)
    await pressure.look_at_readers()
    assert lets_in(pressure)


async def test_one_old_record_is_enough(pressure: Pressure, kafka: Said) -> None:
    kafka.backlogs[PHOTOS.name] = Backlog(1, True)
    await pressure.look_at_readers()
    assert refusal(pressure, PHOTOS).code == "overloaded"


async def test_before_the_first_look_everybody_is_let_in(pressure: Pressure, kafka: Said) -> None:
    kafka.backlogs[BATCHES.name] = Backlog(101, False)
    assert lets_in(pressure)
    await pressure.look_at_readers()
    assert not lets_in(pressure)


async def test_what_kafka_said_last_holds_for_a_while(pressure: Pressure, kafka: Said, clock: Clock) -> None:
    kafka.backlogs[BATCHES.name] = Backlog(101, False)
    await pressure.look_at_readers()
    kafka.backlogs[BATCHES.name] = KafkaConnectionError()
    clock.now += HOLDS_S
    await pressure.look_at_readers()
    assert refusal(pressure).code == "overloaded"
    assert kafka.closed == 1
    clock.now += 0.1
    assert lets_in(pressure)


@pytest.mark.parametrize("silence", [KafkaConnectionError(), TimeoutError(), ConnectionResetError()])
async def test_one_silent_topic_does_not_hide_the_other(pressure: Pressure, kafka: Said, silence: Exception) -> None:
    kafka.backlogs[BATCHES.name] = silence
    kafka.backlogs[PHOTOS.name] = Backlog(11, False)
    await pressure.look_at_readers()
    assert lets_in(pressure)
    assert refusal(pressure, PHOTOS).code == "overloaded"


async def test_it_is_logged_once_and_counted_each_time(
    pressure: Pressure, kafka: Said, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = METRICS.turned_away.labels(BATCHES.name, "behind")._value.get()
    kafka.backlogs[BATCHES.name] = Backlog(101, False)
    for _ in range(3):
        await pressure.look_at_readers()
        refusal(pressure)
    kafka.backlogs[BATCHES.name] = Backlog(7, False)
    for _ in range(3):
        await pressure.look_at_readers()
    said = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert said == [
        ("WARNING", "ingest.gateway.batches.v1 is 101 records behind, 100 are allowed"),
        ("INFO", "ingest.gateway.batches.v1 is 7 records behind, 100 are allowed"),
    ]
    assert METRICS.turned_away.labels(BATCHES.name, "behind")._value.get() == before + 3
    assert METRICS.backlog.labels(BATCHES.name)._value.get() == 7


@pytest.mark.parametrize(("wanted", "full"), [(0, False), (2**60, True)])
async def test_a_full_disk_stops_everything_that_is_accepted(tmp_path: Path, wanted: int, full: bool) -> None:
    pressure = Pressure(Limits(READERS, str(tmp_path), wanted), None)
    await pressure.look_at_disk()
    assert METRICS.disk_free_bytes._value.get() > 0
    for topic in (BATCHES, PHOTOS):
        if full:
            problem = refusal(pressure, topic)
            assert (problem.code, problem.members["reason"]) == ("overloaded", "disk")
            assert int(problem.headers["Retry-After"]) > 0
        else:
            assert lets_in(pressure, topic)


async def test_a_disk_that_cannot_be_seen_counts_as_full(tmp_path: Path) -> None:
    place = tmp_path / "later"
    pressure = Pressure(Limits(READERS, str(place), 1), None)
    await pressure.look_at_disk()
    assert refusal(pressure).members["reason"] == "disk"
    place.mkdir()
    await pressure.look_at_disk()
    assert lets_in(pressure)


async def test_a_defect_does_not_end_the_looking(
    pressure: Pressure, kafka: Said, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.gateway.pressure.LOOK_EVERY_S", 0)
    kafka.backlogs[BATCHES.name] = KeyError("defect")
    watching = asyncio.create_task(pressure.watch())
    await eventually(lambda: "a look failed: KeyError" in caplog.text)
    kafka.backlogs[BATCHES.name] = Backlog(101, False)
    await eventually(lambda: pressure._behind.get(BATCHES.name, (False,))[0])
    watching.cancel()
    await asyncio.wait({watching})
    assert kafka.closed == 1


async def test_without_a_folder_the_disk_is_not_looked_at() -> None:
    pressure = Pressure(Limits(READERS, "", 2**60), None)
    await pressure.look_at_disk()
    assert lets_in(pressure)
