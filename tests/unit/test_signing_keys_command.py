"""`./mymacro keys`."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.local.cli import app
from services.auth.signing import SigningKeys
from shared.keys import generate_key_files, load_private_jwk


def test_a_key_is_added_listed_and_never_shown(tmp_path: Path) -> None:
    generate_key_files(tmp_path)
    first = tmp_path / "auth.jwk"
    environment = {"AUTH_SIGNING_KEY_PATH": str(first)}
    rotated = CliRunner().invoke(app, ["keys", "rotate"], env=environment)
    assert rotated.exit_code == 0, rotated.output
    (added,) = tmp_path.glob("auth-*.jwk")
    listed = CliRunner().invoke(app, ["keys", "list"], env=environment)
    assert listed.output.split() == [load_private_jwk(first).kid, "signs", load_private_jwk(added).kid, "published"]
    secret = load_private_jwk(added).as_dict(private=True)["d"]
    assert secret not in rotated.output + listed.output
    assert SigningKeys(first).signing(datetime.now(UTC)).kid == load_private_jwk(first).kid


@pytest.mark.parametrize("command", ["rotate", "list"])
def test_without_a_first_key_it_says_so(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, ["keys", command], env={"AUTH_SIGNING_KEY_PATH": str(tmp_path / "auth.jwk")})
    assert done.exit_code == 1
    assert "auth.jwk" in done.output
    assert list(tmp_path.iterdir()) == []
