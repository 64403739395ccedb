"""A Kafka that asks for a user and a password: every client of a service gets in, and a wrong one is told why."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from infra.local import jars, kafka
from infra.local.instance import free_ports
from infra.local.settings import ROOT
from infra.topics import create
from services.gateway.pressure import KafkaOffsets
from shared import topics
from shared.clock import utc_now
from shared.events.auth import SessionRevoked
from shared.events.event import Event
from shared.following import read_state
from shared.kafka import make_broker, publish
from shared.kafka_access import client_arguments
from shared.settings import ServiceSettings
from shared.start import starting, wait_for_kafka
from shared.watchdog import Watchdog
from tests.polling import eventually

USER, PASSWORD = "mymacro", "a-good-one"
LISTENERS = f"""
listeners=BROKERS://127.0.0.1:{{inside}},CLIENTS://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}
listener.security.protocol.map=BROKERS:PLAINTEXT,CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKERS
sasl.enabled.mechanisms=PLAIN
listener.name.clients.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{USER}="{PASSWORD}";
"""


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncGenerator[ServiceSettings]:
    """Of a service that knows the password of a broker of its own."""
    port, controller, inside = free_ports(3)
    node = kafka.Node(tmp_path / "kafka", jars.folder(ROOT / ".mymacro" / "tools"), 256, ((port, controller),))
    kafka.prepare(node)
    properties = node.home / "server.properties"
    kept = [one for one in properties.read_text().splitlines() if not one.startswith("listeners=")]
    properties.write_text("\n".join(kept) + LISTENERS.format(inside=inside, port=port, controller=controller))
    ran = {"cwd": node.home, "env": kafka.environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    await asyncio.to_thread(subprocess.run, kafka.format_command(node), check=True, **ran)
    process = subprocess.Popen(kafka.command(node), **ran)  # noqa: ASYNC220 - returns at once
    try:
        yield ServiceSettings(
            kafka_bootstrap_servers=f"127.0.0.1:{port}",
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username=USER,
            kafka_sasl_password=PASSWORD,  # type: ignore[arg-type]
        )
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def wrong(settings: ServiceSettings) -> ServiceSettings:
    return settings.model_copy(update={"kafka_sasl_password": type(settings.kafka_sasl_password)("not-this-one")})


async def test_every_client_gets_in_with_the_password_and_none_without(
    settings: ServiceSettings, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = client_arguments(wrong(settings))
    waiting = asyncio.create_task(wait_for_kafka(settings.bootstrap_servers, (), arguments))
    await eventually(lambda: "refuses KAFKA_SASL" in caplog.text, seconds=60)
    assert not waiting.done()
    waiting.cancel()
    assert "refuses KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD or KAFKA_SASL_MECHANISM" in caplog.text
    assert "not-this-one" not in caplog.text

    await wait_for_kafka(settings.bootstrap_servers, (), client_arguments(settings))
    assert topics.REVOCATIONS.name in await create(settings.bootstrap_servers, access=client_arguments(settings))
    broker, heard = make_broker(settings, "auth"), list[str]()

    async def hear(key: str, event: Event | None) -> None:
        if isinstance(event, SessionRevoked):
            heard.append(event.session_id)

    async with starting(broker), Watchdog(broker) as watchdog:
        await eventually(watchdog.ready, seconds=30)
        follower = await read_state(settings, topics.REVOCATIONS, hear)
        await publish(broker, topics.REVOCATIONS, revoked())
        await eventually(lambda: heard == ["ses_1"], seconds=30)
        await follower.stop()
    offsets = KafkaOffsets(settings.bootstrap_servers, access=client_arguments(settings))

    async def behind() -> int:
        try:
            return (await offsets.backlog(topics.REVOCATIONS, "nobody", 1000)).records
        except KafkaError:  # until the broker has made the place where groups commit
            return 0

    assert await eventually(behind, seconds=30) == 1
    await offsets.close()
    with pytest.raises(KafkaError):
        await KafkaOffsets(settings.bootstrap_servers).backlog(topics.REVOCATIONS, "nobody", 1000)


async def test_commands_with_a_wrong_password_say_in_one_sentence_which_settings_to_mend(
    settings: ServiceSettings,
) -> None:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_SECURITY_PROTOCOL": settings.kafka_security_protocol,
        "KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism,
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": "not-this-one",
    }
    # The first waits for the broker, too.
    for command in (["infra.topics"], ["infra.docker.operate", "dlq", "list"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command), env=environment, cwd=ROOT, stdout=PIPE, stderr=STDOUT
        )
        said = (await asyncio.wait_for(process.communicate(), 50))[0].decode()
        refusal = "refuses KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD or KAFKA_SASL_MECHANISM"
        assert (process.returncode, said) == (1, f"Kafka at {settings.kafka_bootstrap_servers} {refusal}\n")


def revoked() -> SessionRevoked:
    values = {
        "event_id": "e1",
        "occurred_at": utc_now(),
        "session_id": "ses_1",
        "user_id": "usr_1",
        "expires_at": utc_now(),
        "reason": "signed-out",
    }
    return SessionRevoked.model_validate(values)
