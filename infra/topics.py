"""Creates every topic of `shared/topics.py`, and each reader's dead-letter topic. Harmless to repeat.

Run as `python -m infra.topics`; the brokers come from KAFKA_BOOTSTRAP_SERVERS, KAFKA_REPLICATION says how many of them
hold each record.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from infra.local.settings import wrong
from shared.kafka_access import client_arguments
from shared.settings import ServiceSettings, reading
from shared.start import REFUSED_AFTER_S, port_answers, refusal_of
from shared.topics import (
    DEAD_LETTER_MAX_BYTES,
    DEAD_LETTER_RETENTION_MS,
    LOG_RETENTION_MS,
    SEGMENT_MS,
    TOPICS,
    Topic,
)

# Three brokers that start side by side on a busy machine take a minute.
PATIENCE_S = 120.0
PAUSE_S = 0.2
# Of three copies and more, so many must be written before a record counts as acknowledged.
IN_SYNC = 2
# A state topic's deletions stay visible this long to a reader that was away.
DELETE_RETENTION_MS = LOG_RETENTION_MS


class Refused(Exception):
    """Kafka does not let us in; the message is a sentence for people."""


def wanted(topics: tuple[Topic, ...] = TOPICS, *, replication: int = 1) -> list[NewTopic]:
    """What the broker should have."""
    found: list[NewTopic] = []
    # Acknowledged then means: two of them at least hold it.
    in_sync = {"min.insync.replicas": str(IN_SYNC)} if replication > IN_SYNC else {}
    for topic in topics:
        settings = _configuration(topic) | in_sync
        found.append(NewTopic(topic.name, topic.partitions, replication, topic_configs=settings))
        dead = {
            "retention.ms": str(DEAD_LETTER_RETENTION_MS),
            "segment.ms": str(SEGMENT_MS),
            "max.message.bytes": str(DEAD_LETTER_MAX_BYTES),
            **in_sync,
        }
        for reader in topic.readers:
            found.append(NewTopic(topic.dead_letters(reader), 1, replication, topic_configs=dead))
    return found


def _configuration(topic: Topic) -> dict[str, str]:
    segments = {"segment.ms": str(SEGMENT_MS)}
    if topic.kind == "state":
        return segments | {
            "cleanup.policy": "compact",
            "delete.retention.ms": str(DELETE_RETENTION_MS),
            # Without a bound, what a deletion replaced would stay for as long as the topic is small.
            "max.compaction.lag.ms": str(LOG_RETENTION_MS),
        }
    return segments | {"cleanup.policy": "delete", "retention.ms": str(topic.retention_ms)}


async def create(
    bootstrap_servers: list[str], *, replication: int = 1, access: Mapping[str, Any] | None = None
) -> list[str]:
    """Create what is missing; returns the names of the new ones.

    Raises:
        KafkaError: the broker refused a topic, or does not answer.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **(access or {}))
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [topic for topic in wanted(replication=replication) if topic.name not in present]
        if missing:
            answer = await admin.create_topics(missing)
            for _name, code, *_rest in answer.topic_errors:  # pyright: ignore[reportAttributeAccessIssue]
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise error(_name)
        return [topic.name for topic in missing]
    finally:
        await admin.close()


async def create_when_up(
    bootstrap_servers: list[str],
    *,
    replication: int = 1,
    patience_s: float = PATIENCE_S,
    access: Mapping[str, Any] | None = None,
) -> list[str]:
    """`create`, trying again while the broker is still starting.

    Raises:
        Refused: it does not let us in.
        KafkaError: it did not work within `patience_s`.
    """
    deadline, refused_at = time.monotonic() + patience_s, 0.0
    while True:
        try:
            if await port_answers(bootstrap_servers) is None:
                raise ConnectionError(f"no answer from {', '.join(bootstrap_servers)}")
            return await create(bootstrap_servers, replication=replication, access=access)
        except (KafkaError, OSError) as error:
            if (now := time.monotonic()) > deadline:
                raise
            refusal = await refusal_of(bootstrap_servers, access or {})
            refused_at = refused_at or now if refusal else 0.0
            if refusal and now - refused_at > REFUSED_AFTER_S:
                raise Refused(refusal) from error
            await asyncio.sleep(PAUSE_S)


def main() -> None:
    """Create the topics of the brokers named in the environment."""
    try:
        settings = ServiceSettings()
        servers, access = settings.bootstrap_servers, client_arguments(settings)
        with reading("KAFKA_REPLICATION", "say how many brokers hold each record, such as 3"):
            replication = int(os.environ.get("KAFKA_REPLICATION") or "1")
    except ValueError as error:
        sys.exit(wrong(error))
    # It repeats what we say in one sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        made = asyncio.run(create_when_up(servers, replication=replication, access=access))
    except Refused as refused:
        sys.exit(str(refused))
    except (KafkaError, OSError) as error:
        sys.exit(f"The topics could not be created: {error!r}")
    sys.stdout.write(f"{len(made)} topics created\n")


if __name__ == "__main__":
    main()
