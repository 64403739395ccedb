"""What stands in .env, and who hears of it."""

import stat
from pathlib import Path

import pytest

from infra.local import env_file, private
from infra.local.instance import PORT_FIELDS, on_free_ports, service_environment
from infra.local.settings import StackSettings


def loaded(folder: Path, text: str, **environment: str) -> tuple[dict[str, str], list[str]]:
    path = folder / ".env"
    path.write_text(text)
    return environment, env_file.load(path, environment)


def test_settings_of_services_reach_the_environment_and_the_environment_goes_before(tmp_path: Path) -> None:
    found, warnings = loaded(
        tmp_path, "GATEWAY_RATE_FAILED=5/60\nTOKEN_ISSUER=https://a.example/auth\n", TOKEN_ISSUER="https://b.example"
    )
    assert found["GATEWAY_RATE_FAILED"] == "5/60"
    assert found["TOKEN_ISSUER"] == "https://b.example"
    assert env_file.named(found) == {"GATEWAY_RATE_FAILED", "TOKEN_ISSUER"}
    assert warnings == []


def test_without_the_file_nothing_is_named(tmp_path: Path) -> None:
    found: dict[str, str] = {}
    assert env_file.load(tmp_path / ".env", found) == []
    assert env_file.named(found) == frozenset()


def test_stacks_that_tests_start_hear_nothing_of_the_file(tmp_path: Path) -> None:
    found, warnings = loaded(tmp_path, "GATEWAY_RATE_FAILED=5/60\nNOBODYS=1\n", **{env_file.NAMED: ""})
    assert found == {env_file.NAMED: ""}
    assert warnings == []


def test_unknown_names_stay_out_and_the_nearest_is_told(tmp_path: Path) -> None:
    found, warnings = loaded(tmp_path, "AUTH_PARTNER_APROVAL=operator\nMYMACRO_GATEWAYPORT=1\nPATH=/nowhere\n")
    assert set(found) == {env_file.NAMED}
    assert ".env: there is no setting AUTH_PARTNER_APROVAL; AUTH_PARTNER_APPROVAL is the nearest." in warnings
    assert ".env: there is no setting MYMACRO_GATEWAYPORT; MYMACRO_GATEWAY_PORT is the nearest." in warnings
    assert any("no setting PATH" in warning for warning in warnings)


def test_ports_of_parts_have_the_stacks_own_names(tmp_path: Path) -> None:
    found, warnings = loaded(tmp_path, "AUTH_PORT=9\nHOST=192.0.2.1\n")
    assert "AUTH_PORT" not in found
    assert warnings == [
        ".env: AUTH_PORT does nothing in the local stack; set MYMACRO_AUTH_PORT.",
        ".env: HOST does nothing in the local stack; set MYMACRO_HOST.",
    ]


def test_what_the_supervisor_sets_itself_gives_way_to_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBJECTS_URL", "s3://elsewhere")
    monkeypatch.delenv(env_file.NAMED, raising=False)
    instance = on_free_ports(tmp_path)
    assert service_environment(instance)["OBJECTS_URL"] == f"file:///{tmp_path}/objects"
    monkeypatch.setenv(env_file.NAMED, "OBJECTS_URL,AUTH_PARTNER_APPROVAL")
    left = service_environment(instance)
    assert "OBJECTS_URL" not in left
    assert "AUTH_PARTNER_APPROVAL" not in left
    assert left["AUTH_PORT"] == str(instance.port("auth"))


def test_one_base_moves_every_port_but_those_set_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PORT_FIELDS:
        monkeypatch.delenv(f"MYMACRO_{name.upper()}", raising=False)
    monkeypatch.setenv("MYMACRO_PORTS_FROM", "21000")
    monkeypatch.setenv("MYMACRO_KAFKA_PORT", "19999")
    settings = StackSettings()
    ports = {name: getattr(settings, name) for name in PORT_FIELDS}
    assert ports["gateway_port"] == 21000
    assert ports["auth_port"] == 21001
    assert ports["kafka_port"] == 19999
    assert len(set(ports.values())) == len(PORT_FIELDS)
    assert {port for name, port in ports.items() if name != "kafka_port"} <= set(range(21000, 21000 + len(PORT_FIELDS)))


def test_the_data_folder_is_closed_to_others_also_one_that_was_open(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    for folder in (old, tmp_path / "deep" / "new"):
        private.close(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_for_everybody_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(private.SharedFolder, match="name one below it"):
        private.close(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
