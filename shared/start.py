"""Starting on Kafka: services may come up before it does, so wait for it without noise and beside what they serve."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from faststream.kafka.publisher.producer import AioKafkaFastProducerImpl

from shared.cancelling import cancelled
from shared.kafka import Broker
from shared.kafka_access import client_arguments
from shared.redaction import whereabouts
from shared.settings import host_and_port

WAIT_S = 0.2
SAY_EVERY_S = 10.0
# A broker that is starting refuses too.
REFUSED_AFTER_S = 2.0
# After a failure that is not "Kafka is away".
DEFECT_PAUSE_S = 5.0
# One line per text and minute: while a broker is away aiokafka repeats these at every attempt.
QUIET_S = 60.0
NOISY = (
    "aiokafka",
    "aiokafka",  # what its client logs under
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)
log = logging.getLogger(__name__)


class OncePerMinute(logging.Filter):
    """Lets a text through once a minute, whatever values stand in it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        now = time.monotonic()
        if now - self._said.get(str(record.msg), -QUIET_S) < QUIET_S:
            return False
        self._said[str(record.msg)] = now
        return True


_quiet = OncePerMinute()


def quiet_clients() -> None:
    """Make aiokafka say each of its complaints once a minute."""
    for name in NOISY:
        logging.getLogger(name).addFilter(_quiet)


@asynccontextmanager
async def starting(broker: Broker, *, pause_s: float = DEFECT_PAUSE_S) -> AsyncGenerator[None]:
    """Start on Kafka beside the body, which may serve reads long before it is there; stop the broker at the end.

    Whatever else fails in the start is logged as an error and tried again; until it works, `Watchdog.ready` is False.
    """
    task = asyncio.create_task(_start(broker, pause_s), name="start on Kafka")
    try:
        yield
    finally:
        try:
            await cancelled(task)
        finally:
            await broker.stop()


async def _start(broker: Broker, pause_s: float) -> None:
    while True:
        try:
            await start_broker(broker)
        except Exception as error:
            log.error("the start on Kafka failed: %s", whereabouts(error))
            await _stopped(broker)
            await asyncio.sleep(pause_s)
        else:
            return


async def _stopped(broker: Broker) -> None:
    try:
        await broker.stop()
    except Exception as error:
        log.error("what had started on Kafka did not stop: %s", whereabouts(error))


async def start_broker(broker: Broker) -> None:
    """Connect and subscribe, as soon as Kafka answers and has our topics; waits for as long as it takes.

    On TestKafkaBroker it starts at once.
    """
    if not isinstance(broker.config.broker_config.producer, AioKafkaFastProducerImpl):
        await broker.start()
        return
    quiet_clients()
    topics = {places.topic for places in broker.places}
    await wait_for_kafka(broker.settings.bootstrap_servers, topics, client_arguments(broker.settings))
    while True:
        for places in broker.places:
            places.starting()
        try:
            await broker.start()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("Kafka went away during the start: %s", type(error).__name__)
            await broker.stop()
            await asyncio.sleep(WAIT_S)
        else:
            return


async def wait_for_kafka(
    servers: list[str], topics: Iterable[str] = (), access: Mapping[str, Any] | None = None
) -> None:
    """Return once a broker answers and all `topics` exist (a consumer sees a topic made later only after minutes).

    `access`: how to get in, as arguments of aiokafka's clients. What refuses us is said in the log, and asked again.
    """
    entry = dict(access or {})
    said, pause_s = time.monotonic(), REFUSED_AFTER_S if entry else SAY_EVERY_S
    while not await port_answers(servers) or not await _has(servers, set(topics), entry):
        if time.monotonic() - said > pause_s:
            if refusal := await refusal_of(servers, entry):
                log.error("%s", refusal)
            else:
                log.warning("waiting for Kafka and its topics at %s", ", ".join(servers))
            said, pause_s = time.monotonic(), SAY_EVERY_S
        await asyncio.sleep(WAIT_S)


async def refusal_of(servers: list[str], access: Mapping[str, Any]) -> str | None:
    """The sentence that says why Kafka does not let us in with `access`; None where that is not known, or it does."""
    if not access or (server := await port_answers(servers)) is None:
        return None
    why = await _refused(server, access)
    return f"Kafka at {server} {why}" if why else None


async def _refused(server: str, access: Mapping[str, Any]) -> str | None:
    try:
        connection = await create_conn(*host_and_port(server), request_timeout_ms=5000, **access)
    except (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError):
        return "refuses KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD or KAFKA_SASL_MECHANISM"
    except ssl.SSLError:
        return "shows a certificate that KAFKA_SSL_CA_PATH does not vouch for, or speaks no TLS"
    except (KafkaError, OSError, TimeoutError):
        return None
    connection.close()
    return None


async def port_answers(servers: list[str]) -> str | None:
    """The first server that takes a connection within two seconds; aiokafka would log each that refuses one."""
    for server in servers:
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(*host_and_port(server))
        except (OSError, TimeoutError):
            continue
        writer.close()
        return server
    return None


async def _has(servers: list[str], topics: set[str], access: dict[str, Any]) -> bool:
    client = AIOKafkaClient(bootstrap_servers=",".join(servers), request_timeout_ms=5000, **access)
    try:
        await client.bootstrap()
        cluster: ClusterMetadata = await client.fetch_all_metadata()
        return bool(cast(object, cluster.brokers())) and topics <= cast(set[str], cluster.topics())
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()
