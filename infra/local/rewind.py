"""Lets a stopped service read its topics from the beginning again: what a database that was lost must be fed with."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError

from infra.local.dead_letter_topics import NoAnswer, access
from shared.topics import TOPICS, Topic
from shared.unresolved import beginnings, ends


async def rewind(servers: str, service: str, *, dry_run: bool = False) -> dict[str, int]:
    """Put all groups of `service` back to the first record; how many records each topic then has for it.

    Raises:
        NoAnswer: nobody of that name reads, it still runs, Kafka does not answer, or how to get in is set wrongly.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    topics = [topic for topic in TOPICS if service in topic.readers]
    if not topics:
        readers = sorted({reader for topic in TOPICS for reader in topic.readers})
        raise NoAnswer(f"There is no reader {service!r}; there are {', '.join(readers)}.")
    try:
        return {topic.name: await _rewind(servers, topic, service, dry_run) for topic in topics}
    except CommitFailedError as error:
        raise NoAnswer(
            f"{service} still runs; stop it first, and wait until Kafka knows (6 s, in a cluster 30 s)."
        ) from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise NoAnswer(f"Kafka at {servers} does not answer ({type(error).__name__}).") from error


async def _rewind(servers: str, topic: Topic, service: str, dry_run: bool) -> int:
    # Without a subscription it commits for the group from outside, which Kafka allows while nobody is in it.
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        **access(),
        group_id=topic.group(service),
        enable_auto_commit=False,
    )
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    try:
        await consumer.start()
        consumer.assign(partitions)
        first, after = await beginnings(consumer, partitions), await ends(consumer, partitions)
        if not dry_run:
            await consumer.commit(first)
        return sum(after[one] - first[one] for one in partitions)
    finally:
        await consumer.stop()
