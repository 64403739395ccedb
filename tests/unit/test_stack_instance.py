"""Ports, folders and what the services are told."""

import json
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra import topics
from infra.local import kafka, lock
from infra.local.instance import (
    SERVICES,
    Instance,
    free_ports,
    from_environment,
    kind_of,
    member_environment,
    on_free_ports,
    port_is_free,
    service_environment,
)
from infra.local.parts import all_parts
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
    assert found["KAFKA_REPLICATION"] == "1"
    assert not {"INSTANCE", "GATEWAY_INSTANCES", "GATEWAY_RATES_URL"} & found.keys()
    assert member_environment(instance, "ingest") == {"INGEST_PORT": str(instance.port("ingest")), "INSTANCE": ""}


def test_in_a_cluster_every_process_has_a_name_and_a_port_and_hears_of_all_others(tmp_path: Path):
    instance = on_free_ports(tmp_path, cluster=True)
    found = service_environment(instance)
    assert instance.data == tmp_path
    assert list(instance.members("ingest")) == ["ingest-1", "ingest-2", "ingest-3"]
    assert list(instance.members("gateway")) == ["gateway-1", "gateway-2"]
    assert instance.members("triton_grpc") == {"triton_grpc": instance.port("triton_grpc")}
    assert found["GATEWAY_INGEST_URL"] == ",".join(instance.urls("ingest"))
    assert found["KAFKA_BOOTSTRAP_SERVERS"].count(",") == 2
    assert found["KAFKA_REPLICATION"] == "3"
    assert found["GATEWAY_INSTANCES"] == "2"
    assert found["GATEWAY_RATES_URL"] == f"redis://127.0.0.1:{instance.port('redis')}"
    assert member_environment(instance, "ingest-3") == {
        "INGEST_PORT": str(instance.port("ingest", 3)),
        "INSTANCE": "ingest-3",
    }
    ports = [port for kind in ("kafka", "redis", *SERVICES) for port in instance.members(kind).values()]
    assert len(ports) == len(set(ports)) == 3 + 1 + 2 * len(SERVICES) + 1


def test_a_cluster_is_made_of_exactly_these_processes(tmp_path: Path):
    names = [part.name for part in all_parts(on_free_ports(tmp_path, cluster=True)) if part.name != "triton"]
    two = ("gateway", "auth", "inference", "nutrition", "insights", "webhooks")
    assert sorted(names) == sorted(
        [
            *("kafka-1", "kafka-2", "kafka-3", "redis", "ingest-1", "ingest-2", "ingest-3"),
            *(f"{service}-{number}" for service in two for number in (1, 2)),
        ]
    )
    only = on_free_ports(tmp_path, cluster=True, only="ingest-2,kafka")
    assert [part.name for part in all_parts(only)] == ["kafka-1", "kafka-2", "kafka-3", "ingest-2"]


def test_a_service_gets_as_long_to_end_as_it_goes_on_and_then_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def ends(**settings: object) -> dict[str, float]:
        found = all_parts(on_free_ports(tmp_path, only="kafka,ingest", **settings))
        return {kind_of(part.name): part.stop_s for part in found}

    monkeypatch.delenv("DRAIN_S", raising=False)
    assert ends() == {"kafka": 15, "ingest": 15}
    assert ends(cluster=True) == {"kafka": 15, "ingest": 16}
    monkeypatch.setenv("DRAIN_S", "30")
    assert ends()["ingest"] == 45
    monkeypatch.setenv("DRAIN_S", "long")
    assert ends()["ingest"] == 15


def test_commands_mean_the_stack_that_runs_unless_a_setting_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MYMACRO_CLUSTER", raising=False)
    monkeypatch.setenv("MYMACRO_DATA", str(tmp_path / "one"))
    monkeypatch.setenv("MYMACRO_CLUSTER_DATA", str(tmp_path / "several"))
    assert from_environment().data == tmp_path / "one"
    assert not (tmp_path / "several").exists()
    held = lock.hold(tmp_path / "several" / "run")
    assert held is not None
    with held:
        assert from_environment().data == tmp_path / "several"
        monkeypatch.setenv("MYMACRO_CLUSTER", "false")
        assert from_environment().data == tmp_path / "one"
        monkeypatch.delenv("MYMACRO_CLUSTER")
        embedded = lock.hold(tmp_path / "one" / "run")
        assert embedded is not None
        with embedded:
            assert from_environment().data == tmp_path / "one"
    assert from_environment().data == tmp_path / "one"


