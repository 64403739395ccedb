"""A name server that answers a public address first and 127.0.0.1 next, asked over UDP by the system's own resolver."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.environment import ROOT
from services.webhooks.egress import NO_ADDRESS
from tests.service.webhook_rebinding import INSIDE, PUBLIC

UNSHARE = shutil.which("unshare")
# A network without a way out, in which the public address and port 53 are ours and the resolver asks there.
ALONE = ("--user", "--map-root-user", "--mount", "--net", "--", "sh", "-euc")
SET_UP = """
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
ip link set lo up
ip address add "$2/32" dev lo
shift 2
exec "$@"
"""


def alone(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the command in that network."""
    return subprocess.run(
        [str(UNSHARE), *ALONE, SET_UP, "sh", str(folder), PUBLIC, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "resolv.conf").write_text(f"nameserver {INSIDE}\noptions timeout:5 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    if UNSHARE is None:
        pytest.skip("unshare is not on this machine: apt-get install util-linux")
    tried = alone(tmp_path, "true")
    if tried.returncode:
        pytest.skip(f"this machine gives no network of one's own: {tried.stderr.strip()}")
    return tmp_path


def test_a_name_that_was_public_and_is_not_any_more_gets_no_connection(folder: Path):
    ran = alone(folder, sys.executable, "-m", "tests.service.webhook_rebinding")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    # Looked up for the check and for each of three connections.
    assert told["asked"] == 4
    assert told["outcomes"] == ["204", NO_ADDRESS, "204"]
    # The connection inside is the one that was allowed.
    assert told["reached"] == {PUBLIC: 1, INSIDE: 1}
