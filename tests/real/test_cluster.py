"""A cluster without most of its services: three brokers, Redis, three processes of ingest on one database."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from infra.local import brokers, redis, rolling
from shared.topics import BATCHES
from tests.polling import eventually
from tests.running_stack import Stack, mymacro, running_stack

pytestmark = pytest.mark.skipif(redis.problem() is not None, reason="needs redis-server: apt-get install redis-server")
# The start alone is most of a minute's work for one core; the rest waits for who asks for all.
on_request = pytest.mark.skipif(not os.environ.get("MYMACRO_TEST_ALL"), reason="runs with ./mymacro test --all")
INGEST = ["ingest-1", "ingest-2", "ingest-3"]
THIRD = BATCHES.partitions // len(INGEST)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stack]:
    with running_stack(cluster=True, only="kafka,redis,ingest") as found:
        yield found


async def shares(cluster: Stack) -> dict[str, list[str]]:
    """The partitions of batches that each process holds."""
    found = await brokers.readers(cluster.bootstrap_servers)
    said = {name: dict(one.split(" ") for one in text.split("  ") if one) for name, text in found.items()}
    return {name: topics["batches"].split(",") for name, topics in said.items() if "batches" in topics}


async def all_share(cluster: Stack, names: list[str]) -> dict[str, list[str]]:
    """`shares`, once those names share all partitions."""

    async def settled() -> dict[str, list[str]]:
        try:
            found = await shares(cluster)
        except brokers.NoAnswer:  # a broker is just gone
            return {}
        return found if sorted(found) == names and sum(map(len, found.values())) == BATCHES.partitions else {}

    return await eventually(settled, seconds=60, every=0.3)


async def test_three_processes_on_one_new_database_share_the_partitions_and_status_shows_it(cluster: Stack):
    found = await all_share(cluster, INGEST)
    assert {name: len(held) for name, held in found.items()} == dict.fromkeys(INGEST, THIRD)
    said = await mymacro(cluster, "status")
    for name in INGEST:
        (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
        assert f"batches {','.join(found[name])}" in line
    assert all(cluster.state.processes[name]["restarts"] == 0 for name in cluster.state.processes)


async def test_every_topic_has_three_copies_of_which_two_must_be_written(cluster: Stack):
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    await admin.start()
    try:
        topics = await admin.describe_topics()
    finally:
        await admin.close()
    copies = {topic["topic"]: {len(one["replicas"]) for one in topic["partitions"]} for topic in topics}
    assert copies.pop("__consumer_offsets") == {3}
    assert set(map(tuple, copies.values())) == {(3,)}
    for node in ("kafka-1", "kafka-2", "kafka-3"):
        settings = (cluster.instance.data / node / "server.properties").read_text().splitlines()
        assert "min.insync.replicas=2" in settings


@on_request
async def test_processes_are_restarted_one_by_one_and_the_rest_stays(cluster: Stack):
    before = {name: process["pid"] for name, process in cluster.state.processes.items()}
    said = await mymacro(cluster, "restart", "--rolling", "ingest-2", "kafka-3")
    after = {name: process["pid"] for name, process in cluster.state.processes.items()}
    assert {name for name in after if after[name] != before[name]} == {"ingest-2", "kafka-3"}
    assert said.index("kafka-3 is back") < said.index("ingest-2 is back")
    assert "2 restarted" in said
    assert await brokers.lacking(cluster.bootstrap_servers) == 0
    await all_share(cluster, INGEST)


@on_request
async def test_a_killed_broker_is_seen_to_be_missed_and_is_whole_again(cluster: Stack):
    killed = cluster.kill("kafka-1")
    assert await eventually(lambda: brokers.lacking(cluster.bootstrap_servers), seconds=30, every=0.1)
    await eventually(lambda: cluster.state.processes["kafka-1"]["pid"] not in (killed, None), seconds=60)
    await asyncio.to_thread(rolling.whole, cluster.instance)
    assert await brokers.lacking(cluster.bootstrap_servers) == 0
    assert await brokers.leader(cluster.bootstrap_servers, BATCHES, 0) in (1, 2, 3)


@on_request
async def test_status_says_so_when_no_broker_answers(cluster: Stack):
    stopped = [cluster.kill(name, signal.SIGSTOP) for name in ("kafka-1", "kafka-2", "kafka-3")]
    try:
        await eventually(lambda: cluster.state.processes["kafka-1"]["state"] == "not ready", seconds=20)
        said = await mymacro(cluster, "status", code=1)
        assert "Who reads which partitions is not known: Kafka at 127.0.0.1:" in said
        assert "ingest-3" in said
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
