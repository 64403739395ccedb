"""`./mymacro dlq` on a real broker: what services could not handle is seen, sent again, given up and written down."""

import asyncio
import getpass
import re
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.dead_letter_count import Counter
from shared.errors import Rejected
from shared.events.auth import UserUpdated
from shared.events.operator import DeadLetterResolved
from shared.kafka import make_broker, publish, publish_bytes
from shared.metrics import METRICS
from shared.settings import ServiceSettings
from shared.topics import RESOLUTIONS, Topic
from tests.polling import eventually
from tests.real_topics import SERVICE, fresh_topic, lag_is_zero, read_all, running, subscribed, user
from tests.running_stack import Stack, mymacro

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def poisoned(settings: ServiceSettings, topic: Topic, revisions: int = 3) -> None:
    """`revisions` events of the user "u" that nobody can handle, then bytes that are none."""

    async def handle(_: UserUpdated) -> None:
        raise Rejected("no-such-user")

    async with subscribed(settings, topic, handle) as broker:
        for revision in range(1, revisions + 1):
            await publish(broker, topic, user("u", revision), traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        await publish_bytes(broker, topic.name, b"\x00poison", "u")
        await eventually(lambda: lag_is_zero(settings, topic))


def positions(said: str, topic: Topic) -> list[str]:
    return re.findall(rf"{re.escape(topic.dead_letters(SERVICE))}/0/\d+", said)


async def test_list_shows_where_and_why_and_nothing_that_is_inside(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    await poisoned(settings, topic)
    said = await mymacro(kafka, "dlq", "list", "--topic", topic.name)
    letters = topic.dead_letters(SERVICE)
    assert positions(said, topic) == [f"{letters}/0/{offset}" for offset in range(4)]
    assert said.count("no-such-user") == 3
    assert said.count("undecodable") == 1
    assert said.count("user.updated") == 3
    assert "profile" not in said
    assert "poison" not in said
    assert len(positions(await mymacro(kafka, "dlq", "list", "--topic", topic.name, "--limit", "1"), topic)) == 1
    meant = {
        ("--type", "user.updated"): 3,
        ("--reason", "undecodable"): 1,
        ("--id", "u-2"): 1,
        ("--id", f"{letters}/0/3"): 1,
        ("--service", "webhooks"): 0,
        ("--since", "1h"): 4,
        ("--until", "1h"): 0,
    }
    listed = await asyncio.gather(*(mymacro(kafka, "dlq", "list", "--topic", topic.name, *words) for words in meant))
    found = [len(positions(said, topic)) for said in listed]
    assert dict(zip(meant, found, strict=True)) == meant


async def test_show_tells_the_cause_and_the_payload_and_writes_the_bytes(
    kafka: Stack, settings: ServiceSettings, topic: Topic, tmp_path: Path
) -> None:
    await poisoned(settings, topic)
    said = await mymacro(kafka, "dlq", "show", "u-1")
    for fact in ("no-such-user", "Rejected", f"./mymacro trace {TRACE}", '"revision": 1', SERVICE, f"{topic.name}/"):
        assert fact in said
    raw = tmp_path / "raw"
    said = await mymacro(kafka, "dlq", "show", f"{topic.dead_letters(SERVICE)}/0/3", "--raw", str(raw))
    assert raw.read_bytes() == b"\x00poison"
    assert raw.stat().st_mode & 0o077 == 0
    assert "7 bytes that do not decode" in said
    assert "no unresolved dead letter" in await mymacro(kafka, "dlq", "show", "nowhere", code=1)


async def test_a_replay_reaches_its_reader_once_and_is_written_down(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    await poisoned(settings, topic)
    before = len(await read_all(settings, topic.name, topic.partitions))
    dry = await mymacro(kafka, "dlq", "replay", "--topic", topic.name, "--dry-run")
    assert "4 would be replayed" in dry
    assert len(await read_all(settings, topic.name, topic.partitions)) == before
    assert len(positions(await mymacro(kafka, "dlq", "list", "--topic", topic.name), topic)) == 4

    seen: list[int] = []

    async def handle(event: UserUpdated) -> None:
        seen.append(event.revision)

    async with subscribed(settings, topic, handle):
        words = ("dlq", "replay", "--topic", topic.name, "--reason", "no-such-user", "--rate", "100")
        assert "3 replayed" in await mymacro(kafka, *words, "--note", "repaired in 0.2")
        await eventually(lambda: seen == [1, 2, 3])
        assert "No unresolved dead letters of these" in await mymacro(kafka, *words)
        await eventually(lambda: lag_is_zero(settings, topic))
    assert seen == [1, 2, 3]

    records = await read_all(settings, topic.name, topic.partitions)
    again = [record for record in records if any(name == "replayed-from" for name, _ in record.headers)]
    first = [record for record in records if record not in again]
    assert [(one.key, one.value, one.partition) for one in again] == [
        (one.key, one.value, one.partition) for one in first[:3]
    ]
    assert all(TRACE.encode() in dict(one.headers)["traceparent"] for one in again)

    left = await mymacro(kafka, "dlq", "list", "--topic", topic.name)
    assert positions(left, topic) == [f"{topic.dead_letters(SERVICE)}/0/3"]
    audit = await mymacro(kafka, "dlq", "list", "--resolved", "--topic", topic.name)
    assert audit.count("replayed") == audit.count("repaired in 0.2") == audit.count(getpass.getuser()) == 3


async def test_what_fails_again_after_a_replay_is_a_new_dead_letter(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    await poisoned(settings, topic, revisions=0)

    async def handle(_: UserUpdated) -> None:
        return

    async with subscribed(settings, topic, handle):
        assert "1 replayed" in await mymacro(kafka, "dlq", "replay", "--topic", topic.name)
        await eventually(lambda: lag_is_zero(settings, topic))
    found = positions(await mymacro(kafka, "dlq", "list", "--topic", topic.name), topic)
    assert found == [f"{topic.dead_letters(SERVICE)}/0/1"]


async def test_drop_needs_a_note_and_status_warns_until_all_is_dealt_with(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    await poisoned(settings, topic)
    await mymacro(kafka, "dlq", "drop", "--topic", topic.name, code=2)
    for action in (("replay",), ("drop", "--note", "x")):
        assert "Say which dead letters are meant" in await mymacro(kafka, "dlq", *action, code=1)
    warned = await mymacro(kafka, "status")
    assert f"4 in {topic.dead_letters(SERVICE)}" in warned
    assert "./mymacro dlq list" in warned
    assert "4 dropped" in await mymacro(kafka, "dlq", "drop", "--topic", topic.name, "--note", "made for a test")
    assert "No unresolved dead letters of these" in await mymacro(kafka, "dlq", "list", "--topic", topic.name)
    # Those of other tests go too.
    await mymacro(kafka, "dlq", "drop", "--all", "--note", "the end")
    assert "dead letter" not in await mymacro(kafka, "status")
    lines = [
        DeadLetterResolved.model_validate_json(record.value) for record in await read_all(settings, RESOLUTIONS.name, 1)
    ]
    of_topic = [line for line in lines if line.source == topic.name]
    assert [(line.action, line.note, line.by) for line in of_topic] == [
        ("dropped", "made for a test", getpass.getuser())
    ] * 4


async def test_the_metric_goes_up_with_dead_letters_and_down_with_what_operators_do(
    kafka: Stack, settings: ServiceSettings, topic: Topic
) -> None:
    async def handle(_: UserUpdated) -> None:
        raise Rejected("no-such-user")

    def shown() -> float | None:
        return METRICS.registry.get_sample_value("dead_letters_unresolved", {"topic": topic.name, "service": SERVICE})

    async with subscribed(settings, topic, handle) as broker:
        counter = Counter(broker)
        await eventually(lambda: broker.places[0].consumer is not None)
        await counter.count()
        assert shown() == 0
        for revision in range(3):
            await publish(broker, topic, user("u", revision))
        await eventually(lambda: lag_is_zero(settings, topic))
        await counter.count()
        assert shown() == 3
        await mymacro(kafka, "dlq", "drop", "--id", f"{topic.dead_letters(SERVICE)}/0/1", "--note", "one of three")
        await counter.count()
        assert shown() == 2
        await mymacro(kafka, "dlq", "drop", "--topic", topic.name, "--note", "the others")
        await counter.count()
        assert shown() == 0


async def test_a_letter_whose_topic_is_gone_stays_and_is_named(kafka: Stack, settings: ServiceSettings) -> None:
    topic = fresh_topic()
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic.dead_letters(SERVICE), 1, 1)])
    await admin.close()
    async with running(make_broker(settings, SERVICE)) as broker:
        await publish_bytes(broker, topic.dead_letters(SERVICE), b"\xff", None, headers={"reason": "x\x1b[2J"})
    said = await mymacro(kafka, "dlq", "replay", "--topic", topic.name, code=1)
    assert "could not be sent and stay" in said
    listed = await mymacro(kafka, "dlq", "list", "--topic", topic.name)
    assert len(positions(listed, topic)) == 1
    assert "\x1b" not in listed


async def test_a_broker_that_is_away_is_one_sentence(kafka: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    said = await mymacro(kafka, "dlq", "list", code=1)
    assert said.strip() == "Kafka at 127.0.0.1:1 does not answer (KafkaConnectionError)."
