"""What a cluster's brokers say: who reads which partitions, and how many partitions lack a copy."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError

from shared.topics import TOPICS, Topic

ANSWER_S = 5.0
# A group whose coordinator is away must not hide the others.
GROUP_S = 3.0
AGAIN_S = 0.1
T = TypeVar("T")
# What our consumers call themselves is this and the name of their process.
CLIENT = "mymacro-"


class NoAnswer(Exception):
    """No broker answers in time."""


@asynccontextmanager
async def _asked(servers: str) -> AsyncGenerator[AIOKafkaAdminClient]:
    # It repeats what we say in one sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=int(ANSWER_S * 1000))
    try:
        async with asyncio.timeout(ANSWER_S):
            try:
                await admin.start()
                yield admin
            finally:
                await admin.close()
    except (KafkaError, OSError, TimeoutError) as error:
        raise NoAnswer(f"Kafka at {servers} does not answer ({type(error).__name__}).") from error


async def _any(question: Callable[[], Awaitable[T]]) -> T:
    """The answer of any broker: the client asks one at random, also one that is just gone."""
    while True:
        try:
            return await question()
        except (NodeNotReadyError, KafkaConnectionError):
            await asyncio.sleep(AGAIN_S)


async def readers(servers: str) -> dict[str, str]:
    """The partitions that each process reads, by its name, such as {"ingest-2": "batches 1,4,7,10  users 1"}.

    A group whose coordinator is changing is left out.

    Raises:
        NoAnswer: Kafka does not answer, or none of the groups is known yet.
    """
    groups = [(topic, service) for topic in TOPICS for service in topic.readers]
    async with _asked(servers) as admin:
        asked = (asyncio.wait_for(_members(admin, topic.group(service)), GROUP_S) for topic, service in groups)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if len(failed) == len(groups):
        raise NoAnswer(f"Kafka at {servers} knows no group yet ({type(failed[0]).__name__}).") from failed[0]
    found: dict[str, dict[str, list[int]]] = {}
    for (topic, _service), answer in zip(groups, answers, strict=True):
        for client, assignment in [] if isinstance(answer, BaseException) else answer:
            held = found.setdefault(client.removeprefix(CLIENT), {}).setdefault(_noun(topic), [])
            held += _numbers(assignment, topic)
    return {name: "  ".join(_said(noun, held) for noun, held in kept.items() if held) for name, kept in found.items()}


def _noun(topic: Topic) -> str:
    return topic.name.split(".")[1]


def _said(noun: str, held: list[int]) -> str:
    # Of several topics of that name only how many.
    several = len(set(held)) < len(held)
    return f"{noun} ({len(held)})" if several else f"{noun} {','.join(map(str, held))}"


async def _members(admin: AIOKafkaAdminClient, group: str) -> list[tuple[str, bytes]]:
    """Client id and assignment of each member."""
    (answer,) = await _any(lambda: admin.describe_consumer_groups([group]))
    ((_error, _group, _state, _type, _protocol, members, *_rest),) = cast(Any, answer).groups
    return [(client, assignment) for _id, client, _host, _metadata, assignment in members]


def _numbers(assignment: bytes, topic: Topic) -> list[int]:
    if not assignment:  # the group is being dealt anew
        return []
    found = ConsumerProtocolMemberAssignment.decode(assignment).partitions()
    return sorted(place.partition for place in found if place.topic == topic.name)


async def lacking(servers: str) -> int:
    """How many partitions lack a copy that is in sync, or a leader.

    Raises:
        NoAnswer: Kafka does not say.
    """
    async with _asked(servers) as admin:
        topics = await _any(admin.describe_topics)
    partitions: Sequence[dict[str, Any]] = [one for topic in topics for one in topic["partitions"]]
    return sum(len(one["isr"]) < len(one["replicas"]) or one["leader"] < 0 for one in partitions)


async def leader(servers: str, topic: Topic, partition: int) -> int:
    """The number of the broker that leads that partition, such as 2 for kafka-2; 0 when nobody does.

    Raises:
        NoAnswer: Kafka does not say.
    """
    async with _asked(servers) as admin:
        (found,) = await _any(lambda: admin.describe_topics([topic.name]))
    # Kafka says -1.
    return max(0, next(int(one["leader"]) for one in found["partitions"] if one["partition"] == partition))
