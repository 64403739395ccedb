"""`./mymacro secrets`: adding a key to the file, and showing which there are."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.local.secret_keys import add_key, app
from shared.secrets import KeysRefused, read_keys, secrets_from_file

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "secrets.key"
    path.write_text("11" * 32 + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("SECRETS_KEY_PATH", str(path))
    monkeypatch.delenv("SECRETS_KEYS", raising=False)
    return path


def seal(path: Path) -> bytes:
    return secrets_from_file(path).seal(b"s", collection="c", field="f", document_id="d")


def test_a_new_key_seals_and_the_old_one_still_opens(path: Path) -> None:
    ours, sealed = secrets_from_file(path), seal(path)
    old = read_keys(path)
    added = add_key(path, NOW)
    assert [identity.hex() for identity in read_keys(path).by_id] == [added, old.newest.hex()]
    assert ours.is_stale(sealed)
    assert ours.open(sealed, collection="c", field="f", document_id="d") == b"s"
    assert not ours.is_stale(seal(path))
    assert "# since 2026-03-01T08:00:00Z" in path.read_text()
    assert (stat.S_IMODE(path.stat().st_mode), os.listdir(path.parent)) == (0o600, [path.name])


def test_rotations_at_the_same_time_lose_no_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: add_key(path, NOW), range(8)))
    assert {identity.hex() for identity in read_keys(path).by_id} >= set(added)
    assert len(read_keys(path).by_id) == 9


def test_a_linked_file_stays_linked(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(path)
    add_key(link, NOW)
    assert (link.is_symlink(), len(read_keys(path).by_id)) == (True, 2)


def test_a_file_that_is_not_in_order_is_left_alone(path: Path) -> None:
    path.write_text("broken")
    with pytest.raises(KeysRefused, match="64 hex digits"):
        add_key(path, NOW)
    assert path.read_text() == "broken"
    path.unlink()
    with pytest.raises(KeysRefused, match="not there"):
        add_key(path, NOW)
    assert os.listdir(path.parent) == []


def test_the_command_tells_ids_and_no_keys(path: Path) -> None:
    rotated = CliRunner().invoke(app, ["rotate"])
    listed = CliRunner().invoke(app, ["list"])
    assert (rotated.exit_code, listed.exit_code) == (0, 0)
    ids = [identity.hex() for identity in read_keys(path).by_id]
    assert ids[0] in rotated.output
    assert [line.split() for line in listed.output.splitlines()] == [
        [ids[0], "seals", "and", "opens"],
        [ids[1], "opens"],
    ]
    assert not any(key.hex() in rotated.output + listed.output for key in read_keys(path).by_id.values())


def test_keys_of_the_variable_are_not_rotated_in_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_text()
    monkeypatch.setenv("SECRETS_KEYS", "22" * 32)
    answer = CliRunner().invoke(app, ["rotate"])
    assert (answer.exit_code, "SECRETS_KEYS is set" in answer.output) == (1, True)
    assert path.read_text() == before


def test_a_missing_file_is_one_sentence(path: Path) -> None:
    path.unlink()
    for command in ("rotate", "list"):
        answer = CliRunner().invoke(app, [command])
        assert (answer.exit_code, "is not there" in answer.output) == (1, True)
