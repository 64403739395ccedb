"""Ports, folders and what the services are told."""

import socket
from pathlib import Path

import pytest

from infra import topics
from infra.local import kafka
from infra.local.instance import (
    SERVICES,
    Instance,
    free_ports,
    from_environment,
    on_free_ports,
    port_is_free,
    service_environment,
)
from infra.local.settings import StackSettings
from shared.topics import TOPICS


def test_free_ports_differ_and_a_taken_one_is_seen():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with socket.create_server(("127.0.0.1", ports[0])):
        assert not port_is_free(ports[0])
    assert port_is_free(ports[0])


def test_an_instance_survives_the_way_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    instance = on_free_ports(tmp_path / "ä b", only="kafka")
    for name, value in instance.environment().items():
        monkeypatch.setenv(name, value)
    assert from_environment() == instance


def test_every_service_learns_its_port_and_the_gateway_where_the_others_are(tmp_path: Path):
    instance = on_free_ports(tmp_path)
    found = service_environment(instance)
    for service in SERVICES:
        assert found[f"{service.upper()}_PORT"] == str(instance.port(service))
    assert found["GATEWAY_INGEST_URL"] == f"http://127.0.0.1:{instance.port('ingest')}"
    assert found["DATABASE_URL"] == f"sqlite:///{tmp_path}/db"
    assert found["OBJECTS_URL"] == f"file:///{tmp_path}/objects"


def test_partners_work_at_once_only_where_nobody_else_can_register_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AUTH_PARTNER_APPROVAL", raising=False)
    approval = {
        host: service_environment(on_free_ports(tmp_path, host=host))["AUTH_PARTNER_APPROVAL"]
        for host in ("127.0.0.1", "0.0.0.0", "192.0.2.1")  # noqa: S104
    }
    assert approval == {"127.0.0.1": "auto", "0.0.0.0": "operator", "192.0.2.1": "operator"}  # noqa: S104
    monkeypatch.setenv("AUTH_PARTNER_APPROVAL", "operator")
    assert service_environment(on_free_ports(tmp_path))["AUTH_PARTNER_APPROVAL"] == "operator"


def test_deliveries_reach_this_machine_only_where_nobody_else_can_register_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("WEBHOOKS_ALLOW_CIDRS", "WEBHOOKS_ALLOW_HTTP", "WEBHOOKS_ALLOW_PORTS"):
        monkeypatch.delenv(name, raising=False)
    here = service_environment(on_free_ports(tmp_path))
    assert (here["WEBHOOKS_ALLOW_HTTP"], here["WEBHOOKS_ALLOW_PORTS"]) == ("true", "*")
    assert "127.0.0.0/8" in here["WEBHOOKS_ALLOW_CIDRS"]
    open_to_all = service_environment(on_free_ports(tmp_path, host="0.0.0.0"))  # noqa: S104
    assert not [name for name in open_to_all if name.startswith("WEBHOOKS_ALLOW")]
    monkeypatch.setenv("WEBHOOKS_ALLOW_PORTS", "443")
    assert service_environment(on_free_ports(tmp_path))["WEBHOOKS_ALLOW_PORTS"] == "443"


def test_kafka_gets_its_ports_and_a_relative_folder(tmp_path: Path):
    instance = Instance(StackSettings(data=tmp_path, kafka_port=20_001, kafka_controller_port=20_002))
    node = kafka.only_node(instance)
    kafka.prepare(node)
    lines = (node.home / "server.properties").read_text().splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002" in lines
    assert "log.dirs=log" in lines
    assert "offsets.topic.replication.factor=1" in lines
    assert not any("$" in line for line in lines)


def test_of_three_nodes_each_knows_the_others_and_two_copies_must_be_in_sync(tmp_path: Path):
    ports = ((20_001, 20_002), (20_003, 20_004), (20_005, 20_006))
    node = kafka.Node(tmp_path, tmp_path, 256, ports, place=1)
    kafka.prepare(node)
    lines = (tmp_path / "server.properties").read_text().splitlines()
    assert "node.id=2" in lines
    assert "listeners=PLAINTEXT://127.0.0.1:20003,CONTROLLER://127.0.0.1:20004" in lines
    assert "controller.quorum.voters=1@127.0.0.1:20002,2@127.0.0.1:20004,3@127.0.0.1:20006" in lines
    assert "min.insync.replicas=2" in lines
    assert "--standalone" not in kafka.format_command(node)


def test_every_topic_and_every_readers_dead_letters_are_wanted():
    names = {topic.name for topic in topics.wanted()}
    expected = {topic.name for topic in TOPICS}
    expected |= {topic.dead_letters(reader) for topic in TOPICS for reader in topic.readers}
    assert names == expected


def test_state_is_compacted_and_logs_are_kept_for_a_week():
    configs = {topic.name: topic.topic_configs for topic in topics.wanted()}
    assert configs["auth.users.v1"]["cleanup.policy"] == "compact"
    assert configs["ingest.days.v1"]["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert configs["ingest.days.v1.insights.dlq"]["retention.ms"] == str(14 * 24 * 3600 * 1000)