@pytest.mark.parametrize("folder", ["MYMACRO_DATA", "MYMACRO_CLUSTER_DATA"])
def test_commands_take_the_ports_of_the_stack_that_runs_unless_settings_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
):
    for name in StackSettings.model_fields:
        monkeypatch.delenv(f"MYMACRO_{name.upper()}", raising=False)
    monkeypatch.setenv("MYMACRO_DATA", str(tmp_path / "MYMACRO_DATA"))
    monkeypatch.setenv("MYMACRO_CLUSTER_DATA", str(tmp_path / "MYMACRO_CLUSTER_DATA"))
    run = tmp_path / folder / "run"
    held = lock.hold(run)
    assert held is not None
    with held:
        assert from_environment().port("gateway") == 8080  # it is starting, and has said nothing yet
        started = Instance(StackSettings(ports_from=26_000))
        (run / "state.json").write_text(json.dumps({"settings": started.environment()}))
        now = from_environment()
        assert (now.run, now.url) == (run, "http://127.0.0.1:26000")
        assert [now.port(name) for name in SERVICES] == [started.port(name) for name in SERVICES]
        monkeypatch.setenv("MYMACRO_GATEWAY_PORT", "8090")
        assert (from_environment().port("gateway"), from_environment().port("auth")) == (8090, started.port("auth"))
        monkeypatch.setenv("MYMACRO_PORTS_FROM", "27000")
        assert from_environment().port("auth") == 27_001
        monkeypatch.delenv("MYMACRO_PORTS_FROM")
        monkeypatch.delenv("MYMACRO_GATEWAY_PORT")
        (run / "state.json").write_text('{"settings": {"MYMACRO_GATEWAY_PORT": ')
        assert from_environment().port("gateway") == 8080
        (run / "state.json").write_text(json.dumps({"settings": started.environment()}))
    assert from_environment().port("gateway") == 8080  # nothing runs any more


def test_the_two_stacks_do_not_share_a_folder(tmp_path: Path):
    with pytest.raises(ValidationError, match="MYMACRO_DATA and MYMACRO_CLUSTER_DATA are both"):
        StackSettings(data=tmp_path, cluster_data=tmp_path)


def test_partners_work_at_once_only_where_nobody_else_can_register_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AUTH_PARTNER_APPROVAL", raising=False)
    approval = {
        host: service_environment(on_free_ports(tmp_path, host=host))["AUTH_PARTNER_APPROVAL"]
        for host in ("127.0.0.1", "0.0.0.0", "192.0.2.1")  # noqa: S104 - a setting, nothing listens
    }
    assert approval == {"127.0.0.1": "auto", "0.0.0.0": "operator", "192.0.2.1": "operator"}  # noqa: S104 - a setting, nothing listens
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
    open_to_all = service_environment(on_free_ports(tmp_path, host="0.0.0.0"))  # noqa: S104 - a setting, nothing listens
    assert not [name for name in open_to_all if name.startswith("WEBHOOKS_ALLOW")]
    monkeypatch.setenv("WEBHOOKS_ALLOW_PORTS", "443")
    assert service_environment(on_free_ports(tmp_path))["WEBHOOKS_ALLOW_PORTS"] == "443"


def test_kafka_gets_its_ports_and_a_relative_folder(tmp_path: Path):
    instance = Instance(StackSettings(data=tmp_path, kafka_port=20_001, kafka_controller_port=20_002))
    node = kafka.nodes(instance)["kafka"]
    kafka.prepare(node)
    lines = (node.home / "server.properties").read_text().splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002" in lines
    assert "log.dirs=log" in lines
    assert "offsets.topic.replication.factor=1" in lines
    assert not any("$" in line for line in lines)
    assert kafka.QUICK_COMPILER not in kafka.command(node)


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
    assert kafka.QUICK_COMPILER in kafka.command(node)


def test_every_topic_and_every_readers_dead_letters_are_wanted():
    names = {topic.name for topic in topics.wanted()}
    expected = {topic.name for topic in TOPICS}
    expected |= {topic.dead_letters(reader) for topic in TOPICS for reader in topic.readers}
    assert names == expected


def test_of_three_copies_two_must_be_written_and_of_one_that_one():
    for topic in topics.wanted(replication=3):
        assert (topic.replication_factor, topic.topic_configs["min.insync.replicas"]) == (3, "2")
    assert not [topic for topic in topics.wanted() if "min.insync.replicas" in topic.topic_configs]


def test_state_is_compacted_and_logs_are_kept_for_a_week():
    configs = {topic.name: topic.topic_configs for topic in topics.wanted()}
    assert configs["auth.users.v1"]["cleanup.policy"] == "compact"
    assert configs["ingest.days.v1"]["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert configs["ingest.days.v1.insights.dlq"]["retention.ms"] == str(14 * 24 * 3600 * 1000)
